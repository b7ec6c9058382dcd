// system://info and config://server: what runs here, and how it is set up. Names of bindings, never their ids or contents.
import { SUPPORTED_PROTOCOL_VERSIONS } from "@modelcontextprotocol/server";
import { BINDINGS, LIMITS, NAME, TITLE, VERSION } from "./about.js";

export function registerResources(server, env) {
  register(server, "system-info", "system://info", "System information", "Runtime and protocol versions of this server", () => ({
    server: { name: NAME, version: VERSION },
    runtime: navigator.userAgent,
    protocol_versions: SUPPORTED_PROTOCOL_VERSIONS,
    time: new Date().toISOString(),
  }));

  register(server, "server-config", "config://server", "Server configuration", "Bindings and limits of this server", () => ({
    name: NAME,
    title: TITLE,
    version: VERSION,
    bindings: Object.entries(BINDINGS).map(([name, product]) => ({ name, product, is_bound: Boolean(env[name]) })),
    limits: LIMITS,
  }));
}

function register(server, name, uri, title, description, read) {
  server.registerResource(name, uri, { title, description, mimeType: "application/json" }, (asked) => ({
    contents: [{ uri: asked.href, mimeType: "application/json", text: JSON.stringify(read(), null, 2) }],
  }));
}
