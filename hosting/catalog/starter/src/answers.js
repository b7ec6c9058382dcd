// The two ways a tool answers, and the checks several tools share.

const encoder = new TextEncoder();

export function byteLength(text) {
  return encoder.encode(text).length;
}

/** A result with the same data twice: as text for people and older clients, structured for programs. */
export function answer(data, text = JSON.stringify(data)) {
  return { content: [{ type: "text", text }], structuredContent: data };
}

/** A failed tool call the model may read and mend. Never a protocol error: the request itself was fine. */
export function failure(text) {
  return { content: [{ type: "text", text }], isError: true };
}

/** The binding, or undefined with the failure to answer. A server deployed without it still serves its other tools. */
export function binding(env, name) {
  return env[name] ? { store: env[name] } : { refusal: failure(`This server was deployed without its ${name} binding.`) };
}
