// A small MCP server for the journeys: tells where it runs, keeps things in its storage, and streams for as long as asked.
import { DurableObject } from "cloudflare:workers";

export class Counter extends DurableObject {
  async fetch() {
    const count = ((await this.ctx.storage.get("count")) ?? 0) + 1;
    await this.ctx.storage.put("count", count);
    return new Response(String(count));
  }
}

const tools = ["put", "get", "reach", "count", "bindings", "stream"].map((name) => ({
  name,
  description: name,
  inputSchema: { type: "object" },
}));

async function call(env, name, args) {
  switch (name) {
    case "put":
      await env.NOTES.put(args.key, args.value);
      await env.FILES.put(args.key, args.value);
      await env.ROWS.exec("CREATE TABLE IF NOT EXISTS t (k TEXT PRIMARY KEY, v TEXT)");
      await env.ROWS.prepare("INSERT OR REPLACE INTO t VALUES (?, ?)").bind(args.key, args.value).run();
      return "kept";
    case "get": {
      await env.ROWS.exec("CREATE TABLE IF NOT EXISTS t (k TEXT PRIMARY KEY, v TEXT)");
      const file = await env.FILES.get(args.key);
      const row = await env.ROWS.prepare("SELECT v FROM t WHERE k = ?").bind(args.key).first();
      return JSON.stringify([await env.NOTES.get(args.key), file && (await file.text()), row && row.v]);
    }
    case "reach": {
      // What a hostile Worker would try: other names, forged headers, the machine it runs on.
      const answer = await fetch(args.url, { headers: args.headers ?? {} });
      return `${answer.status} ${(await answer.text()).slice(0, 200)}`;
    }
    case "count": {
      const stub = env.COUNTER.get(env.COUNTER.idFromName("one"));
      return await (await stub.fetch("http://counter/")).text();
    }
    case "bindings":
      return JSON.stringify(Object.keys(env).sort());
    default:
      throw new Error("unknown tool");
  }
}

function stream(id, seconds) {
  const encoder = new TextEncoder();
  const send = (message) => encoder.encode(`event: message\ndata: ${JSON.stringify(message)}\n\n`);
  const body = new ReadableStream({
    async start(controller) {
      for (let n = 0; n < seconds * 10; n++) {
        controller.enqueue(send({ jsonrpc: "2.0", method: "notifications/message", params: { level: "info", data: n } }));
        await scheduler.wait(100);
      }
      controller.enqueue(send({ jsonrpc: "2.0", id, result: { content: [{ type: "text", text: "ended" }] } }));
      controller.close();
    },
  });
  return new Response(body, { headers: { "content-type": "text/event-stream" } });
}

export default {
  async fetch(request, env) {
    if (new URL(request.url).pathname !== "/mcp") return new Response("not found", { status: 404 });
    if (request.method !== "POST") return new Response(null, { status: 405 });
    const { id, method, params } = await request.json();
    const answer = (result) => Response.json({ jsonrpc: "2.0", id, result });
    switch (method) {
      case "initialize":
        return answer({
          protocolVersion: params.protocolVersion,
          capabilities: { tools: {} },
          serverInfo: { name: "journey", version: env.EDITION ?? "1" },
        });
      case "notifications/initialized":
        return new Response(null, { status: 202 });
      case "ping":
        return answer({});
      case "tools/list":
        return answer({ tools });
      case "tools/call":
        if (params.name === "stream") return stream(id, params.arguments.seconds);
        try {
          const text = await call(env, params.name, params.arguments ?? {});
          return answer({ content: [{ type: "text", text }] });
        } catch (error) {
          return answer({ content: [{ type: "text", text: String(error) }], isError: true });
        }
      default:
        return Response.json({ jsonrpc: "2.0", id, error: { code: -32601, message: "Method not found" } });
    }
  },
};
