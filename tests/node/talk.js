// One conversation with an MCP server, in the library a test names. In: one JSON object on stdin,
//
//   { library: "sdk" | "client", era: "legacy" | "modern", url, headers, steps: [{ method, params }] }
//
// out: one JSON object on stdout, { protocolVersion, server, answers: [result or { error: { code, message, data } }] }. A server
// that cannot be connected to ends the process with exit code 1 and one line on stderr.
import { text } from "node:stream/consumers";

const MODERN = "2026-07-28";
const { library, era, url, headers, steps } = JSON.parse(await text(process.stdin));

async function connected() {
  const who = { name: `smcp-tests-${library}`, version: "1.0.0" };
  if (library === "sdk") {
    const { Client } = await import("@modelcontextprotocol/sdk/client/index.js");
    const { StreamableHTTPClientTransport } = await import("@modelcontextprotocol/sdk/client/streamableHttp.js");
    const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
    const client = new Client(who);
    await client.connect(transport);
    return { client, protocolVersion: transport.protocolVersion };
  }
  const { Client, StreamableHTTPClientTransport } = await import("@modelcontextprotocol/client");
  const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
  const client = new Client(who, { versionNegotiation: { mode: era === "modern" ? { pin: MODERN } : "legacy" } });
  await client.connect(transport);
  return { client, protocolVersion: client.getNegotiatedProtocolVersion() };
}

const METHODS = {
  "tools/list": (client) => client.listTools(),
  "tools/call": (client, params) => client.callTool(params),
  "resources/list": (client) => client.listResources(),
  "resources/read": (client, params) => client.readResource(params),
};

async function answerTo(client, { method, params }) {
  try {
    return await METHODS[method](client, params);
  } catch (error) {
    return { error: { code: error.code, message: error.message, data: error.data } };
  }
}

try {
  const { client, protocolVersion } = await connected();
  const answers = [];
  for (const step of steps) answers.push(await answerTo(client, step));
  process.stdout.write(JSON.stringify({ protocolVersion, server: client.getServerVersion(), answers }));
  await client.close();
} catch (error) {
  process.stderr.write(`${error.name}: ${error.message}\n`);
  process.exitCode = 1;
}
