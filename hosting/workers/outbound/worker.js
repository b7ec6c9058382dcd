// The outbound Worker: every fetch() a tenant's Worker makes passes here, and only what its allow-list names goes on.
//
// The dispatcher hands the list over with each dispatch, as the outbound parameter `policy`:
//
//   { tenant, allow: ["api.example.com:443", …] }     host:port exactly as listed; no wildcards, no implied ports
//
// No policy, or one that is not of this shape, allows nothing. While an outbound Worker is set, Cloudflare refuses connect()
// to tenants' Workers, so fetch() is all there is to guard; fetches made inside Durable Objects do not come by here.
// https://developers.cloudflare.com/cloudflare-for-platforms/workers-for-platforms/configuration/outbound-workers/

const DEFAULT_PORTS = { "http:": "80", "https:": "443" };

export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    const target = targetOf(url);
    if (!target || !isAllowed(target, env.policy)) {
      console.warn(JSON.stringify({ event: "egress.refused", tenant: String(env.policy?.tenant ?? ""), target }));
      return refusal(target ?? url.protocol);
    }
    // A redirect goes back to the tenant's runtime, which follows it with a fetch that passes here again. Following it here
    // would let an allowed host lead anywhere.
    return fetch(request, { redirect: "manual" });
  },
};

/** `host:port` of a URL, or null if it is not HTTP. */
function targetOf(url) {
  const defaultPort = DEFAULT_PORTS[url.protocol];
  if (!defaultPort) return null;
  // A trailing dot names the same host and must not make it a different one.
  return `${url.hostname.replace(/\.$/, "")}:${url.port || defaultPort}`;
}

function isAllowed(target, policy) {
  const allow = policy?.allow;
  return Array.isArray(allow) && allow.some((entry) => typeof entry === "string" && entry.toLowerCase() === target);
}

function refusal(target) {
  const message = `This server may not reach ${target}: it is not on the Environment's egress allow-list.`;
  return Response.json({ error: "egress-refused", message }, { status: 403 });
}
