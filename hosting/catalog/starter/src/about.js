// Who this server says it is. VERSION moves together with package.json and catalog.json.
export const NAME = "starter";
export const TITLE = "Starter";
export const VERSION = "1.0.0";

export const BINDINGS = { NOTES: "Workers KV", FILES: "R2", ROWS: "D1" };

export const LIMITS = {
  note_key_bytes: 512,
  note_value_bytes: 64 * 1024,
  file_name_bytes: 1024,
  file_bytes: 1024 * 1024,
  rows: 200,
  query_characters: 4000,
};
