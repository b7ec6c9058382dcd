// The everything server as a Worker. All of it lives in one Durable Object, since sessions and listening streams need a place;
// the binding ERAS says what it speaks.
import { DurableObject } from "cloudflare:workers";
import { EverythingServer } from "./server.js";

export class Everything extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    this.server = new EverythingServer(env.ERAS);
  }

  fetch(request) {
    return this.server.fetch(request);
  }
}

export default {
  fetch: (request, env) => env.EVERYTHING.getByName("the one").fetch(request),
};
