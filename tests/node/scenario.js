// One client scenario of the conformance suite, done by a well-behaved client: `node scenario.js <endpoint>`. The suite names the
// scenario, the revision and what else there is to know in MCP_CONFORMANCE_*.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const [endpoint] = process.argv.slice(2);
const { MCP_CONFORMANCE_SCENARIO: scenario, MCP_CONFORMANCE_PROTOCOL_VERSION: revision } = process.env;
const { toolCalls = [] } = JSON.parse(process.env.MCP_CONFORMANCE_CONTEXT || "{}");
const MODERN = "2026-07-28";
const who = { name: "smcp-tests", version: "1.0.0" };

// Some of the suite's modern servers answer anything but server/discover, which a client may know from before.
const knownBefore = { supportedVersions: [MODERN], capabilities: { tools: {}, resources: {}, prompts: {} }, resultType: "complete" };
const fetchKnowing = async (input, init) => {
  const message = typeof init?.body === "string" ? JSON.parse(init.body) : {};
  if (message.method !== "server/discover") return fetch(input, init);
  const result = { ...knownBefore, ttlMs: 0, cacheScope: "private", _meta: { "io.modelcontextprotocol/serverInfo": who } };
  return Response.json({ jsonrpc: "2.0", id: message.id, result });
};

async function connect(capabilities = {}, options = {}) {
  const versionNegotiation = { mode: revision === MODERN ? "auto" : "legacy" };
  const client = new Client(who, { capabilities, versionNegotiation });
  await client.connect(new StreamableHTTPClientTransport(new URL(endpoint), options));
  return client;
}

const callEach = async (client, names, args = {}) => {
  for (const name of names) await client.callTool({ name, arguments: args }).catch(() => {}); // refusing one locally is fine
};

const SCENARIOS = {
  initialize: async () => (await connect()).listTools(),
  tools_call: async () => {
    const client = await connect();
    const { tools } = await client.listTools();
    await callEach(client, tools.map(({ name }) => name), { a: 5, b: 3 });
  },
  "elicitation-sep1034-client-defaults": async () => {
    const client = await connect({ elicitation: { form: { applyDefaults: true } } });
    client.setRequestHandler("elicitation/create", async () => ({ action: "accept", content: {} }));
    await client.listTools();
    await callEach(client, ["test_client_elicitation_defaults"]);
  },
  "sse-retry": async () => {
    const client = await connect();
    await client.listTools();
    await callEach(client, ["test_reconnection"]);
  },
  "request-metadata": async () => {
    const client = await connect({ roots: { listChanged: true }, sampling: {}, elicitation: {} });
    await client.listTools();
  },
  "sep-2322-client-request-state": async () => {
    const client = await connect({ elicitation: {} }, { fetch: fetchKnowing });
    client.setRequestHandler("elicitation/create", async () => ({ action: "accept", content: { confirmed: true } }));
    await callEach(client, ["echo_state", "no_state", "unrelated", "no_result_type"].map((name) => `test_mrtr_${name}`));
  },
  "http-standard-headers": async () => {
    const client = await connect({}, { fetch: fetchKnowing });
    const [tools, resources, prompts] = [await client.listTools(), await client.listResources(), await client.listPrompts()];
    await client.callTool({ name: tools.tools[0].name, arguments: {} });
    await client.readResource({ uri: resources.resources[0].uri });
    await client.getPrompt({ name: prompts.prompts[0].name, arguments: {} });
  },
  "http-custom-headers": async () => {
    const client = await connect({}, { fetch: fetchKnowing });
    await client.listTools();
    for (const call of toolCalls) await client.callTool(call);
  },
  "http-invalid-tool-headers": async () => {
    const client = await connect({}, { fetch: fetchKnowing });
    const { tools } = await client.listTools();
    await callEach(client, tools.map(({ name }) => name), { region: "us-west1" });
  },
  "json-schema-ref-no-deref": async () => (await connect({}, { fetch: fetchKnowing })).listTools(),
  "json-schema-2020-12-preservation": async () => {
    const client = await connect({}, { fetch: fetchKnowing });
    const { tools } = await client.listTools();
    const schema = tools.find(({ name }) => name === "json_schema_2020_12_tool").inputSchema;
    await client.callTool({ name: "json_schema_echo", arguments: { schema } });
  },
};

await SCENARIOS[scenario]();
process.exit(0);
