// rows_query: read-only SQL on D1, with a small seeded table so that there is something to read.
import * as z from "zod/v4";
import { LIMITS } from "../about.js";
import { answer, binding, failure } from "../answers.js";
import { refusalOf } from "../select.js";

const PLANETS = [
  ["Mercury", 4879, 0],
  ["Venus", 12104, 0],
  ["Earth", 12756, 1],
  ["Mars", 6792, 2],
  ["Jupiter", 142984, 97],
  ["Saturn", 120536, 274],
  ["Uranus", 51118, 28],
  ["Neptune", 49528, 16],
];

const DESCRIPTION =
  "Run one read-only SELECT on this server's D1 database. Table: planets(id, name, diameter_km, moons). Allowed: a single " +
  "statement that begins with SELECT or WITH, with ? for each parameter. Refused: anything that writes, several statements, " +
  `comments, PRAGMA. At most ${LIMITS.rows} rows come back.`;

const input = z.object({
  sql: z.string().min(1).max(LIMITS.query_characters).describe("One SELECT statement"),
  params: z
    .array(z.union([z.string(), z.number(), z.null()]))
    .max(100)
    .default([])
    .describe("Values for the ? placeholders, in order"),
});

const output = z.object({
  rows: z.array(z.record(z.string(), z.unknown())),
  row_count: z.number().int(),
  truncated: z.boolean().describe("True if there were more rows than were returned"),
});

let seeded; // once per isolate; a failed attempt is forgotten, so the next call tries again

export function registerRows(server, env) {
  server.registerTool(
    "rows_query",
    {
      title: "Query rows",
      description: DESCRIPTION,
      inputSchema: input,
      outputSchema: output,
      annotations: { readOnlyHint: true, idempotentHint: true, openWorldHint: false },
    },
    async ({ sql, params }) => {
      const { store, refusal } = binding(env, "ROWS");
      if (refusal) return refusal;
      const reason = refusalOf(sql);
      if (reason) return failure(`Refused: ${reason}`);
      await seed(store);
      try {
        const { results } = await store.prepare(boundedForm(sql)).bind(...params).all();
        const rows = results.slice(0, LIMITS.rows);
        return answer({ rows, row_count: rows.length, truncated: results.length > rows.length });
      } catch (error) {
        return failure(`The database answered: ${error.message}`);
      }
    },
  );
}

/**
 * The statement as a subquery. SQLite's grammar allows nothing there that writes, whatever the check before it let through,
 * and the outer LIMIT keeps the answer small: https://www.sqlite.org/lang_select.html
 */
function boundedForm(sql) {
  return `SELECT * FROM (\n${sql.replace(/;\s*$/, "")}\n) LIMIT ${LIMITS.rows + 1}`;
}

async function seed(database) {
  seeded ??= database.batch([
    database.prepare("CREATE TABLE IF NOT EXISTS planets (id INTEGER PRIMARY KEY, name TEXT NOT NULL, diameter_km INTEGER NOT NULL, moons INTEGER NOT NULL)"),
    ...PLANETS.map((planet, index) =>
      database.prepare("INSERT OR IGNORE INTO planets (id, name, diameter_km, moons) VALUES (?, ?, ?, ?)").bind(index + 1, ...planet),
    ),
  ]);
  try {
    await seeded;
  } catch (error) {
    seeded = undefined;
    throw error;
  }
}
