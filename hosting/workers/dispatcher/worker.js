// The dispatcher: the only way from the outside into the tenants' Workers of one account.
//
// Every request must carry an assertion in `smcp-assertion`, signed by the platform, that names the one script it may reach:
//
//   v1.<kid>.<payload>.<signature>     payload and signature base64url; Ed25519 over everything before the last dot
//   payload  { aud, ten, wrk, iat, exp [, cpu_ms] [, egress] }     times in seconds, at most LIFE_S apart
//
// Without one the answer is 401, whatever the path or method: nothing is public here.
//
// Bindings: DISPATCHER (dispatch_namespace), PLATFORM_KEYS (json, {kid: base64url of the raw public key}), AUD (plain_text).
// Two keys in PLATFORM_KEYS is how keys rotate: first everybody accepts the new one, then the platform signs with it.
//
// What the platform answers itself, rather than the tenant's Worker, carries `smcp-dispatch-error`:
//
//   401 unauthorized   no assertion, or not a valid one
//   404 not-found      the script does not exist
//   502 exception      the tenant's Worker threw before it answered
//   503 limits         the tenant's Worker ran into its CPU or memory limit
//
// With `exception` comes `smcp-dispatch-message`, the exception's message, bounded and percent-encoded: the control plane shows it to
// the tenant whose code it is. The gateway gives it to nobody.
//
// It holds no state but two caches. If it is evicted or replaced half-way, running requests finish on the old isolate.

const LIFE_S = 60; // of an assertion, at most
const SKEW_S = 5; // how far the signer's clock may be from ours
const MAX_ASSERTION_CHARACTERS = 16 * 1024; // an egress allow-list may be long; anything longer is not ours
const MAX_CACHED_ASSERTIONS = 1024;

const ASSERTION = "smcp-assertion";
const DISPATCH_ERROR = "smcp-dispatch-error";
const DISPATCH_MESSAGE = "smcp-dispatch-message";
const MESSAGE_CHARACTERS = 300; // at most 2700 bytes once encoded
const PLATFORM_PREFIX = "smcp-";
// Cloudflare reads these from any request and would let the caller choose another version of the script.
const VERSION_OVERRIDES = ["cloudflare-workers-version-overrides", "cloudflare-workers-version-key"];

const BASE64URL = /^[A-Za-z0-9_-]+$/;
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });

const publicKeys = new Map(); // kid → CryptoKey. A changed binding means a new isolate, so entries are never stale
const verified = new Map(); // header value → claims, oldest first: the platform repeats an assertion for as long as it lives

export default {
  async fetch(request, env) {
    const claims = await verifiedClaims(request.headers.get(ASSERTION), env);
    if (!claims) return platformError(401, "unauthorized", "A valid assertion is required.");

    let answer;
    try {
      answer = await env.DISPATCHER.get(claims.wrk, {}, dispatchOptions(claims)).fetch(tenantRequest(request));
    } catch (error) {
      return dispatchError(error);
    }
    return tenantAnswer(answer);
  },
};

// ── Who may pass ─────────────────────────────────────────────────────────────────────────────────────────────────────

/** The claims of a valid assertion, or null. The clock is looked at on every use, the signature only once per value. */
async function verifiedClaims(header, env) {
  if (!header || header.length > MAX_ASSERTION_CHARACTERS) return null;
  const now = Date.now() / 1000;

  const known = verified.get(header);
  if (known) return isCurrent(known, now) ? known : null;

  const claims = await claimsOf(header, env);
  if (!claims || claims.aud !== env.AUD || !isCurrent(claims, now)) return null;

  if (verified.size >= MAX_CACHED_ASSERTIONS) verified.delete(verified.keys().next().value);
  verified.set(header, claims);
  return claims;
}

/** The claims if the signature is one of ours and they have the right shape, or null. */
async function claimsOf(header, env) {
  const [version, kid, payload, signature, ...rest] = header.split(".");
  if (version !== "v1" || rest.length || !BASE64URL.test(payload ?? "") || !BASE64URL.test(signature ?? "")) return null;
  try {
    const key = await publicKey(kid, env.PLATFORM_KEYS);
    if (!key) return null;
    const signed = encoder.encode(`v1.${kid}.${payload}`);
    if (!(await crypto.subtle.verify("Ed25519", key, bytesOf(signature), signed))) return null;
    const claims = JSON.parse(decoder.decode(bytesOf(payload)));
    return hasRightShape(claims) ? claims : null;
  } catch {
    // Broken base64, broken JSON, an unusable key: not a valid assertion, and the caller learns no more than that.
    return null;
  }
}

async function publicKey(kid, ring) {
  // Own properties only: `constructor` and its like are keys of every object.
  if (!ring || !Object.hasOwn(ring, kid)) return null;
  let key = publicKeys.get(kid);
  if (!key) {
    key = await crypto.subtle.importKey("raw", bytesOf(ring[kid]), "Ed25519", false, ["verify"]);
    publicKeys.set(kid, key);
  }
  return key;
}

function hasRightShape(claims) {
  const isText = (value) => typeof value === "string" && value !== "";
  return (
    claims !== null &&
    typeof claims === "object" &&
    isText(claims.aud) &&
    isText(claims.ten) &&
    isText(claims.wrk) &&
    Number.isInteger(claims.iat) &&
    Number.isInteger(claims.exp) &&
    claims.exp > claims.iat &&
    claims.exp - claims.iat <= LIFE_S &&
    (claims.cpu_ms === undefined || (Number.isInteger(claims.cpu_ms) && claims.cpu_ms >= 0)) &&
    (claims.egress === undefined || claims.egress === null || (Array.isArray(claims.egress) && claims.egress.every(isText)))
  );
}

function isCurrent(claims, now) {
  return claims.iat <= now + SKEW_S && now < claims.exp + SKEW_S;
}

function bytesOf(base64url) {
  return Uint8Array.from(atob(base64url.replaceAll("-", "+").replaceAll("_", "/")), (character) => character.charCodeAt(0));
}

// ── Through to the tenant, and back ──────────────────────────────────────────────────────────────────────────────────

function dispatchOptions({ ten, cpu_ms, egress }) {
  const options = {};
  if (cpu_ms) options.limits = { cpuMs: cpu_ms };
  // Without a list the outbound Worker gets no policy and refuses everything.
  if (egress) options.outbound = { policy: { tenant: ten, allow: egress } };
  return options;
}

/** The request as the tenant may see it. The assertion must not pass: whoever holds it can use it until it expires. */
function tenantRequest(request) {
  const headers = withoutPlatformHeaders(request.headers);
  for (const name of VERSION_OVERRIDES) headers.delete(name);
  return new Request(request, { headers });
}

/** The tenant's answer, streamed on. A tenant must not be able to speak with the platform's voice. */
function tenantAnswer(answer) {
  const headers = withoutPlatformHeaders(answer.headers);
  // An upgrade hands over the socket; giving Response the whole answer as its options would lose it on a 101.
  if (answer.webSocket) return new Response(null, { status: answer.status, headers, webSocket: answer.webSocket });
  return new Response(answer.body, { status: answer.status, statusText: answer.statusText, headers });
}

function withoutPlatformHeaders(from) {
  const headers = new Headers(from);
  for (const name of [...headers.keys()]) {
    if (name.startsWith(PLATFORM_PREFIX)) headers.delete(name);
  }
  return headers;
}

/**
 * What the platform answers when a dispatch fails. Cloudflare tells the cases apart only by the message:
 * https://developers.cloudflare.com/cloudflare-for-platforms/workers-for-platforms/configuration/dynamic-dispatch/
 * A tenant that throws such a message itself only misreports its own Worker. The message is the tenant's, so it is never part of the answer's body.
 */
function dispatchError(error) {
  const message = messageOf(error);
  if (message.startsWith("Worker not found")) return platformError(404, "not-found", "There is no such Worker.");
  if (/exceeded .*(limit|resources)/i.test(message)) return platformError(503, "limits", "The Worker ran into its limits.");
  const headers = { [DISPATCH_MESSAGE]: encodeURIComponent(oneLine(message)) };
  return platformError(502, "exception", "The Worker failed before it answered.", headers);
}

function messageOf(error) {
  try {
    return String(error?.message ?? error);
  } catch {
    return ""; // something that cannot be made text was thrown
  }
}

/** One bounded line without control, format or unpaired surrogate characters. */
function oneLine(text) {
  return text.slice(0, MESSAGE_CHARACTERS).replace(/[\p{C}\p{Zl}\p{Zp}]+/gu, " ").trim();
}

function platformError(status, reason, sentence, more = {}) {
  return Response.json({ error: reason, message: sentence }, { status, headers: { ...more, [DISPATCH_ERROR]: reason } });
}
