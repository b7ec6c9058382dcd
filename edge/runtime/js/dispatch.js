// The `dispatch_namespace` binding: get(name, args, options) gives a stub whose fetch goes through the edge to that script.
// Behaves as Cloudflare's: nothing is looked up before fetch, and a script that is not there throws "Worker not found."
const NAME = /^[\x21-\x7e]{1,255}$/;

class Stub {
  #fetcher;
  #headers;

  constructor(fetcher, headers) {
    this.#fetcher = fetcher;
    this.#headers = headers;
  }

  async fetch(input, init) {
    const request = new Request(input, init);
    const headers = new Headers(request.headers);
    for (const [name, value] of Object.entries(this.#headers)) headers.set(name, value);
    const response = await this.#fetcher.fetch(new Request(request, { headers }));
    if (response.headers.has("x-edge-error")) throw new Error(await response.text());
    return response;
  }
}

class DispatchNamespace {
  #fetcher;

  constructor(fetcher) {
    this.#fetcher = fetcher;
  }

  get(name, args, options) {
    if (typeof name !== "string") throw new TypeError("The name of a Worker must be a string.");
    const headers = {
      "x-edge-script": NAME.test(name) ? name : "-",
      "x-edge-options": encodeURIComponent(JSON.stringify({ args, limits: options?.limits, outbound: options?.outbound })),
    };
    return new Stub(this.#fetcher, headers);
  }
}

export default function (env) {
  return new DispatchNamespace(env.fetcher);
}
