// calculator: the four operations on two numbers.
import * as z from "zod/v4";
import { answer, failure } from "../answers.js";

const OPERATIONS = {
  add: (a, b) => a + b,
  subtract: (a, b) => a - b,
  multiply: (a, b) => a * b,
  divide: (a, b) => a / b,
};

const input = z.object({
  operation: z.enum(Object.keys(OPERATIONS)).describe("What to do with the two numbers"),
  a: z.number().describe("Left operand"),
  b: z.number().describe("Right operand"),
});

const output = z.object({ result: z.number() });

export function registerCalculator(server) {
  server.registerTool(
    "calculator",
    {
      title: "Calculator",
      description: "Add, subtract, multiply or divide two numbers.",
      inputSchema: input,
      outputSchema: output,
      annotations: { readOnlyHint: true, idempotentHint: true, openWorldHint: false },
    },
    ({ operation, a, b }) => {
      if (operation === "divide" && b === 0) return failure("Division by zero.");
      const result = OPERATIONS[operation](a, b);
      // JSON has no Infinity: an overflow would reach the client as null.
      if (!Number.isFinite(result)) return failure("The result is too large for a 64-bit number.");
      return answer({ result }, String(result));
    },
  );
}
