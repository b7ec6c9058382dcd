// Passes a request on to the script named in `x-to`; says what it saw thrown.
export default {
  async fetch(request, env) {
    const cpu = Number(request.headers.get("x-cpu") ?? 0);
    const stub = env.DISPATCHER.get(request.headers.get("x-to") ?? "", {}, {
      limits: cpu ? { cpuMs: cpu } : undefined,
      outbound: { tenant: "t" },
    });
    try {
      return await stub.fetch(request);
    } catch (error) {
      return new Response(error.message, { status: 502, headers: { "x-thrown": "1" } });
    }
  },
};
