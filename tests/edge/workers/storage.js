// A Worker that exercises its bindings and reports what it saw; the tests judge the report. One scenario per path.
const text = (stream) => new Response(stream).text();
const failure = async (promise) => {
  try { await promise; return null; } catch (error) { return error.message; }
};

const scenarios = {
  async kv({ KV }) {
    const seen = {};
    await KV.put("text", "héllo", { metadata: { a: [1, "é"] }, expirationTtl: 600 });
    await KV.put("bytes", new Uint8Array([0, 1, 255]));
    await KV.put("stream", new Response("streamed").body);
    await KV.put("json", JSON.stringify({ n: 1 }));
    await KV.put("odd/key?&#%2F é", "odd");
    seen.text = await KV.get("text");
    seen.withMetadata = await KV.getWithMetadata("text");
    seen.bytes = [...new Uint8Array(await KV.get("bytes", "arrayBuffer"))];
    seen.stream = await text(await KV.get("stream", "stream"));
    seen.json = await KV.get("json", "json");
    seen.odd = await KV.get("odd/key?&#%2F é");
    seen.missing = await KV.get("missing");
    seen.missingMetadata = await KV.getWithMetadata("missing");
    seen.bulk = Object.fromEntries(await KV.get(["text", "missing"]));
    seen.bulkJson = Object.fromEntries(await KV.get(["json"], "json"));
    seen.bulkMetadata = Object.fromEntries(await KV.getWithMetadata(["text", "missing"]));
    await KV.delete("stream");
    await KV.delete("missing");
    seen.afterDelete = await KV.get("stream");
    seen.shortTtl = await failure(KV.put("k", "v", { expirationTtl: 5 }));
    seen.bigMetadata = await failure(KV.put("k", "v", { metadata: "x".repeat(1100) }));
    seen.notWritten = await KV.get("k");
    return seen;
  },

  async kvList({ KV }) {
    for (let n = 0; n < 25; n++) await KV.put(`p/${String(n).padStart(2, "0")}`, "v", { metadata: { n } });
    await KV.put("q", "v");
    const pages = [];
    let cursor;
    do {
      const page = await KV.list({ prefix: "p/", limit: 10, cursor });
      pages.push(page.keys);
      cursor = page.list_complete ? undefined : page.cursor;
    } while (cursor);
    return { pages, all: (await KV.list()).keys.length, badCursor: await failure(KV.list({ cursor: "%%%" })) };
  },

  async kvLarge({ KV }) {
    const value = new Uint8Array(20 * 1024 * 1024).fill(7);
    await KV.put("large", value);
    const back = new Uint8Array(await KV.get("large", "arrayBuffer"));
    return {
      size: back.length,
      same: back.every((byte) => byte === 7),
      tooLarge: await failure(KV.put("huge", new Uint8Array(26 * 1024 * 1024))),
    };
  },

  async r2({ BUCKET }) {
    const seen = {};
    const put = await BUCKET.put("dir/o ü.txt", "hello world", {
      httpMetadata: { contentType: "text/plain", cacheControl: "max-age=1", cacheExpiry: new Date(86400000) },
      customMetadata: { owner: "me", emoji: "🪣" },
    });
    seen.put = { key: put.key, size: put.size, etag: put.etag, version: put.version.length > 0 };
    const head = await BUCKET.head("dir/o ü.txt");
    seen.head = {
      http: head.httpMetadata, custom: head.customMetadata, md5: head.checksums.toJSON().md5,
      httpEtag: head.httpEtag, storageClass: head.storageClass, recent: Math.abs(Date.now() - head.uploaded) < 60000,
    };
    seen.get = await (await BUCKET.get("dir/o ü.txt")).text();
    const headers = new Headers();
    (await BUCKET.get("dir/o ü.txt")).writeHttpMetadata(headers);
    seen.headers = Object.fromEntries(headers);
    const part = async (range) => {
      const object = await BUCKET.get("dir/o ü.txt", { range });
      return [await object.text(), object.range.offset, object.range.length];
    };
    seen.ranges = [
      await part({ offset: 6 }), await part({ offset: 0, length: 5 }), await part({ suffix: 3 }), await part({ length: 999 }),
      await part(new Headers({ range: "bytes=2-4" })),
    ];
    seen.badRange = await failure(BUCKET.get("dir/o ü.txt", { range: { offset: 99 } }));
    seen.missing = [await BUCKET.get("missing"), await BUCKET.head("missing")];
    await BUCKET.put("empty", "");
    seen.empty = await (await BUCKET.get("empty")).text();
    await BUCKET.put("none", null);
    seen.none = (await BUCKET.head("none")).size;
    await BUCKET.put("streamed", new Response("from a stream").body);
    seen.streamed = await (await BUCKET.get("streamed")).text();
    await BUCKET.delete(["empty", "none", "never"]);
    await BUCKET.delete("streamed");
    seen.left = (await BUCKET.list()).objects.map((object) => object.key);
    return seen;
  },

  async r2Conditions({ BUCKET }) {
    const seen = {};
    const first = await BUCKET.put("k", "one");
    const get = async (onlyIf) => {
      const object = await BUCKET.get("k", { onlyIf });
      return object === null ? null : "body" in object ? await object.text() : object.etag === first.etag ? "not read" : "?";
    };
    seen.matches = await get({ etagMatches: first.etag });
    seen.differs = await get({ etagMatches: "other" });
    seen.known = await get({ etagDoesNotMatch: first.etag });
    seen.before = await get({ uploadedBefore: new Date(0) });
    seen.after = await get({ uploadedAfter: new Date(0) });
    seen.headers = await get(new Headers({ "if-none-match": `"${first.etag}"` }));
    seen.wildcard = await get(new Headers({ "if-match": "*" }));
    seen.createOnly = await BUCKET.put("k", "two", { onlyIf: new Headers({ "if-none-match": "*" }) });
    seen.replaceOther = await BUCKET.put("k", "two", { onlyIf: { etagMatches: "other" } });
    seen.still = await (await BUCKET.get("k")).text();
    seen.replaced = (await BUCKET.put("k", "two", { onlyIf: { etagMatches: first.etag } })) !== null;
    seen.created = (await BUCKET.put("new", "x", { onlyIf: new Headers({ "if-none-match": "*" }) })) !== null;
    seen.now = await (await BUCKET.get("k")).text();
    const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode("sum"));
    seen.sha256 = (await BUCKET.put("sum", "sum", { sha256: digest })).checksums.toJSON();
    seen.badDigest = await failure(BUCKET.put("sum", "other", { sha256: digest }));
    seen.badMd5 = await failure(BUCKET.put("sum", "other", { md5: "0".repeat(32) }));
    seen.sum = await (await BUCKET.get("sum")).text();
    seen.longKey = await failure(BUCKET.put("k".repeat(1025), "x"));
    seen.bigMetadata = await failure(BUCKET.put("k", "x", { customMetadata: { a: "x".repeat(9000) } }));
    return seen;
  },

  async r2List({ BUCKET }) {
    for (const key of ["a/1", "a/2", "a/b/3", "b/4", "c"]) {
      await BUCKET.put(key, key, { customMetadata: { key }, httpMetadata: { contentType: "text/plain" } });
    }
    const seen = { pages: [] };
    let cursor;
    do {
      const page = await BUCKET.list({ limit: 2, cursor });
      seen.pages.push(page.objects.map((object) => object.key));
      cursor = page.truncated ? page.cursor : undefined;
    } while (cursor);
    const delimited = await BUCKET.list({ delimiter: "/" });
    seen.delimited = [delimited.objects.map((object) => object.key), delimited.delimitedPrefixes];
    const inside = await BUCKET.list({ prefix: "a/", startAfter: "a/1", include: ["customMetadata"] });
    seen.inside = inside.objects.map((object) => [object.key, object.customMetadata, object.httpMetadata ?? null]);
    seen.badLimit = await failure(BUCKET.list({ limit: 1001 }));
    return seen;
  },

  async r2Multipart({ BUCKET }) {
    const seen = {};
    const part = (byte) => new Uint8Array(5 * 1024 * 1024).fill(byte);
    const upload = await BUCKET.createMultipartUpload("big", { customMetadata: { kind: "parts" } });
    const second = await upload.uploadPart(2, part(2));
    const first = await BUCKET.resumeMultipartUpload("big", upload.uploadId).uploadPart(1, part(1));
    const last = await upload.uploadPart(3, "tail");
    seen.unseen = await BUCKET.head("big");
    seen.wrongEtag = await failure(upload.complete([{ partNumber: 1, etag: "wrong" }]));
    const object = await upload.complete([first, second, last]);
    seen.size = object.size;
    seen.etag = object.etag;
    seen.custom = (await BUCKET.head("big")).customMetadata;
    const middle = await BUCKET.get("big", { range: { offset: 5 * 1024 * 1024 - 2, length: 4 } });
    seen.middle = [...new Uint8Array(await middle.arrayBuffer())];
    seen.tail = await (await BUCKET.get("big", { range: { suffix: 4 } })).text();
    seen.again = await failure(upload.uploadPart(4, "x"));
    const small = await BUCKET.createMultipartUpload("small");
    const parts = [await small.uploadPart(1, "too small"), await small.uploadPart(2, "x")];
    seen.tooSmall = await failure(small.complete(parts));
    await small.abort();
    seen.aborted = await failure(small.uploadPart(1, "x"));
    return seen;
  },

  async d1({ DB }) {
    const seen = {};
    seen.exec = (await DB.exec("CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, raw BLOB)\nCREATE TABLE u(a UNIQUE)")).count;
    const run = await DB.prepare("INSERT INTO t(name, raw) VALUES(?1, ?2)").bind("a", new Uint8Array([1, 255])).run();
    seen.run = { success: run.success, changes: run.meta.changes, id: run.meta.last_row_id, changed: run.meta.changed_db };
    const insert = DB.prepare("INSERT INTO t(name) VALUES(?)");
    const batch = await DB.batch([insert.bind("b"), insert.bind(null), DB.prepare("SELECT count(*) AS n FROM t")]);
    seen.batch = batch.map((one) => one.results);
    seen.all = (await DB.prepare("SELECT * FROM t ORDER BY id").all()).results;
    seen.first = await DB.prepare("SELECT name FROM t WHERE id=?").bind(1).first();
    seen.column = await DB.prepare("SELECT name FROM t WHERE id=?").bind(2).first("name");
    seen.none = await DB.prepare("SELECT name FROM t WHERE id=99").first();
    seen.raw = await DB.prepare("SELECT id, name FROM t ORDER BY id").raw({ columnNames: true });
    seen.session = await DB.withSession("first-primary").prepare("SELECT 1 AS one").first("one");
    const session = DB.withSession();
    await session.prepare("INSERT INTO t(name) VALUES('s')").run();
    seen.bookmark = (session.getBookmark() ?? "").length > 0;
    seen.broken = await failure(DB.batch([insert.bind("lost"), DB.prepare("INSERT INTO nowhere VALUES(1)")]));
    seen.lost = await DB.prepare("SELECT count(*) AS n FROM t WHERE name='lost'").first("n");
    seen.syntax = await failure(DB.prepare("SELEC 1").all());
    await DB.prepare("INSERT INTO u VALUES(1)").run();
    seen.unique = await failure(DB.prepare("INSERT INTO u VALUES(1)").run());
    seen.execError = await failure(DB.exec("INSERT INTO u VALUES(2)\nINSERT INTO u VALUES(1)\nINSERT INTO u VALUES(3)"));
    seen.execDone = (await DB.prepare("SELECT a FROM u ORDER BY a").all()).results.map((row) => row.a);
    seen.attach = await failure(DB.prepare("ATTACH ':memory:' AS x").run());
    seen.unbound = await failure(DB.prepare("SELECT ?").all());
    return seen;
  },

  async d1Large({ DB }) {
    const rows = (n, columns) => DB.prepare(
      `WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM r WHERE i<${n}) SELECT ${columns} FROM r`);
    const all = (await rows(100000, "i, '' AS a").all()).results;
    const seen = { all: [all.length, all[99999]] };
    all.length = 0;
    const raw = await rows(100000, "i, '' AS a").raw();
    seen.raw = [raw.length, raw[99999]];
    seen.tooMany = await failure(DB.batch(Array(60000).fill(DB.prepare("SELECT 1"))));
    seen.tooLarge = await failure(rows(1000000, Array(50).fill("''").join()).raw());
    return seen;
  },

  async d1Slow({ DB }) {
    return failure(DB.prepare(
      "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM r) SELECT count(*) FROM r").all());
  },
};

export default {
  async fetch(request, env) {
    const scenario = scenarios[new URL(request.url).pathname.slice(1)];
    if (!scenario) return new Response("no such scenario", { status: 404 });
    return Response.json({ seen: await scenario(env) });
  },
};
