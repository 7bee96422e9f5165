// Every parameter of the rules and the dashboard. Change it here, or in your own mixin:
//
//     (import 'mixin.libsonnet') + { _config+:: { availabilitySlo: 0.9995 } }
{
  _config+:: {
    // Service level objectives. Availability: the fraction of responses to users that
    // are not 5xx. Latency: the fraction of responses that take no longer than
    // `seconds`, which must be a bucket of http_request_duration_seconds. The error
    // budget is what an objective leaves, over `sloPeriod`.
    availabilitySlo: 0.999,
    latencySlo: { seconds: 1, ratio: 0.99 },
    sloPeriod: '30d',

    // An alert on a burn rate fires if the budget burns this many times too fast over
    // both windows: the long one shows that it matters, the short one that it still
    // does. 14.4 uses up 2 % of 30 days' budget in an hour, 6 uses up 5 % in 6 hours,
    // 3 and 1 use up 10 % in a day and in 3 days
    // (https://sre.google/workbook/alerting-on-slos/).
    burnRates: [
      { factor: 14.4, long: '1h', short: '5m', severity: 'critical' },
      { factor: 6, long: '6h', short: '30m', severity: 'critical' },
      { factor: 3, long: '1d', short: '2h', severity: 'warning' },
      { factor: 1, long: '3d', short: '6h', severity: 'warning' },
    ],
    // The traffic floor: failed (or slow) requests that the long window must have.
    // It counts these and not all requests, so that one error among few requests does
    // not page, and a service that fails every one of its few requests does.
    trafficFloor: 5,

    // HighErrorRate.
    errorRatio: 0.05,
    // Fraction of executions that crash, above which it pages.
    crashRatio: 0.01,
    // Requests per second over an hour, above which no requests at all is an alert.
    noTrafficFloor: '1 / 60',
    // Fraction of Redis's maxmemory that is in use.
    redisMemoryRatio: 0.9,
    // Bytes of an app's log that wait to be read. The container files keep 160 MiB.
    followLagBytes: 64 * 1024 * 1024,
    // Age of a relay's last push. Relays push every 15 s.
    relayStaleAfter: '2m',

    // Matchers that every scraped metric gets, as in 'cluster="eu", team="shop"'.
    selector: '',
    // Labels that tell places apart. The rules keep them, whatever they are.
    clusterLabel: 'cluster',
    namespaceLabel: 'namespace',

    // Where your team reads docs/guide.md. `#runbook-…` is appended.
    runbookBaseUrl: 'https://example.com/functional-scaffold/docs/guide.md',

    // Divides every window and every `for`. Tests set it, to see alerts fire in seconds.
    speed: 1,
  },
}
