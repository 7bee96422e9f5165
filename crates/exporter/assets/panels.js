// What there is to see: the panels of the Grafana dashboard, and the tiles above
// them. Where a number is in the answer of /api/recent, and what it is called.

import { count, rate, ratio, seconds } from "./format.js";

const quantiles = (column) => [
  { name: "P50", colour: "--p50", values: (recent) => recent[column].p50 },
  { name: "P95", colour: "--p95", values: (recent) => recent[column].p95 },
  { name: "P99", colour: "--p99", values: (recent) => recent[column].p99 },
];

const statuses = (totals, column, colours) =>
  Object.entries(colours).map(([status, colour]) => ({
    name: status.replace("_", " "),
    colour,
    values: (recent) => recent[column][status],
    total: (recent) => recent.latest?.[totals][status],
  }));

export const panels = [
  {
    id: "requests",
    title: "Requests",
    about: "per second, by class; health checks and scrapes included",
    format: rate,
    nothing: "no requests in this time",
    is_nothing: (value) => !value,
    series: statuses("requests", "requests_per_second", {
      success: "--blue",
      rejected: "--amber",
      error: "--red",
    }),
  },
  {
    id: "request-latency",
    title: "Request latency",
    about: "what users waited in the app, quantiles",
    format: seconds,
    nothing: "no requests of users in this time",
    is_nothing: (value) => value === null,
    series: quantiles("request_duration_seconds"),
  },
  {
    id: "executions",
    title: "Executions",
    about: "per second, by how they ended",
    format: rate,
    nothing: "no executions in this time",
    is_nothing: (value) => !value,
    series: statuses("executions", "executions_per_second", {
      success: "--blue",
      invalid_input: "--amber",
      failed: "--red",
      crashed: "--violet",
    }),
  },
  {
    id: "execution-latency",
    title: "Execution latency",
    about: "time in the algorithm itself, quantiles",
    format: seconds,
    nothing: "no executions in this time",
    is_nothing: (value) => value === null,
    series: quantiles("execution_duration_seconds"),
  },
  {
    id: "error-ratio",
    title: "Error rate",
    about: "answers 5xx, as a part of all that users got",
    format: ratio,
    nothing: "no requests of users in this time",
    is_nothing: (value) => value === null,
    wide: true,
    series: [{ name: "errors", colour: "--red", values: (recent) => recent.error_ratio }],
  },
];

export const tiles = [
  {
    id: "requests-total",
    title: "Requests",
    note: "in total",
    format: count,
    value: (latest) => latest.requests_total,
  },
  {
    id: "request-rate",
    title: "Request rate",
    note: "last minute",
    format: rate,
    value: (latest) => latest.requests_per_second,
  },
  {
    id: "error-ratio-now",
    title: "Error rate",
    note: "5xx, last minute",
    format: ratio,
    value: (latest) => latest.error_ratio,
    // Where the alert HighErrorRate begins.
    is_bad: (value) => value > 0.05,
  },
  {
    id: "executions-total",
    title: "Executions",
    note: "in total",
    format: count,
    value: (latest) => latest.executions_total,
  },
  {
    id: "in-flight",
    title: "In flight",
    note: "executions, now",
    format: count,
    value: (latest) => latest.in_flight,
  },
  {
    id: "oldest-lease",
    title: "Oldest lease",
    note: "of what is in flight",
    format: seconds,
    value: (latest) => latest.oldest_lease_age_seconds,
  },
];
