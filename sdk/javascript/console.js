// `console`, which the engine does not have: writes to the host's log.

import stderr from "wasi:cli/stderr@0.2.12";

/** The most bytes that one write takes. */
const CHUNK = 4096;

function write(...values) {
  const text = `${values.map(format).join(" ")}\n`;
  // The engine has no TextEncoder.
  const bytes = Uint8Array.from(unescape(encodeURIComponent(text.toWellFormed())), (c) => c.charCodeAt(0));
  const stream = stderr.getStderr();
  for (let at = 0; at < bytes.length; at += CHUNK) {
    stream.blockingWriteAndFlush(bytes.subarray(at, at + CHUNK));
  }
}

function format(value) {
  if (value instanceof Error) return `${value}\n${value.stack}`;
  if (typeof value !== "object") return String(value);
  try {
    return JSON.stringify(value);
  } catch {
    return String(value);
  }
}

globalThis.console = { debug: write, error: write, info: write, log: write, trace: write, warn: write };
