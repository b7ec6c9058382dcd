// What this MCP server offers, in the order clients list it.
import { McpServer } from "@modelcontextprotocol/server";
import { NAME, TITLE, VERSION } from "./about.js";
import { registerResources } from "./resources.js";
import { registerCalculator } from "./tools/calculator.js";
import { registerEcho } from "./tools/echo.js";
import { registerFiles } from "./tools/files.js";
import { registerNotes } from "./tools/notes.js";
import { registerRows } from "./tools/rows.js";

const INSTRUCTIONS =
  "Calculate, echo, keep short notes (notes_*), keep files (files_*), and query a small table of planets with SELECT (rows_query).";

export function createServer(env) {
  const server = new McpServer({ name: NAME, title: TITLE, version: VERSION }, { instructions: INSTRUCTIONS });
  registerCalculator(server);
  registerEcho(server);
  registerNotes(server, env);
  registerFiles(server, env);
  registerRows(server, env);
  registerResources(server, env);
  return server;
}
