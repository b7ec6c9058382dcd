// Lists what a script exports. Loaded before the script, so nothing the script's top level replaces is used here: the functions
// are kept, and neither iterators, prototypes of arrays nor `toJSON` come into it. What a script's own values say of themselves
// when asked for a property is theirs.
import { DurableObject, WorkerEntrypoint, WorkflowEntrypoint } from "cloudflare:workers";

const { apply, ownKeys } = Reflect;
const { stringify } = JSON;
const { isPrototypeOf } = Object.prototype;
const OriginalResponse = Response;
export const HANDLERS = Object.freeze(["fetch", "scheduled", "queue", "email", "tail", "tailStream", "trace", "test"]);
const BASES = [DurableObject.prototype, WorkflowEntrypoint.prototype, WorkerEntrypoint.prototype];
const KINDS = ["durable_object", "workflow", "entrypoint"];

function kindOf(value) {
  if (typeof value !== "function") return typeof value;
  const { prototype } = value;
  for (let number = 0; number < 3; number++) if (apply(isPrototypeOf, BASES[number], [prototype])) return KINDS[number];
  return prototype === undefined ? "function" : "class";
}

function handlersOf(value) {
  const target = typeof value === "function" ? value.prototype : value;
  let listed = "";
  for (let number = 0; number < 8; number++) {
    if (typeof target?.[HANDLERS[number]] === "function") listed += (listed && ",") + stringify(HANDLERS[number]);
  }
  return `[${listed}]`;
}

export function list(script) {
  const names = ownKeys(script);
  let listed = "";
  for (let number = 0; number < names.length; number++) {
    const name = names[number];
    if (typeof name !== "string") continue;
    const value = script[name];
    const fields = `"name":${stringify(name)},"kind":${stringify(kindOf(value))},"handlers":${handlersOf(value)}`;
    listed += `${listed && ","}{${fields}}`;
  }
  return new OriginalResponse(`[${listed}]`);
}
