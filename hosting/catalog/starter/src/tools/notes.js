// notes_put, notes_get: short texts in Workers KV.
//
// KV is eventually consistent: a note written in one place may take up to a minute to be seen in another.
// https://developers.cloudflare.com/kv/concepts/how-kv-works/
import * as z from "zod/v4";
import { LIMITS } from "../about.js";
import { answer, binding, byteLength, failure } from "../answers.js";

const key = z
  .string()
  .min(1)
  .refine((text) => text !== "." && text !== "..", "must not be . or ..")
  .refine((text) => byteLength(text) <= LIMITS.note_key_bytes, `must be at most ${LIMITS.note_key_bytes} bytes`)
  .describe(`Name of the note, at most ${LIMITS.note_key_bytes} bytes`);

const value = z
  .string()
  .refine((text) => byteLength(text) <= LIMITS.note_value_bytes, `must be at most ${LIMITS.note_value_bytes} bytes`)
  .describe(`The text, at most ${LIMITS.note_value_bytes} bytes`);

const ttl = z.number().int().min(60).max(31536000).optional().describe("Forget the note after so many seconds (60 to one year)");

export function registerNotes(server, env) {
  server.registerTool(
    "notes_put",
    {
      title: "Write a note",
      description: "Store a short text under a key; a note already there is replaced.",
      inputSchema: z.object({ key, value, ttl_s: ttl }),
      outputSchema: z.object({ key: z.string(), bytes: z.number().int() }),
      annotations: { destructiveHint: true, idempotentHint: true, openWorldHint: false },
    },
    async ({ key, value, ttl_s }) => {
      const { store, refusal } = binding(env, "NOTES");
      if (refusal) return refusal;
      await store.put(key, value, ttl_s === undefined ? {} : { expirationTtl: ttl_s });
      return answer({ key, bytes: byteLength(value) }, `Stored the note "${key}".`);
    },
  );

  server.registerTool(
    "notes_get",
    {
      title: "Read a note",
      description: "Return the text stored under a key.",
      inputSchema: z.object({ key }),
      outputSchema: z.object({ key: z.string(), value: z.string() }),
      annotations: { readOnlyHint: true, idempotentHint: true, openWorldHint: false },
    },
    async ({ key }) => {
      const { store, refusal } = binding(env, "NOTES");
      if (refusal) return refusal;
      const value = await store.get(key);
      return value === null ? failure(`There is no note "${key}".`) : answer({ key, value }, value);
    },
  );
}
