/** The JSON Schema of the input. */
export const input = {
  type: "object",
  properties: {
    // Squares of larger numbers overflow.
    numbers: { type: "array", items: { type: "number", minimum: -1e150, maximum: 1e150 }, minItems: 1 },
  },
  required: ["numbers"],
  additionalProperties: false,
};

export default function statistics({ numbers }) {
  const sorted = [...numbers].sort((left, right) => left - right);
  const middle = sorted.length >> 1;
  const mean = numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
  const squares = numbers.reduce((sum, number) => sum + (number - mean) ** 2, 0);
  return {
    count: numbers.length,
    mean,
    median: sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2,
    standard_deviation: Math.sqrt(squares / numbers.length),
  };
}
