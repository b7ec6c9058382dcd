// Tells the edge what a script's `fetch` threw. workerd tells it nothing but that, while Cloudflare gives the exception to whoever
// dispatched: so it is caught here, and its message handed to the edge. Loaded before the script, for the reasons in exports.js.
import { WorkerEntrypoint } from "cloudflare:workers";
import { HANDLERS } from "./__edge_exports.js";

const THROWN = "x-edge-thrown"; // a script that sets it itself misreports only itself
const MESSAGE_CHARACTERS = 1000;
const OriginalResponse = Response;
const text = String;
const { apply } = Reflect;
const { isPrototypeOf } = Object.prototype;
const { slice } = String.prototype;

/** `main`, a script's default export, with a `fetch` that tells what it throws. Nothing else of it is changed. */
export function telling(main) {
  if (typeof main === "function") {
    const isEntrypoint = apply(isPrototypeOf, WorkerEntrypoint.prototype, [main.prototype]);
    if (!isEntrypoint || typeof main.prototype.fetch !== "function") return main;
    return class extends main {
      fetch(...given) {
        return caught(() => super.fetch(...given));
      }
    };
  }
  // Called as methods of the script's own object, which may have private fields. A script of nothing but Durable Objects has none.
  const told = {};
  for (let number = 0; number < HANDLERS.length; number++) {
    const name = HANDLERS[number];
    if (typeof main?.[name] !== "function") continue;
    told[name] = name === "fetch" ? (...given) => caught(() => main.fetch(...given)) : (...given) => main[name](...given);
  }
  return told;
}

async function caught(answer) {
  try {
    return await answer();
  } catch (error) {
    let message;
    try {
      message = apply(slice, text(error?.message ?? error), [0, MESSAGE_CHARACTERS]);
    } catch {
      message = ""; // it cannot even be read
    }
    return new OriginalResponse(message, { status: 500, headers: { [THROWN]: "1" } });
  }
}
