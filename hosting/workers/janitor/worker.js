// The janitor: empties an R2 bucket, so that the bucket can be deleted.
//
// It runs in the dispatch namespace with the bucket bound as BUCKET, and is called through the dispatcher. Each
// `POST /` deletes up to 1,000 objects and answers `{"deleted": n, "done": bool}`; the caller repeats until `done`. The bucket
// itself is the progress: a call that was cut off half-way, or made twice, only leaves less to do.

const BATCH = 1000; // most keys R2 lists or deletes in one operation: https://developers.cloudflare.com/r2/api/workers/workers-api-reference/

export default {
  async fetch(request, env) {
    if (new URL(request.url).pathname !== "/") return refusal(404, "There is only /.");
    if (request.method !== "POST") return refusal(405, "Only POST empties the bucket.", { allow: "POST" });

    const { objects, truncated } = await env.BUCKET.list({ limit: BATCH });
    if (objects.length) await env.BUCKET.delete(objects.map((object) => object.key));
    return Response.json({ deleted: objects.length, done: !truncated });
  },
};

function refusal(status, message, headers = {}) {
  return Response.json({ error: message }, { status, headers });
}
