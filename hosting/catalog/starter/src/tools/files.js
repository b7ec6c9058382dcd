// files_put, files_get: files in R2, as text or base64.
import * as z from "zod/v4";
import { LIMITS } from "../about.js";
import { answer, binding, byteLength, failure } from "../answers.js";

const name = z
  .string()
  .min(1)
  .refine((text) => byteLength(text) <= LIMITS.file_name_bytes, `must be at most ${LIMITS.file_name_bytes} bytes`)
  .describe(`Name of the file, slashes allowed, at most ${LIMITS.file_name_bytes} bytes`);

const encoding = z.enum(["utf-8", "base64"]);
const mediaType = z.string().regex(/^[\w.+-]+\/[\w.+-]+(; ?[\w-]+=[\w.-]+)*$/, "must be a media type such as text/plain").max(200);

export function registerFiles(server, env) {
  server.registerTool(
    "files_put",
    {
      title: "Write a file",
      description: "Store a file; one already there under that name is replaced.",
      inputSchema: z.object({
        name,
        content: z.string().describe(`The content, at most ${LIMITS.file_bytes} bytes once decoded`),
        encoding: encoding.default("utf-8").describe("How the content is written here"),
        content_type: mediaType.default("text/plain; charset=utf-8").describe("Media type kept with the file"),
      }),
      outputSchema: z.object({ name: z.string(), bytes: z.number().int(), etag: z.string() }),
      annotations: { destructiveHint: true, idempotentHint: true, openWorldHint: false },
    },
    async ({ name, content, encoding, content_type }) => {
      const { store, refusal } = binding(env, "FILES");
      if (refusal) return refusal;
      const bytes = decode(content, encoding);
      if (!bytes) return failure("The content is not valid base64.");
      if (bytes.length > LIMITS.file_bytes) return failure(`A file may have at most ${LIMITS.file_bytes} bytes.`);
      const stored = await store.put(name, bytes, { httpMetadata: { contentType: content_type } });
      return answer({ name, bytes: bytes.length, etag: stored.etag }, `Stored "${name}" (${bytes.length} bytes).`);
    },
  );

  server.registerTool(
    "files_get",
    {
      title: "Read a file",
      description: "Return a file: as text if its bytes are UTF-8, otherwise as base64.",
      inputSchema: z.object({ name }),
      outputSchema: z.object({
        name: z.string(),
        bytes: z.number().int(),
        content_type: z.string(),
        encoding,
        content: z.string(),
      }),
      annotations: { readOnlyHint: true, idempotentHint: true, openWorldHint: false },
    },
    async ({ name }) => {
      const { store, refusal } = binding(env, "FILES");
      if (refusal) return refusal;
      const object = await store.get(name);
      if (object === null) return failure(`There is no file "${name}".`);
      // Something else may have put a far larger object into the bucket; an isolate has 128 MB.
      if (object.size > LIMITS.file_bytes) return failure(`"${name}" has ${object.size} bytes, more than this tool returns.`);
      const read = encode(new Uint8Array(await object.arrayBuffer()));
      const content_type = object.httpMetadata?.contentType ?? "application/octet-stream";
      return answer({ name, bytes: object.size, content_type, ...read }, read.content);
    },
  );
}

function decode(content, encoding) {
  if (encoding === "utf-8") return new TextEncoder().encode(content);
  try {
    return Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
  } catch {
    return undefined;
  }
}

function encode(bytes) {
  try {
    return { encoding: "utf-8", content: new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes) };
  } catch {
    let binary = "";
    // In slices: String.fromCharCode(...bytes) overflows the stack on large files.
    for (let at = 0; at < bytes.length; at += 8192) binary += String.fromCharCode(...bytes.subarray(at, at + 8192));
    return { encoding: "base64", content: btoa(binary) };
  }
}
