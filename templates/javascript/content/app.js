import { InvalidInput } from "functional-scaffold";

/** The JSON Schema of the input. */
export const input = {
  type: "object",
  properties: {
    numbers: { type: "array", items: { type: "number" } },
  },
  required: ["numbers"],
};

export default function mean({ numbers }) {
  if (numbers.length === 0) throw new InvalidInput("numbers: at least one is needed");
  return { mean: numbers.reduce((sum, number) => sum + number) / numbers.length };
}
