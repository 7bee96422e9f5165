// An algorithm in JavaScript that misbehaves on request, for the end-to-end tests.

import { InvalidInput } from "functional-scaffold";

export const input = { type: "string" };

export default function rogue(misdeed) {
  switch (misdeed) {
    case "throw":
      throw new RangeError("asked to fail\non two lines");
    case "throw a string":
      throw "asked to fail";
    case "nan":
      return { list: [0, NaN] };
    case "bytes":
      return new Uint8Array(1);
    case "map":
      return new Map();
    case "undefined":
      return undefined;
    case "bigint":
      return { number: 1n };
    case "promise":
      return Promise.resolve(1);
    case "cycle": {
      const cycle = {};
      cycle.cycle = cycle;
      return cycle;
    }
    case "left out":
      return { kept: 1, left: undefined };
    case "print":
      console.log("4483", "词", { a: [1] }, "x".repeat(5000));
      return null;
  }
  throw new InvalidInput(`unknown misdeed ${JSON.stringify(misdeed)}`);
}
