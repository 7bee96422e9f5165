// The component around an algorithm: implements algorithm.wit.

import { InvalidInput } from "functional-scaffold";

/**
 * Makes the component's export.
 *
 * @param {(input: any) => any} run - the algorithm's function
 * @param {Function} validate - what Ajv generated from the schema of its input
 * @param {object} description - name, version, summary and inputSchema
 */
export function component(run, validate, description) {
  return {
    describe: () => description,
    run(text) {
      try {
        return encode(run(decode(text, validate)));
      } catch (error) {
        if (error instanceof InvalidInput) throw { tag: "invalid-input", val: oneLine(error.message) };
        log(description.name, error);
        throw { tag: "failed", val: oneLine(error) };
      }
    },
  };
}

function decode(text, validate) {
  let input;
  try {
    input = JSON.parse(text);
  } catch (error) {
    throw new InvalidInput(error.message);
  }
  if (!validate(input)) throw new InvalidInput(explain(validate.errors[0], input));
  return input;
}

/** `numbers[1]: must be number: "x"` */
function explain({ instancePath, message, params, data }, input) {
  let path = "";
  for (const part of instancePath.split("/").slice(1)) {
    const key = part.replaceAll("~1", "/").replaceAll("~0", "~");
    path += Array.isArray(input) ? `[${key}]` : path === "" ? key : `.${key}`;
    input = input[key];
  }
  // These messages do not say which.
  const which = params.additionalProperty ?? params.unevaluatedProperty ?? params.allowedValues ?? params.allowedValue;
  const detail = which === undefined ? "" : ` ${JSON.stringify(which)}`;
  return `${path === "" ? "" : `${path}: `}${message}${detail}: ${shorten(JSON.stringify(data))}`;
}

function encode(result) {
  let text;
  try {
    text = JSON.stringify(result, refuseOthers);
  } catch (error) {
    throw new TypeError(`the result is not JSON: ${error.message}`);
  }
  // JSON.stringify does not refuse it.
  if (text === undefined) throw new TypeError("the result is not JSON: undefined");
  return text;
}

/** Refuses the values that `JSON.stringify` would replace or leave out. A property
 *  that is undefined is left out, as everywhere in JavaScript. */
function refuseOthers(key, value) {
  const isJson =
    typeof value === "number" ? Number.isFinite(value)
    : typeof value === "undefined" ? !Array.isArray(this)
    : typeof value === "object" ? !isContainer(value)
    : typeof value === "string" || typeof value === "boolean";
  if (!isJson) throw new TypeError(`${key === "" ? "" : `${key}: `}${nameOf(value)}`);
  return value;
}

function isContainer(value) {
  return (
    ArrayBuffer.isView(value) || [ArrayBuffer, Map, Set, Promise].some((type) => value instanceof type)
  );
}

function nameOf(value) {
  switch (typeof value) {
    case "object":
      return value.constructor.name;
    case "function":
    case "symbol":
      return typeof value;
    case "bigint":
      return `the bigint ${value}`;
    default:
      return String(value);
  }
}

/** Writes an error to the host's log. Its message can hold a client's text: with a
 *  prefix, no line of it passes for one of the service. */
function log(name, error) {
  const text = error instanceof Error ? `${error}\n${error.stack}` : String(error);
  for (const line of text.toWellFormed().trim().split("\n")) console.error(`${name}: ${line}`);
}

function shorten(text) {
  return text.length <= 100 ? text : `${text.slice(0, 100)}…`;
}

/** A text that is cut within a character is no UTF-8, of which the component dies. */
function oneLine(error) {
  return String(error).toWellFormed().split(/\s+/).join(" ").trim();
}
