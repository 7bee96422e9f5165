// Polls /api/recent and shows the response. Missing and outdated values are shown as
// such.

import { Chart } from "./chart.js";
import { age, time } from "./format.js";
import { panels, tiles } from "./panels.js";

const TIMEOUT_MS = 10_000;
const RETRY_MS = 2_000;
// Reads that may be missing before the numbers count as late.
const MISSED_READS = 3;

const REASONS = {
  connection: "it does not accept a connection, or broke it",
  timeout: "it does not reply in time",
  auth: "it refuses the exporter's credentials",
  loading: "it is loading its data",
  server: "it replies with an error",
  internal: "the exporter has a defect",
};

const by_id = (id) => document.getElementById(id);
const charts = panels.map((panel) => new Chart(panel, by_id("panels")));
const values = tiles.map((tile) => {
  const [box, title, value, note] = ["div", "dt", "dd", "dd"].map((name) => document.createElement(name));
  box.id = tile.id;
  title.textContent = tile.title;
  value.className = "value";
  note.className = "note";
  note.textContent = tile.note;
  box.append(title, value, note);
  by_id("tiles").append(box);
  return { tile, box, value };
});

// The last response, and when it came by this machine's clock.
let recent = null;
let received = 0;
let failure = null;

async function fetch_recent() {
  const response = await fetch("api/recent", {
    cache: "no-store",
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`.trim());
  return response.json();
}

async function poll() {
  let pause = RETRY_MS;
  // A hidden page sends no requests.
  if (!document.hidden) {
    try {
      recent = await fetch_recent();
      received = Date.now();
      failure = null;
      show_links();
      if (!recent.recording) return show_off();
      show();
      pause = Math.min(recent.interval_seconds * 1000, TIMEOUT_MS);
    } catch (error) {
      failure = error.message;
    }
    show_state();
  }
  setTimeout(poll, pause);
}

function show() {
  const { latest } = recent;
  for (const { tile, box, value } of values) {
    const number = latest ? tile.value(latest) : null;
    value.textContent = tile.format(number);
    value.dataset.value = number ?? "";
    box.classList.toggle("bad", number !== null && (tile.is_bad?.(number) ?? false));
  }
  for (const chart of charts) chart.show(recent);
  by_id("empty").hidden = !latest || latest.requests_total > 0;
}

// Version and links, which do not depend on the recorded values.
function show_links() {
  by_id("version").textContent = recent.version;
  for (const name of ["prometheus", "grafana"]) {
    const link = by_id(name);
    const address = recent.links[name];
    link.hidden = !address;
    if (address) link.href = address;
  }
}

// Final: recording needs a restart of the exporter.
function show_off() {
  for (const name of ["empty", "tiles", "panels", "rates", "problem"]) by_id(name).hidden = true;
  by_id("off").hidden = false;
  set_state("off", "not recording");
}

function set_state(state, words) {
  document.body.dataset.state = state;
  by_id("state").textContent = words;
}

// The age of the newest values: by the exporter's clock until its last response, and
// by this machine's since then.
function show_state() {
  const since_response = (Date.now() - received) / 1000;
  const of = recent?.latest?.time;
  const old = of === undefined ? null : recent.now - of + since_response;
  const limit = recent ? MISSED_READS * recent.interval_seconds + TIMEOUT_MS / 1000 : 0;
  const shown = of === undefined ? "There are no values yet." : `The values are from ${time(of)}.`;
  let state = "live";
  let problem = "";
  if (failure !== null) {
    state = "silent";
    problem = `The exporter does not respond (${failure}). ${shown}`;
  } else if (recent?.redis?.up === false) {
    const { reason, since } = recent.redis;
    state = "down";
    problem = `Redis cannot be read since ${time(since)}: ${REASONS[reason] ?? reason}. ${shown}`;
  } else if (old !== null && old > limit) {
    state = "late";
    problem = `The exporter has not read Redis for ${age(old)}. ${shown}`;
  } else if (old === null) {
    state = "waiting";
  }
  const words = {
    live: `live, read ${age(old ?? 0)} ago`,
    waiting: "waiting for the first read",
    down: "Redis is down",
    late: "late",
    silent: "no response",
  };
  set_state(state, words[state]);
  by_id("problem").hidden = problem === "";
  // Screen readers announce it once, not every second.
  if (by_id("problem").textContent !== problem) by_id("problem").textContent = problem;
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of charts) if (chart.recent) chart.draw();
});
setInterval(() => recent?.recording && show_state(), 1000);
poll();
