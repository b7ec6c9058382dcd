// Decides whether a statement is a single, plain SELECT. D1 has no read-only mode, so this is the first of two locks; the
// second is that the statement only ever runs as a subquery (tools/rows.js).
//
// The text is split the way SQLite splits it: strings, quoted names and comments may hide any word or semicolon, so no
// regular expression over the whole text can be right. https://www.sqlite.org/lang_keywords.html

const TOKEN = /\s+|'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|--|\/\*|[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*|[\s\S]/gy;

/** Why a statement is refused, as a sentence; undefined if it may run. */
export function refusalOf(sql) {
  const tokens = (sql.match(TOKEN) ?? []).filter((token) => token.trim() !== "");
  if (tokens.at(-1) === ";") tokens.pop();

  const first = (tokens[0] ?? "").toUpperCase();
  if (first !== "SELECT" && first !== "WITH") return "only statements that begin with SELECT or WITH may run.";

  let depth = 0;
  for (const token of tokens) {
    if (token === ";") return "only one statement at a time.";
    if (token === "--" || token === "/*") return "comments are not allowed.";
    if (token === "'" || token === '"' || token === "`" || token === "[") return "a quote is never closed.";
    if (token.includes("\0")) return "the statement contains a zero character.";
    // SELECT can reach pragmas as functions too, quoted or not: https://www.sqlite.org/pragma.html#pragfunc
    if (/^["`[]?pragma(_|$)/i.test(token)) return "pragmas are not allowed.";
    if (token === "(") depth += 1;
    if (token === ")") depth -= 1;
    // Closing more than was opened would step out of the subquery the statement is run in.
    if (depth < 0) return "a parenthesis is closed that was never opened.";
  }
  if (depth !== 0) return "a parenthesis is never closed.";

  if (first === "WITH" && !tokens.some((token) => token.toUpperCase() === "SELECT")) return "WITH must lead to a SELECT.";
  const writer = tokens.find((token) => /^(INSERT|UPDATE|DELETE)$/i.test(token));
  if (writer) return `${writer.toUpperCase()} is not allowed; quote it if it is a name.`;
  return undefined;
}
