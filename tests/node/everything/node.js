// The everything server on its own: `node node.js <both|legacy|modern> <port>`. Only loopback names are let in, as a server on
// somebody's machine has to do.
import { serve } from "@hono/node-server";
import { localhostAllowedHostnames, hostHeaderValidationResponse } from "@modelcontextprotocol/server";
import { EverythingServer } from "./server.js";

const [eras, port] = process.argv.slice(2);
const server = new EverythingServer(eras);
const names = localhostAllowedHostnames();

serve({
  fetch: (request) => hostHeaderValidationResponse(request, names) ?? server.fetch(request),
  hostname: "127.0.0.1",
  port: Number(port),
});
