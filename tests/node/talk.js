// One conversation with an MCP server, in the library a test names. In: one JSON object on stdin,
//
//   { library: "sdk" | "client" | "remote", era: "legacy" | "modern" | "sse", url, headers, steps: [{ method, params }], answer }
//
// out: one JSON object on stdout, { protocolVersion, server, answers: [result or { error: { code, message, data } }], progress,
// asked }: what the server reported of its progress, and the messages it asked its user, who answers with the content `answer`.
// "remote" is the 1.x SDK over stdio, with `mcp-remote` between it and the server. A server that cannot be connected to ends the
// process with exit code 1 and one line on stderr.
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";

const MODERN = "2026-07-28";
const { library, era, url, headers, steps, answer } = JSON.parse(await text(process.stdin));
const who = { name: `smcp-tests-${library}`, version: "1.0.0" };
const capabilities = { elicitation: {} };
const progress = [];
const asked = [];
const onprogress = (told) => progress.push(told.progress);
const elicit = async ({ params }) => (asked.push(params.message), { action: "accept", content: answer });

async function transportOf() {
  if (library === "remote") {
    const { StdioClientTransport } = await import("@modelcontextprotocol/sdk/client/stdio.js");
    const proxy = fileURLToPath(import.meta.resolve("mcp-remote/dist/proxy.js"));
    const sent = Object.entries(headers).flatMap(([name, value]) => ["--header", `${name}:${value}`]);
    const args = [proxy, url, "--transport", "http-only", "--silent", ...sent];
    return new StdioClientTransport({ command: process.execPath, args, env: process.env, stderr: "inherit" });
  }
  if (era === "sse") {
    const { SSEClientTransport } = await import("@modelcontextprotocol/sdk/client/sse.js");
    return new SSEClientTransport(new URL(url), { requestInit: { headers } });
  }
  const { StreamableHTTPClientTransport } =
    library === "sdk"
      ? await import("@modelcontextprotocol/sdk/client/streamableHttp.js")
      : await import("@modelcontextprotocol/client");
  return new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
}

async function connected() {
  const transport = await transportOf();
  if (library !== "client") {
    const { Client } = await import("@modelcontextprotocol/sdk/client/index.js");
    const { ElicitRequestSchema } = await import("@modelcontextprotocol/sdk/types.js");
    const client = new Client(who, { capabilities });
    client.setRequestHandler(ElicitRequestSchema, elicit);
    await client.connect(transport);
    const call = (params) => client.callTool(params, undefined, { onprogress });
    return { client, call, protocolVersion: transport.protocolVersion };
  }
  const { Client } = await import("@modelcontextprotocol/client");
  const versionNegotiation = { mode: era === "modern" ? { pin: MODERN } : "legacy" };
  const client = new Client(who, { capabilities, versionNegotiation });
  client.setRequestHandler("elicitation/create", elicit);
  await client.connect(transport);
  const call = (params) => client.callTool(params, { onprogress });
  return { client, call, protocolVersion: client.getNegotiatedProtocolVersion() };
}

async function answerTo({ client, call }, { method, params }) {
  const methods = {
    "tools/list": () => client.listTools(),
    "tools/call": () => call(params),
    "resources/list": () => client.listResources(),
    "resources/read": () => client.readResource(params),
  };
  try {
    return await methods[method]();
  } catch (error) {
    return { error: { code: error.code, message: error.message, data: error.data } };
  }
}

try {
  const connection = await connected();
  const answers = [];
  for (const step of steps) answers.push(await answerTo(connection, step));
  const server = connection.client.getServerVersion();
  const told = { protocolVersion: connection.protocolVersion ?? "", server, answers, progress, asked };
  process.stdout.write(JSON.stringify(told));
  await connection.client.close();
} catch (error) {
  process.stderr.write(`${error.name}: ${error.message}\n`);
  process.exitCode = 1;
}
