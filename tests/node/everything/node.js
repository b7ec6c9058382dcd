// The everything server on its own: `PORT=… node node.js both|legacy|modern`. Only loopback names are let in, as a server on
// somebody's machine has to do.
import { serve } from "@hono/node-server";
import { localhostAllowedHostnames, hostHeaderValidationResponse } from "@modelcontextprotocol/server";
import { EverythingServer } from "./server.js";

const server = new EverythingServer(process.argv[2]);
const names = localhostAllowedHostnames();

serve({
  fetch: (request) => hostHeaderValidationResponse(request, names) ?? server.fetch(request),
  hostname: "127.0.0.1",
  port: Number(process.env.PORT),
});
