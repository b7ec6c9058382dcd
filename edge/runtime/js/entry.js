// The module workerd starts with: everything the script exports, unchanged, and one entrypoint that lists it for the edge.
import * as script from "__MAIN__";
import { DurableObject, WorkerEntrypoint, WorkflowEntrypoint } from "cloudflare:workers";

export * from "__MAIN__";
// A script of nothing but Durable Objects has no default export.
export default script.default ?? {};

const HANDLERS = ["fetch", "scheduled", "queue", "email", "tail", "tailStream", "trace", "test"];
const BASES = [
  [DurableObject, "durable_object"],
  [WorkflowEntrypoint, "workflow"],
  [WorkerEntrypoint, "entrypoint"],
];

function kindOf(value) {
  if (typeof value !== "function") return typeof value;
  for (const [base, kind] of BASES) if (value.prototype instanceof base) return kind;
  return value.prototype === undefined ? "function" : "class";
}

function handlersOf(value) {
  const target = typeof value === "function" ? value.prototype : value;
  return HANDLERS.filter((name) => typeof target?.[name] === "function");
}

export class __edge_probe extends WorkerEntrypoint {
  fetch() {
    const exports = Object.entries(script).map(([name, value]) => ({
      name,
      kind: kindOf(value),
      handlers: handlersOf(value),
    }));
    return Response.json(exports);
  }
}
