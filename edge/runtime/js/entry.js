// The module workerd starts with: everything the script exports, and one entrypoint that lists it for the edge.
//
// Only `fetch` of the default export is changed. When it throws, workerd tells the edge nothing but that, while Cloudflare gives
// the exception to whoever dispatched: so it is caught here, and its message handed to the edge.
import { list } from "./__edge_exports.js";
import * as script from "__MAIN__";
import { WorkerEntrypoint } from "cloudflare:workers";

export * from "__MAIN__";

const THROWN = "x-edge-thrown"; // a script that sets it itself misreports only itself
const MESSAGE_CHARACTERS = 1000;
const HANDLERS = ["fetch", "scheduled", "queue", "email", "tail", "tailStream", "trace", "test"];

/** `main` with a `fetch` that tells what it throws. */
function telling(main) {
  if (typeof main === "function") {
    if (!(main.prototype instanceof WorkerEntrypoint) || typeof main.prototype.fetch !== "function") return main;
    return class extends main {
      fetch(...given) {
        return caught(() => super.fetch(...given));
      }
    };
  }
  // Called as methods of the script's own object, which may have private fields. A script of nothing but Durable Objects has none.
  const handlers = handlersOf(main).map((name) => [name, (...given) => main[name](...given)]);
  const told = Object.fromEntries(handlers);
  if (told.fetch) told.fetch = (...given) => caught(() => main.fetch(...given));
  return told;
}

async function caught(answer) {
  try {
    return await answer();
  } catch (error) {
    let message;
    try {
      message = String(error?.message ?? error).slice(0, MESSAGE_CHARACTERS);
    } catch {
      message = ""; // it cannot even be read
    }
    return new Response(message, { status: 500, headers: { [THROWN]: "1" } });
  }
}

function handlersOf(value) {
  const target = typeof value === "function" ? value.prototype : value;
  return HANDLERS.filter((name) => typeof target?.[name] === "function");
}

export default telling(script.default);

export class __edge_probe extends WorkerEntrypoint {
  fetch() {
    return list(script);
  }
}
