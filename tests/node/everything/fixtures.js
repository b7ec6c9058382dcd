// The everything server: every tool, prompt and resource the conformance suite asks for by name, and a few that our own tests
// ask for. A handler that needs its user returns `inputRequired` and is called again with the answers: on a modern request the
// client brings them, on a legacy session the SDK asks the client itself and waits.
import {
  CLIENT_CAPABILITIES_META_KEY,
  McpServer,
  ResourceTemplate,
  acceptedContent,
  completable,
  createRequestStateCodec,
  fromJsonSchema,
  inputRequired,
  inputResponse,
} from "@modelcontextprotocol/server";
import * as z from "zod";

const PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==";
const SILENCE = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=";
const WATCHED = "test://watched-resource";
const WORDS = ["paris", "park", "party"];
const PAUSE_MS = 50;

// A fixed key: what one instance of the server sealed, the next one opens.
const states = createRequestStateCodec({ key: new Uint8Array(32).fill(7) });

const text = (told) => ({ content: [{ type: "text", text: told }] });
const image = { type: "image", data: PIXEL, mimeType: "image/png" };
const says = (content) => ({ role: "user", content });
const embedded = (uri, told, mimeType = "text/plain") => ({ type: "resource", resource: { uri, mimeType, text: told } });
const pause = () => new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
const form = (message, properties, required = Object.keys(properties)) =>
  inputRequired.elicit({ message, requestedSchema: { type: "object", properties, required } });
const sampling = (prompt, maxTokens = 100) =>
  inputRequired.createMessage({ messages: [says({ type: "text", text: prompt })], maxTokens });
const nameForm = () => form("What is your name?", { name: { type: "string" } });

/**
 * One server, for one session or one modern request. `era` is the one it serves; `hub` is where changes are announced to every
 * session and every listening stream: `{ toolsChanged(), promptsChanged(), resourcesChanged(), resourceUpdated(uri) }`, and
 * `watch(uri, server)`, `unwatch(uri, server)` for legacy subscriptions; `held` counts calls of test_hold.
 */
export function createEverything(era, hub) {
  const server = new McpServer(
    { name: "everything", version: "1.0.0" },
    {
      capabilities: {
        tools: { listChanged: true },
        prompts: { listChanged: true },
        resources: { listChanged: true, subscribe: true },
        logging: {},
        completions: {},
      },
      instructions: "Everything the conformance suite asks for.",
      requestState: { verify: states.verify },
    },
  );
  registerContent(server);
  registerProgress(server, hub);
  registerQuestions(server, era);
  registerRounds(server);
  registerSchemas(server);
  registerTriggers(server, hub);
  registerResources(server);
  registerPrompts(server);
  if (era === "legacy") {
    server.server.setRequestHandler("resources/subscribe", async ({ params }) => (hub.watch(params.uri, server), {}));
    server.server.setRequestHandler("resources/unsubscribe", async ({ params }) => (hub.unwatch(params.uri, server), {}));
  }
  return server;
}

function tool(server, name, description, handler, inputSchema = z.object({})) {
  server.registerTool(name, { description, inputSchema }, handler);
}

function registerContent(server) {
  const mixed = embedded("test://mixed-content-resource", JSON.stringify({ test: "data", value: 123 }), "application/json");
  const answers = {
    test_simple_text: text("This is a simple text response for testing."),
    test_image_content: { content: [image] },
    test_audio_content: { content: [{ type: "audio", data: SILENCE, mimeType: "audio/wav" }] },
    test_embedded_resource: { content: [embedded("test://embedded-resource", "This is an embedded resource content.")] },
    test_multiple_content_types: { content: [{ type: "text", text: "Multiple content types test:" }, image, mixed] },
    test_streaming_elicitation: text("Nobody was asked anything."),
  };
  for (const [name, answer] of Object.entries(answers)) tool(server, name, `Answers with ${name}`, async () => answer);
  tool(server, "test_error_handling", "Fails", async () => {
    throw new Error("This tool intentionally returns an error for testing");
  });
}

function registerProgress(server, hub) {
  tool(server, "test_tool_with_progress", "Reports 0, 50 and 100 of 100", async (_args, { mcpReq }) => {
    const progressToken = mcpReq._meta?.progressToken;
    for (const progress of progressToken === undefined ? [] : [0, 50, 100]) {
      await mcpReq.notify({ method: "notifications/progress", params: { progressToken, progress, total: 100 } });
      await pause();
    }
    return text(`progress told to ${progressToken ?? "nobody"}`);
  });
  tool(server, "test_tool_with_logging", "Logs three times", async (_args, { mcpReq }) => {
    for (const told of ["started", "under way", "over"]) {
      await mcpReq.log("info", told);
      await pause();
    }
    return text("logged");
  });
  tool(server, "test_logging_tool", "Logs once, to those who asked for it", async (_args, { mcpReq }) => {
    await mcpReq.log("info", "logged");
    return text("logged");
  });
  const seconds = z.object({ seconds: z.number() });
  tool(
    server,
    "test_hold",
    "Takes so many seconds, and reports each",
    async (args, { mcpReq }) => {
      hub.held.started += 1;
      mcpReq.signal.addEventListener("abort", () => (hub.held.cancelled += 1));
      const progressToken = mcpReq._meta?.progressToken;
      for (let progress = 1; progress <= args.seconds && !mcpReq.signal.aborted; progress++) {
        await new Promise((resolve) => setTimeout(resolve, 1000));
        if (progressToken === undefined) continue;
        await mcpReq.notify({ method: "notifications/progress", params: { progressToken, progress, total: args.seconds } });
      }
      return text("held");
    },
    seconds,
  );
  tool(server, "test_held", "How many calls of test_hold there were, and were cancelled", async () => text(JSON.stringify(hub.held)));
  tool(server, "test_reconnection", "Closes its stream in the middle of the call", async (_args, { http }) => {
    http?.closeSSE?.();
    await pause();
    return text("told after the stream was closed");
  });
}

// What the client answers comes back as text, so that a test sees it arrive.
function registerQuestions(server, era) {
  const asking = (name, question, describe, inputSchema) =>
    tool(
      server,
      name,
      `Asks, then tells what it heard: ${name}`,
      async (args, { mcpReq }) => {
        const heard = inputResponse(mcpReq.inputResponses, "asked");
        if (heard.kind === "missing") return inputRequired({ inputRequests: { asked: question(args) } });
        return text(describe(heard));
      },
      inputSchema,
    );
  const outcome = (opening) => (heard) => `${opening}: action=${heard.action}, content=${JSON.stringify(heard.content ?? {})}`;
  const said = ({ result }) => `LLM response: ${result.content?.text ?? JSON.stringify(result.content)}`;
  const two = { username: { type: "string", description: "User's response" }, email: { type: "string", description: "User's email address" } };

  asking("test_sampling", ({ prompt }) => sampling(prompt), said, z.object({ prompt: z.string() }));
  asking("test_elicitation", ({ message }) => form(message, two), outcome("User response"), z.object({ message: z.string() }));
  const completed = outcome("Elicitation completed");
  asking("test_elicitation_sep1034_defaults", () => form("Please review the defaults", DEFAULTS, []), completed);
  asking("test_elicitation_sep1330_enums", () => form("Please select", ENUMS, []), completed);

  tool(server, "test_missing_capability", "Asks for sampling, whether or not the client can", async (_args, { mcpReq }) => {
    const question = sampling("Say pong", 16);
    if (era === "legacy") return text(JSON.stringify(await mcpReq.send(question)));
    const heard = inputResponse(mcpReq.inputResponses, "asked");
    return heard.kind === "missing" ? inputRequired({ inputRequests: { asked: question } }) : text("answered");
  });
}

const DEFAULTS = {
  name: { type: "string", default: "John Doe" },
  age: { type: "integer", default: 30 },
  score: { type: "number", default: 95.5 },
  status: { type: "string", enum: ["active", "inactive", "pending"], default: "active" },
  verified: { type: "boolean", default: true },
};
const options = ["option1", "option2", "option3"];
const titled = ["value1", "value2", "value3"].map((value, at) => ({ const: value, title: `Choice ${at + 1}` }));
const ENUMS = {
  untitledSingle: { type: "string", enum: options },
  titledSingle: { type: "string", oneOf: titled },
  legacyEnum: { type: "string", enum: ["opt1", "opt2", "opt3"], enumNames: ["One", "Two", "Three"] },
  untitledMulti: { type: "array", minItems: 1, maxItems: 3, items: { type: "string", enum: options } },
  titledMulti: { type: "array", minItems: 1, maxItems: 3, items: { anyOf: titled } },
};

function registerRounds(server) {
  const rounds = (name, handler) =>
    tool(server, `test_input_required_result_${name}`, `Asks before it answers: ${name}`, (_args, { mcpReq }) =>
      handler(mcpReq.inputResponses, mcpReq),
    );
  const sealed = (payload) => states.mint({ ...payload, nonce: crypto.randomUUID() });

  rounds("elicitation", (heard) => {
    const name = acceptedContent(heard, "user_name", z.object({ name: z.string() }))?.name;
    return name === undefined ? inputRequired({ inputRequests: { user_name: nameForm() } }) : text(`Hello, ${name}!`);
  });
  rounds("sampling", (heard) => {
    const told = inputResponse(heard, "capital_question");
    if (told.kind === "sampling") return text(`It says: ${told.result.content.text}`);
    return inputRequired({ inputRequests: { capital_question: sampling("What is the capital of France?") } });
  });
  rounds("list_roots", (heard) => {
    const told = inputResponse(heard, "client_roots");
    if (told.kind === "roots") return text(`Roots: ${told.roots.map(({ uri }) => uri).join(", ")}`);
    return inputRequired({ inputRequests: { client_roots: inputRequired.listRoots() } });
  });
  for (const [name, opening] of [["request_state", "state-ok"], ["tampered_state", "integrity-ok"]]) {
    rounds(name, async (heard, { requestState }) => {
      if (acceptedContent(heard, "confirm") && requestState()) return text(`${opening}: the state came back as it was`);
      const confirm = form("Please confirm", { ok: { type: "boolean" } });
      return inputRequired({ inputRequests: { confirm }, requestState: await sealed({ name }) });
    });
  }
  rounds("multiple_inputs", async (heard) => {
    const name = acceptedContent(heard, "user_name")?.name;
    const [greeting, roots] = [inputResponse(heard, "greeting"), inputResponse(heard, "client_roots")];
    if (name && greeting.kind === "sampling" && roots.kind === "roots") {
      return text(`${greeting.result.content.text} ${name}, of ${roots.roots.length} root(s)`);
    }
    const inputRequests = { user_name: nameForm(), greeting: sampling("Generate a greeting", 50), client_roots: inputRequired.listRoots() };
    return inputRequired({ inputRequests, requestState: await sealed({ name: "multiple_inputs" }) });
  });
  rounds("multi_round", async (heard, { requestState }) => {
    const { round = 0, name } = requestState() ?? {};
    if (round === 0) {
      return inputRequired({ inputRequests: { step1: nameForm() }, requestState: await sealed({ round: 1 }) });
    }
    if (round === 1) {
      const step2 = form("What is your favorite color?", { color: { type: "string" } });
      const state = { round: 2, name: acceptedContent(heard, "step1")?.name };
      return inputRequired({ inputRequests: { step2 }, requestState: await sealed(state) });
    }
    return text(`${name} likes ${acceptedContent(heard, "step2")?.color}`);
  });
  rounds("capabilities", (heard, { envelope }) => {
    if (heard !== undefined) return text("answered");
    const declared = envelope?.[CLIENT_CAPABILITIES_META_KEY] ?? server.server.getClientCapabilities() ?? {};
    const inputRequests = {
      ...(declared.elicitation && { user_name: nameForm() }),
      ...(declared.sampling && { greeting: sampling("Generate a greeting", 50) }),
      ...(declared.roots && { client_roots: inputRequired.listRoots() }),
    };
    return Object.keys(inputRequests).length ? inputRequired({ inputRequests }) : text("The client can be asked nothing.");
  });
}

function registerSchemas(server) {
  const raw = (name, schema, answer) => tool(server, name, `Has a schema of its own: ${name}`, answer, fromJsonSchema(schema));
  const region = { type: "string", "x-mcp-header": "Region" };
  raw("test_x_mcp_header", { type: "object", properties: { region, level: { type: "integer" } } }, async (args) =>
    text(`region=${args.region ?? "<none>"}`),
  );
  raw(
    "json_schema_2020_12_tool",
    {
      $schema: "https://json-schema.org/draft/2020-12/schema",
      type: "object",
      $defs: {
        address: { $anchor: "addressDef", type: "object", properties: { street: { type: "string" }, city: { type: "string" } } },
      },
      properties: {
        name: { type: "string" },
        address: { $ref: "#/$defs/address" },
        contactMethod: { type: "string", enum: ["phone", "email"] },
        phone: { type: "string" },
        email: { type: "string" },
      },
      allOf: [{ anyOf: [{ required: ["phone"] }, { required: ["email"] }] }],
      if: { properties: { contactMethod: { const: "phone" } }, required: ["contactMethod"] },
      then: { required: ["phone"] },
      else: { required: ["email"] },
      additionalProperties: false,
    },
    async (args) => text(JSON.stringify(args)),
  );
}

function registerTriggers(server, hub) {
  const triggers = {
    test_trigger_tool_change: () => hub.toolsChanged(),
    test_trigger_prompt_change: () => hub.promptsChanged(),
    test_trigger_resource_change: () => hub.resourcesChanged(),
    test_trigger_resource_update: () => hub.resourceUpdated(WATCHED),
  };
  for (const [name, trigger] of Object.entries(triggers)) {
    tool(server, name, `Announces a change: ${name}`, async () => {
      await trigger();
      return text("announced");
    });
  }
}

function registerResources(server) {
  const fixed = (uri, mimeType, contents) =>
    server.registerResource(uri.slice("test://".length), uri, { description: `Fixed: ${uri}`, mimeType }, async () => ({
      contents: [{ uri, mimeType, ...contents }],
    }));
  fixed("test://static-text", "text/plain", { text: "This is the content of the static text resource." });
  fixed("test://static-binary", "image/png", { blob: PIXEL });
  fixed(WATCHED, "text/plain", { text: "Watched." });
  const template = new ResourceTemplate("test://template/{id}/data", { list: undefined });
  const described = { description: "Whatever id it is asked for", mimeType: "application/json" };
  server.registerResource("template", template, described, async (uri, { id }) => {
    const told = JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` });
    return { contents: [{ uri: uri.href, mimeType: "application/json", text: told }] };
  });
}

function registerPrompts(server) {
  const prompt = (name, answer, argsSchema) =>
    server.registerPrompt(name, { description: `Prompts with ${name}`, ...(argsSchema && { argsSchema }) }, answer);
  const line = (told) => says({ type: "text", text: told });

  prompt("test_simple_prompt", async () => ({ messages: [line("This is a simple prompt for testing.")] }));
  const completed = completable(z.string(), (begun) => WORDS.filter((word) => word.startsWith(begun)));
  prompt(
    "test_prompt_with_arguments",
    async ({ arg1, arg2 }) => ({ messages: [line(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`)] }),
    z.object({ arg1: completed, arg2: z.string() }),
  );
  prompt(
    "test_prompt_with_embedded_resource",
    async ({ resourceUri }) => ({
      messages: [says(embedded(resourceUri, "Embedded resource content for testing.")), line("Please process it.")],
    }),
    z.object({ resourceUri: z.string() }),
  );
  prompt("test_prompt_with_image", async () => ({ messages: [says(image), line("Please analyze the image above.")] }));
  prompt("test_input_required_result_prompt", async ({ mcpReq }) => {
    const context = acceptedContent(mcpReq.inputResponses, "user_context")?.context;
    if (context !== undefined) return { messages: [line(`Use the following context: ${context}`)] };
    const user_context = form("What context should the prompt use?", { context: { type: "string" } });
    return inputRequired({ inputRequests: { user_context } });
  });
}
