import assert from "node:assert/strict";
import test from "node:test";

import statistics from "./statistics.js";

test("an odd count has its middle number as the median", () => {
  assert.deepEqual(statistics({ numbers: [5, 1, 3] }), {
    count: 3,
    mean: 3,
    median: 3,
    standard_deviation: Math.sqrt(8 / 3),
  });
});

test("an even count has the mean of its middle numbers as the median", () => {
  assert.equal(statistics({ numbers: [10, 2, 4, 3] }).median, 3.5);
});
