// The panels, like those of the Grafana dashboard, and the tiles above them: where each
// number is in the response of /api/recent, and its name.

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
    about: "per second, by status; health checks and scrapes included",
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
    about: "time of users' requests in the app, quantiles",
    format: seconds,
    nothing: "no users' requests in this time",
    is_nothing: (value) => value === null,
    series: quantiles("request_duration_seconds"),
  },
  {
    id: "executions",
    title: "Executions",
    about: "per second, by status",
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
    about: "share of 5xx responses to users",
    format: ratio,
    nothing: "no users' requests in this time",
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
    // The threshold of the alert HighErrorRate.
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
    note: "of executions in flight",
    format: seconds,
    value: (latest) => latest.oldest_lease_age_seconds,
  },
];
