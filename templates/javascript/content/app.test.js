import assert from "node:assert/strict";
import test from "node:test";

import mean from "./app.js";

test("the mean of one, two and six is three", () => {
  assert.deepEqual(mean({ numbers: [1, 2, 6] }), { mean: 3 });
});
