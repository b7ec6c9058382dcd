// The Worker: MCP at /mcp, a liveness answer at /health, nothing else.
//
// Every request builds its own McpServer, so nothing is shared between callers and any isolate can answer any request. The
// SDK's handler serves both eras from it: 2026-07-28, and the handshake revisions without sessions (GET and DELETE are 405).
// Who may call, which Origin may call and how often is decided in front of this Worker.

let handler; // env never changes within an isolate

// The SDK builds some hundred schemas when its module is first evaluated, about 40 ms of CPU. Importing it here rather than at
// the top keeps that out of the Worker's start (9 ms), out of the check of an upload, and out of /health.
async function createHandler(env) {
  const { createMcpHandler } = await import("@modelcontextprotocol/server");
  const { createServer } = await import("./server.js");
  return createMcpHandler(() => createServer(env), {
    onerror: (error) => console.error(JSON.stringify({ event: "mcp.request.failed", error: error.message })),
  });
}

export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    if (pathname === "/mcp") {
      handler ??= await createHandler(env);
      return handler.fetch(request);
    }
    if (pathname === "/health" && (request.method === "GET" || request.method === "HEAD")) {
      return Response.json({ status: "ok" });
    }
    return Response.json({ error: "not found: this server speaks MCP at /mcp" }, { status: 404 });
  },
};
