// What tenants write today: `createMcpHandler` of Cloudflare's `agents`, stateless, both eras; legacy clients get no session.
import { McpServer, acceptedContent, inputRequired } from "@modelcontextprotocol/server";
import { createMcpHandler } from "agents/mcp/server";
import * as z from "zod";

const text = (told) => ({ content: [{ type: "text", text: told }] });
const pause = () => new Promise((resolve) => setTimeout(resolve, 20)); // clients forget progress that comes with the answer
const question = { type: "object", properties: { name: { type: "string" } }, required: ["name"] };

function createServer() {
  const server = new McpServer({ name: "handler", version: "1.0.0" });
  const numbers = z.object({ a: z.number(), b: z.number() });
  server.registerTool("add", { description: "Adds", inputSchema: numbers }, async ({ a, b }) => text(`${a + b}`));
  const count = { description: "Counts, telling how far it is", inputSchema: z.object({ to: z.number() }) };
  server.registerTool("count", count, async ({ to }, { mcpReq }) => {
    const progressToken = mcpReq._meta?.progressToken;
    for (let progress = 1; progress <= to && progressToken !== undefined; progress++) {
      await mcpReq.notify({ method: "notifications/progress", params: { progressToken, progress, total: to } });
      await pause();
    }
    return text(`counted to ${to}`);
  });
  server.registerTool("ask", { description: "Asks for a name", inputSchema: z.object({}) }, async (_args, { mcpReq }) => {
    const heard = acceptedContent(mcpReq.inputResponses, "who");
    if (heard) return text(`Hello, ${heard.name}!`);
    return inputRequired({ inputRequests: { who: inputRequired.elicit({ message: "Who are you?", requestedSchema: question }) } });
  });
  return server;
}

const handler = createMcpHandler(createServer);
export default { fetch: (request, env, ctx) => handler(request, env, ctx) };
