import { DurableObject } from "cloudflare:workers";

export class Counter extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    this.born = crypto.randomUUID();
    ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS counter(name TEXT PRIMARY KEY, n INTEGER)");
  }

  add(name) {
    const sql = "INSERT INTO counter VALUES(?,1) ON CONFLICT(name) DO UPDATE SET n=n+1 RETURNING n";
    return this.ctx.storage.sql.exec(sql, name).one().n;
  }

  count(name) {
    return this.ctx.storage.sql.exec("SELECT n FROM counter WHERE name=?", name).toArray()[0]?.n ?? 0;
  }

  async wake(ms) {
    await this.ctx.storage.setAlarm(Date.now() + ms);
  }

  async alarm() {
    this.add("alarm");
    await this.env.KV?.put("alarm", String(this.count("alarm")));
  }

  async fetch(request) {
    const pair = new WebSocketPair();
    this.ctx.acceptWebSocket(pair[1]);
    pair[1].serializeAttachment({ heard: 0 });
    return new Response(null, { status: 101, webSocket: pair[0] });
  }

  webSocketMessage(socket, message) {
    const attachment = socket.deserializeAttachment();
    attachment.heard += 1;
    socket.serializeAttachment(attachment);
    socket.send(JSON.stringify({ echo: message, heard: attachment.heard, born: this.born }));
  }

  webSocketClose(socket, code) {
    socket.close(code);
  }
}

const encoder = new TextEncoder();

function events(interval) {
  let n = 0;
  return new ReadableStream({
    async pull(controller) {
      await scheduler.wait(interval);
      controller.enqueue(encoder.encode(`data: ${n++}\n\n`));
    },
  });
}

const routes = {
  "/": (request, env) =>
    Response.json({
      env: Object.keys(env).sort(),
      url: request.url,
      method: request.method,
      headers: Object.fromEntries(request.headers),
      cf: request.cf ?? null,
    }),
  "/var": (_request, env, url) => Response.json(env[url.searchParams.get("name")] ?? null),
  "/version": () => new Response("VERSION"),
  "/echo": (request) => new Response(request.body, { headers: { "x-echo": "1" } }),
  "/upper": (request) => new Response(request.body.pipeThrough(new TransformStream())),
  "/kv/put": async (_request, env, url) => {
    await env.KV.put(url.searchParams.get("k"), url.searchParams.get("v"));
    return new Response("ok");
  },
  "/kv/get": async (_request, env, url) => Response.json(await env.KV.get(url.searchParams.get("k"))),
  "/r2/put": async (request, env, url) => {
    await env.BUCKET.put(url.searchParams.get("k"), request.body);
    return new Response("ok");
  },
  "/r2/get": async (_request, env, url) => {
    const object = await env.BUCKET.get(url.searchParams.get("k"));
    return object ? new Response(object.body) : new Response("none", { status: 404 });
  },
  "/d1": async (request, env) => Response.json((await env.DB.prepare(await request.text()).all()).results),
  "/object/add": async (_request, env, url) =>
    Response.json(await env.COUNTER.getByName("one").add(url.searchParams.get("name") ?? "calls")),
  "/object/count": async (_request, env, url) =>
    Response.json(await env.COUNTER.getByName("one").count(url.searchParams.get("name") ?? "calls")),
  "/object/wake": async (_request, env, url) => {
    await env.COUNTER.getByName("one").wake(Number(url.searchParams.get("ms")));
    return new Response("ok");
  },
  "/object/socket": (request, env) => env.COUNTER.getByName("one").fetch(request),
  "/socket": () => {
    const pair = new WebSocketPair();
    pair[1].accept();
    pair[1].binaryType = "arraybuffer";
    pair[1].addEventListener("message", (event) => pair[1].send(event.data));
    pair[1].addEventListener("close", () => pair[1].close());
    return new Response(null, { status: 101, webSocket: pair[0] });
  },
  "/refuse-socket": () => new Response("no sockets today", { status: 426 }),
  "/events": (_request, _env, url) =>
    new Response(events(Number(url.searchParams.get("ms") ?? 20)), {
      headers: { "content-type": "text/event-stream" },
    }),
  "/watched": (request, env, url, ctx) => {
    const { readable, writable } = new TransformStream();
    const writer = writable.getWriter();
    const pump = async () => {
      try {
        for (;;) {
          await writer.write(encoder.encode("data: tick\n\n"));
          await scheduler.wait(20);
        }
      } catch {
        await env.KV.put(url.searchParams.get("k"), "left");
      }
    };
    ctx.waitUntil(pump());
    return new Response(readable, { headers: { "content-type": "text/event-stream" } });
  },
  "/fetch": async (_request, _env, url) => {
    try {
      const answer = await fetch(url.searchParams.get("url"), {
        headers: { "x-edge-resource": "kv/forged", "x-edge-proto": "gopher", "x-mine": "kept" },
        redirect: "manual",
      });
      return new Response(await answer.text(), { status: answer.status, headers: { "x-reached": "1" } });
    } catch (error) {
      return new Response(error.message, { status: 599 });
    }
  },
  "/forge": async (_request, _env, url) => {
    const answer = await fetch("http://anywhere.example/" + url.searchParams.get("k"), {
      headers: { "x-edge-resource": url.searchParams.get("resource") },
    });
    return new Response(await answer.text(), { status: answer.status });
  },
  "/throw": () => {
    throw new Error("boom");
  },
  "/pretend": () => new Response("Internal Server Error", { status: 500, headers: { connection: "close" } }),
  "/fake-error": () => new Response("mine", { headers: { "x-edge-error": "not-found" } }),
  "/loop": () => {
    for (;;);
  },
  "/fill": () => {
    const kept = [];
    for (;;) kept.push(new Array(100_000).fill(Math.random()));
  },
  "/grow": (_request, _env, url) => {
    globalThis.kept ??= [];
    globalThis.kept.push(new Uint8Array(Number(url.searchParams.get("mb")) * 1024 * 1024).fill(1));
    return new Response(String(globalThis.kept.length));
  },
  "/kept": () => new Response(String(globalThis.kept?.length ?? 0)),
  "/log": () => {
    console.log("said by a worker");
    return new Response("ok");
  },
  "/large": (_request, _env, url) => {
    const size = Number(url.searchParams.get("mb")) * 1024 * 1024;
    return new Response(new Uint8Array(size).fill(120));
  },
};

export default {
  async fetch(request, env, ctx) {
    const url = new URL(request.url);
    const route = routes[url.pathname];
    return route ? await route(request, env, url, ctx) : new Response("no such route", { status: 404 });
  },
};
