#!/usr/bin/env node
// `functional-scaffold`: builds the component of the algorithm in this folder,
// NAME.wasm, unless it is up to date.

import { mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const SDK = dirname(fileURLToPath(import.meta.url));

// The tools are those of the algorithm's package.json.
const require = createRequire(resolve("package.json"));

const manifest = JSON.parse(readFileSync("package.json", "utf8"));
const output = `${manifest.name}.wasm`;
if (isOutdated(output)) await build();

async function build() {
  const main = `./${manifest.main ?? "index.js"}`;
  const module = await import(pathToFileURL(main));
  const description = describe(module, main);

  const { Ajv2020 } = require("ajv/dist/2020");
  const { default: standaloneCode } = require("ajv/dist/standalone");
  // Formats are annotations, as draft 2020-12 has them.
  const ajv = new Ajv2020({ code: { source: true, esm: true }, verbose: true, validateFormats: false });
  const folder = "node_modules/.cache/functional-scaffold";
  mkdirSync(folder, { recursive: true });
  writeFileSync(`${folder}/validate.js`, standaloneCode(ajv, ajv.compile(module.input)));

  const entry = `
    import "functional-scaffold/console";
    import run from ${JSON.stringify(main)};
    import validate from "./${folder}/validate.js";
    import { component } from "functional-scaffold/component";
    export const algorithm = component(run, validate, ${JSON.stringify(description)});
  `;
  const { outputFiles } = await require("esbuild").build({
    stdin: { contents: entry, resolveDir: "." },
    bundle: true,
    format: "esm",
    platform: "neutral",
    mainFields: ["module", "main"],
    // The SDK may be a link to a folder outside of this one.
    preserveSymlinks: true,
    external: ["wasi:*"],
    write: false,
  });
  const { component } = await require("componentize-qjs").componentize({
    witPath: join(SDK, "wit"),
    world: "component",
    jsSource: outputFiles[0].text,
    sync: true,
  });
  writeFileSync(output, component);
  console.log(`${output}: ${component.length} bytes`);
}

function describe(module, main) {
  const { default: run, input: schema, name = manifest.name } = module;
  if (typeof run !== "function") throw new TypeError(`${main} has no function as its default export`);
  if (run.constructor.name === "AsyncFunction") throw new TypeError(`${main}: the function is async, but an execution waits for nothing`);
  if (schema === undefined) throw new TypeError(`${main} does not export input, the JSON Schema of its input`);
  if (!/^[a-z][a-z0-9-]{0,63}$/.test(name)) throw new TypeError(`the name ${JSON.stringify(name)} does not match [a-z][a-z0-9-]{0,63}`);
  const { version = manifest.version, summary = manifest.description ?? "" } = module;
  return { name, version, summary, inputSchema: JSON.stringify(schema) };
}

/** Whether a file of the algorithm or of the SDK is newer than the component. */
function isOutdated(output) {
  const modified = (path) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  const built = modified(output);
  const files = (folder) =>
    readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
      const path = join(folder, entry.name);
      if (entry.name === "node_modules" || entry.name.startsWith(".") || path === output) return [];
      return entry.isDirectory() ? files(path) : [path];
    });
  return [...files("."), ...files(SDK)].some((path) => modified(path) > built);
}
