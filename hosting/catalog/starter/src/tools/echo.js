// echo: gives back what it was given, to see that a connection works.
import * as z from "zod/v4";

export function registerEcho(server) {
  server.registerTool(
    "echo",
    {
      title: "Echo",
      description: "Return the message unchanged.",
      inputSchema: z.object({ message: z.string().describe("What to return") }),
      annotations: { readOnlyHint: true, idempotentHint: true, openWorldHint: false },
    },
    ({ message }) => ({ content: [{ type: "text", text: message }] }),
  );
}
