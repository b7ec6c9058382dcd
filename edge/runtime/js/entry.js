// The module workerd starts with: everything the script exports, its `fetch` telling what it throws, and one entrypoint that lists
// the exports for the edge.
import { list } from "./__edge_exports.js";
import { telling } from "./__edge_thrown.js";
import * as script from "__MAIN__";
import { WorkerEntrypoint } from "cloudflare:workers";

export * from "__MAIN__";
export default telling(script.default);

export class __edge_probe extends WorkerEntrypoint {
  fetch() {
    return list(script);
  }
}
