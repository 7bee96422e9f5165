// Numbers and times for people.

const whole = new Intl.NumberFormat("en");
const NONE = "–";

const digits = (value, most) =>
  new Intl.NumberFormat("en", { maximumFractionDigits: most }).format(value);

// Three digits, or all before the point.
const short = (value) => {
  if (value === 0) return "0";
  const before = Math.floor(Math.log10(Math.abs(value))) + 1;
  return digits(value, Math.min(Math.max(3 - before, 0), 6));
};

const or_none = (format) => (value) =>
  value === null || value === undefined ? NONE : format(value);

export const count = or_none((value) => whole.format(value));

export const rate = or_none((value) => `${short(value)}/s`);

export const ratio = or_none((value) => `${short(value * 100)} %`);

export const seconds = or_none((value) => {
  if (value === 0) return "0 s";
  if (value < 0.001) return `${short(value * 1e6)} µs`;
  if (value < 1) return `${short(value * 1e3)} ms`;
  return `${short(value)} s`;
});

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const clock_short = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

// From seconds since 1970, in the reader's time zone.
export const time = (at) => clock.format(at * 1000);
export const time_short = (at) => clock_short.format(at * 1000);

export const age = (value) => {
  if (value < 90) return `${Math.max(0, Math.round(value))} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  return `${Math.round(value / 3600)} h`;
};
