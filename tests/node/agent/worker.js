// What tenants wrote before: `McpAgent` of Cloudflare's `agents`, a Durable Object for every legacy session.
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { CfWorkerJsonSchemaValidator } from "@modelcontextprotocol/sdk/validation/cfworker";
import { McpAgent } from "agents/mcp";
import * as z from "zod";

const text = (told) => ({ content: [{ type: "text", text: told }] });
const pause = () => new Promise((resolve) => setTimeout(resolve, 20)); // clients forget progress that comes with the answer
const question = { type: "object", properties: { name: { type: "string" } }, required: ["name"] };

export class Agent extends McpAgent {
  // The SDK's usual validator makes code out of schemas, which no Worker may.
  server = new McpServer({ name: "agent", version: "1.0.0" }, { jsonSchemaValidator: new CfWorkerJsonSchemaValidator() });

  async init() {
    const numbers = { a: z.number(), b: z.number() };
    this.server.registerTool("add", { description: "Adds", inputSchema: numbers }, async ({ a, b }) => text(`${a + b}`));
    const count = { description: "Counts, telling how far it is", inputSchema: { to: z.number() } };
    this.server.registerTool("count", count, async ({ to }, { _meta, sendNotification }) => {
      const progressToken = _meta?.progressToken;
      for (let progress = 1; progress <= to && progressToken !== undefined; progress++) {
        await sendNotification({ method: "notifications/progress", params: { progressToken, progress, total: to } });
        await pause();
      }
      return text(`counted to ${to}`);
    });
    this.server.registerTool("ask", { description: "Asks for a name", inputSchema: {} }, async (_args, { requestId }) => {
      const asked = { message: "Who are you?", requestedSchema: question };
      const { content } = await this.server.server.elicitInput(asked, { relatedRequestId: requestId });
      return text(`Hello, ${content.name}!`);
    });
  }
}

export default Agent.serve("/mcp", { binding: "AGENT" });
