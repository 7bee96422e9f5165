// Asks /api/recent again and again, and shows the answer. What the exporter does
// not know, or no longer says, is shown as such.

import { Chart } from "./chart.js";
import { age, time } from "./format.js";
import { panels, tiles } from "./panels.js";

const GIVE_UP_MS = 10_000;
const RETRY_MS = 2_000;
// Reads that may be missing until the numbers are called late.
const MISSED_READS = 3;

const WHY = {
  connection: "it does not accept a connection, or broke it",
  timeout: "it does not answer in time",
  auth: "it refuses the exporter's credentials",
  loading: "it is loading its data",
  server: "it answers with an error",
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

// The last answer, and when it came by this machine's clock.
let recent = null;
let answered = 0;
let silence = null;

async function ask() {
  const response = await fetch("api/recent", {
    cache: "no-store",
    signal: AbortSignal.timeout(GIVE_UP_MS),
  });
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`.trim());
  return response.json();
}

async function follow() {
  let pause = RETRY_MS;
  // A page that nobody looks at asks nothing.
  if (!document.hidden) {
    try {
      recent = await ask();
      answered = Date.now();
      silence = null;
      lead();
      if (!recent.recording) return say_off();
      show();
      pause = Math.min(recent.interval_seconds * 1000, GIVE_UP_MS);
    } catch (error) {
      silence = error.message;
    }
    say_how_old();
  }
  setTimeout(follow, pause);
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

// What does not depend on what was recorded.
function lead() {
  by_id("version").textContent = recent.version;
  for (const name of ["prometheus", "grafana"]) {
    const link = by_id(name);
    const address = recent.links[name];
    link.hidden = !address;
    if (address) link.href = address;
  }
}

// For as long as the page is open: the exporter would have to be started anew.
function say_off() {
  for (const name of ["empty", "tiles", "panels", "rates", "trouble"]) by_id(name).hidden = true;
  by_id("off").hidden = false;
  set_state("off", "not recording");
}

function set_state(state, words) {
  document.body.dataset.state = state;
  by_id("state").textContent = words;
}

// How old the newest number is: by the exporter's clock until its last answer,
// and by this machine's since then.
function say_how_old() {
  const since_answer = (Date.now() - answered) / 1000;
  const of = recent?.latest?.time;
  const old = of === undefined ? null : recent.now - of + since_answer;
  const limit = recent ? MISSED_READS * recent.interval_seconds + GIVE_UP_MS / 1000 : 0;
  const shown = of === undefined ? "There is nothing to show yet." : `What is shown is of ${time(of)}.`;
  let state = "live";
  let trouble = "";
  if (silence !== null) {
    state = "silent";
    trouble = `The exporter does not answer (${silence}). ${shown}`;
  } else if (recent?.redis?.up === false) {
    const { reason, since } = recent.redis;
    state = "down";
    trouble = `Redis cannot be read since ${time(since)}: ${WHY[reason] ?? reason}. ${shown}`;
  } else if (old !== null && old > limit) {
    state = "late";
    trouble = `The exporter has not read Redis for ${age(old)}. ${shown}`;
  } else if (old === null) {
    state = "waiting";
  }
  const words = {
    live: `live, read ${age(old ?? 0)} ago`,
    waiting: "waiting for the first read",
    down: "Redis is down",
    late: "late",
    silent: "no answer",
  };
  set_state(state, words[state]);
  by_id("trouble").hidden = trouble === "";
  // Said once, not every second.
  if (by_id("trouble").textContent !== trouble) by_id("trouble").textContent = trouble;
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of charts) if (chart.recent) chart.draw();
});
setInterval(() => recent?.recording && say_how_old(), 1000);
follow();
