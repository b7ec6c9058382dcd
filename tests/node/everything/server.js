// The everything server over Streamable HTTP, in the eras it is told to speak: "legacy" (sessions, each with its events kept for
// resumption), "modern" (every request for itself), or "both". Everything lives in this one object.
import {
  WebStandardStreamableHTTPServerTransport,
  createMcpHandler,
  isInitializeRequest,
  isLegacyRequest,
} from "@modelcontextprotocol/server";
import { createEverything } from "./fixtures.js";

const MAX_EVENTS = 1000;
const RETRY_MS = 200;
const error = (status, code, message) => Response.json({ jsonrpc: "2.0", id: null, error: { code, message } }, { status });

/** The events of one session. An id is `<stream>_<number>`. */
class Events {
  #kept = [];
  #number = 0;

  async storeEvent(streamId, message) {
    const id = `${streamId}_${++this.#number}`;
    this.#kept.push({ id, streamId, message });
    if (this.#kept.length > MAX_EVENTS) this.#kept.shift();
    return id;
  }

  async getStreamIdForEventId(id) {
    return this.#kept.find((event) => event.id === id)?.streamId;
  }

  async replayEventsAfter(id, { send }) {
    const at = this.#kept.findIndex((event) => event.id === id);
    const { streamId } = this.#kept[at];
    for (const event of this.#kept.slice(at + 1)) {
      const isPriming = Object.keys(event.message).length === 0;
      if (event.streamId === streamId && !isPriming) await send(event.id, event.message);
    }
    return streamId;
  }
}

export class EverythingServer {
  #eras;
  #sessions = new Map();
  #watched = new Map();
  #held = { started: 0, cancelled: 0 };
  #modern;

  constructor(eras) {
    this.#eras = eras;
    this.#modern = createMcpHandler(() => createEverything("modern", this.#hub()), { legacy: "reject" });
  }

  async fetch(request) {
    const isLegacy = this.#eras === "legacy" || (this.#eras === "both" && (await isLegacyRequest(request.clone())));
    return isLegacy ? this.#serveLegacy(request) : this.#modern.fetch(request);
  }

  async #serveLegacy(request) {
    const id = request.headers.get("mcp-session-id");
    const session = this.#sessions.get(id);
    if (session) return session.transport.handleRequest(request);
    if (id) return error(404, -32001, "Session not found");
    const body = request.method === "POST" ? await request.json().catch(() => undefined) : undefined;
    if (!isInitializeRequest(body)) return error(400, -32000, "Bad Request: a session is required");
    return this.#openSession(request, body);
  }

  async #openSession(request, parsedBody) {
    const server = createEverything("legacy", this.#hub());
    const transport = new WebStandardStreamableHTTPServerTransport({
      sessionIdGenerator: () => crypto.randomUUID(),
      eventStore: new Events(),
      retryInterval: RETRY_MS,
      onsessioninitialized: (id) => void this.#sessions.set(id, { server, transport }),
      onsessionclosed: (id) => void this.#sessions.delete(id),
    });
    await server.connect(transport);
    return transport.handleRequest(request, { parsedBody });
  }

  #hub() {
    const sessions = () => [...this.#sessions.values()].map(({ server }) => server);
    const tell = (servers, say) => Promise.allSettled(servers.map(say));
    return {
      held: this.#held,
      toolsChanged: () => (this.#modern.notify.toolsChanged(), tell(sessions(), (one) => one.server.sendToolListChanged())),
      promptsChanged: () => (this.#modern.notify.promptsChanged(), tell(sessions(), (one) => one.server.sendPromptListChanged())),
      resourcesChanged: () => (this.#modern.notify.resourcesChanged(), tell(sessions(), (one) => one.server.sendResourceListChanged())),
      resourceUpdated: (uri) => {
        this.#modern.notify.resourceUpdated(uri);
        return tell([...(this.#watched.get(uri) ?? [])], (one) => one.server.sendResourceUpdated({ uri }));
      },
      watch: (uri, server) => this.#watched.set(uri, (this.#watched.get(uri) ?? new Set()).add(server)),
      unwatch: (uri, server) => this.#watched.get(uri)?.delete(server),
    };
  }
}
