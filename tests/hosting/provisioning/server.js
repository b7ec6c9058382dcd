// A small MCP server of both eras, with knobs: variables of the Environment make it slow, wrong or broken.
const MODERN = "2026-07-28";

// A space twice a second, for ever.
function trickle() {
  const { readable, writable } = new TransformStream();
  const writer = writable.getWriter();
  (async () => {
    for (;;) {
      await writer.write(new TextEncoder().encode(" "));
      await scheduler.wait(500);
    }
  })();
  return readable;
}

export default {
  async fetch(request, env) {
    if (env.SLOW_MS) {
      await env.NOTES?.put("asked", "yes"); // seen from outside while the answer is on its way
      await new Promise((resolve) => setTimeout(resolve, Number(env.SLOW_MS)));
    }
    if (env.THROWS) throw new Error("as told\n<b>once</b>");
    if (env.TRICKLES) return new Response(trickle(), { headers: { "content-type": "application/json" } });
    if (env.NO_MCP) return new Response("<h1>hello</h1>", { headers: { "content-type": "text/html" } });
    if (new URL(request.url).pathname !== "/mcp") return new Response("no", { status: 404 });
    if (request.method === "DELETE") return new Response(null, { status: 204 });
    const { id, method, params } = await request.json();
    const answer = (result, headers = {}) => Response.json({ jsonrpc: "2.0", id, result }, { headers });
    switch (method) {
      case "initialize":
        return answer(
          { protocolVersion: params.protocolVersion, capabilities: {}, serverInfo: { name: "t", version: "1" } },
          env.SESSIONS ? { "mcp-session-id": "s-1" } : {},
        );
      case "server/discover":
        if (env.LEGACY_ONLY) break;
        return answer({ resultType: "complete", supportedVersions: [MODERN], capabilities: {} });
      case "ping":
        return answer({});
      case "see":
        return answer({ secret: env.SECRET ?? null, mode: env.MODE ?? null, bindings: Object.keys(env).sort() });
      case "fill":
        for (let i = 0; i < params.count; i += 50) {
          const batch = Array.from({ length: Math.min(50, params.count - i) }, (_, n) => env.FILES.put(`${params.at}/${i + n}`, "x"));
          await Promise.all(batch);
        }
        return answer({});
    }
    return Response.json({ jsonrpc: "2.0", id, error: { code: -32601, message: "Method not found" } }, { status: 404 });
  },
};
