// Alerts. They use only the series of recording.libsonnet, and fire per application and
// scheme, in each place. Each has a runbook in docs/guide.md, and a unit test in which it
// fires and one in which it does not.
//
// Names begin with FunctionalScaffold, so that they do not collide with those of other
// mixins (redis-mixin has a RedisDown). `severity` is critical for what must wake
// someone, and warning for the rest.
{
  local config = $._config,
  local lib = (import 'lib.libsonnet')(config),
  local d = lib.duration,

  local alert(name, severity, pending, expr, summary, description, labels={}) = {
    alert: name,
    expr: expr,
    [if pending != null then 'for']: d(pending),
    labels: { severity: severity } + labels,
    annotations: {
      summary: summary,
      description: description,
      runbook_url: lib.runbook(name),
    },
  },

  // An error budget that burns too fast. The budget is 1 less the objective.
  local burning(name, what, objective, ratio, bad, isBad, isOk) = [
    alert(
      name,
      rate.severity,
      null,
      |||
        %(ratio)s%(long)s > %(factor)s * (1 - %(objective)s)
          and
        %(ratio)s%(short)s > %(factor)s * (1 - %(objective)s)
          and
        %(bad)s:increase%(long)s >= %(floor)d
      ||| % {
        ratio: ratio,
        long: rate.long,
        short: rate.short,
        factor: rate.factor,
        objective: '%g' % objective,
        bad: bad,
        floor: config.trafficFloor,
      },
      'the %s budget of {{ $labels.job }} burns at more than %s times its rate' % [what, rate.factor],
      '{{ $value | humanizePercentage }} of the responses of the last %s, and about as many of the last %s, %s. The objective is that %s %s. Probes are not counted.' % [
        rate.long,
        rate.short,
        isBad,
        lib.percent(objective),
        isOk,
      ],
      { long_window: rate.long, short_window: rate.short },
    )
    for rate in config.burnRates
  ],

  // A counter that grew. If a series first appears with a value above 0, it grew as
  // well, unless it is only new to this Prometheus, or returns with Redis after an
  // outage.
  local grew(series, window) = |||
    increase(%(series)s[%(window)s]) > 0
      or
    (
      %(series)s > 0
        unless
      %(series)s offset %(window)s
    )
      and %(on)s
    min without (shard) (job_scheme:functional_scaffold_redis_up:max offset %(window)s) == 1
  ||| % { series: series, window: d(window), on: lib.on },

  // The target does not respond, or service discovery lost one that it had.
  local isDown(up) = |||
    %(up)s == 0
      or
    (max_over_time(%(up)s[%(hour)s]) unless %(up)s)
  ||| % { up: up, hour: d('1h') },

  prometheusAlerts+:: {
    groups+: [
      {
        name: 'functional_scaffold_burn_rates',
        rules:
          burning(
            'FunctionalScaffoldErrorBudgetBurn',
            'error',
            config.availabilitySlo,
            'job_scheme:user_errors_per_user_requests:ratio_rate',
            'job_scheme:user_errors',
            'failed (5xx)',
            'do not fail',
          )
          + burning(
            'FunctionalScaffoldLatencyBudgetBurn',
            'latency',
            config.latencySlo.ratio,
            'job_scheme:slow_user_requests_per_user_requests:ratio_rate',
            'job_scheme:slow_user_requests',
            'took longer than %ss' % config.latencySlo.seconds,
            'take no longer than %ss' % config.latencySlo.seconds,
          ),
      },
      {
        name: 'functional_scaffold_alerts',
        rules: [
          // A ratio. `rate(http_requests_total{status="error"}[5m]) > 0.05` would compare
          // errors per second instead. `for` equals the window of the rate, so that a
          // single error in a quiet hour (100 % for five minutes) does not fire.
          alert(
            'HighErrorRate',
            'critical',
            '5m',
            'job_scheme:user_errors_per_user_requests:ratio_rate5m > %g' % config.errorRatio,
            '{{ $value | humanizePercentage }} of the requests to {{ $labels.job }} fail',
            'More than %s of all responses have been 5xx for five minutes. Probes are not counted.' % lib.percent(config.errorRatio),
          ),
          // The service initialises its crash counter to 0, so the first crash is an
          // increase. An app behind the middleware has no executions: its crashes are the
          // leases without an algorithm that were settled.
          alert(
            'FunctionalScaffoldAlgorithmCrashed',
            'warning',
            null,
            |||
              increase(job_scheme:functional_scaffold_leases_settled_total:max{algorithm=""}[%s]) > 0
                or
            ||| % d('10m') + grew('job_scheme:algorithm_executions_total:sum{status="crashed"}', '10m'),
            '{{ or $labels.algorithm "an app" }} crashed',
            'About {{ $value | printf "%.0f" }} executions of {{ or $labels.algorithm "an app" }} in {{ $labels.job }} have crashed in the last ten minutes: a trap, an endless loop, or a host that died.',
          ),
          // `for` equals the window, as for HighErrorRate.
          alert(
            'FunctionalScaffoldAlgorithmCrashing',
            'critical',
            '5m',
            'job_scheme:crashes_per_executions:ratio_rate5m > %g' % config.crashRatio,
            '{{ $value | humanizePercentage }} of the executions of {{ or $labels.algorithm "an app" }} crash',
            'More than %s of the executions of {{ or $labels.algorithm "an app" }} in {{ $labels.job }} have crashed for five minutes.' % lib.percent(config.crashRatio),
          ),
          // Resolves an hour after the last request.
          alert(
            'FunctionalScaffoldNoTraffic',
            'warning',
            '10m',
            |||
              job_scheme:user_requests:rate5m == 0
                and
              avg_over_time(job_scheme:user_requests:rate5m[%s]) > %s
            ||| % [d('1h'), config.noTrafficFloor],
            '{{ $labels.job }} has had no requests for 15 minutes',
            'There was more than a request a minute in the last hour, and there is none now. Probes are not counted.',
          ),
          // All other alerts are silent about an application that is not scraped at all.
          alert(
            'FunctionalScaffoldNotScraped',
            'critical',
            '5m',
            'absent(job_scheme:up:max)',
            'Prometheus has no target of Functional Scaffold',
            'Service discovery finds no exporter, Pushgateway or app with a label `scheme`, or has lost them all. No other alert of the application can fire.',
          ),
          alert(
            'FunctionalScaffoldExporterDown',
            'critical',
            '2m',
            isDown('job_scheme:up:max{scheme="redis"}'),
            'Prometheus cannot scrape any exporter of {{ $labels.job }}',
            'No metrics are served until an exporter is back. Nothing is lost: the app goes on counting in Redis. Crashes are counted only once an exporter runs again.',
          ),
          alert(
            'FunctionalScaffoldPushgatewayDown',
            'critical',
            '2m',
            isDown('job_scheme:up:max{scheme="pushgateway"}'),
            'Prometheus cannot scrape the Pushgateway ({{ $labels.job }})',
            'No pushed metrics are served. What instances could not push goes to their logs, and a relay pushes again once the Pushgateway is back.',
          ),
          alert(
            'FunctionalScaffoldPullTargetDown',
            'critical',
            '2m',
            isDown('job_scheme:up:min{scheme="pull"}'),
            'Prometheus cannot scrape an app of {{ $labels.job }}',
            'What an app has counted since its last scrape is lost if it ended. Its counts begin at 0 when it starts again.',
          ),
          // A relay that ends deletes its group, so its series may also be gone.
          alert(
            'FunctionalScaffoldRelayStale',
            'critical',
            '1m',
            |||
              time() - job_scheme:push_time_seconds:max > %g
                or
              (
                max_over_time(job_scheme:push_time_seconds:max[%s])
                  unless
                job_scheme:push_time_seconds:max
              )
            ||| % [lib.seconds(config.relayStaleAfter), d('1h')],
            'no relay of {{ $labels.job }} pushes',
            'The last push is more than %s ago, or the relay has deleted its group. Nothing is lost: the app goes on counting in Redis. Crashes are counted only once a relay or an exporter runs again.' % config.relayStaleAfter,
          ),
          alert(
            'FunctionalScaffoldRedisDown',
            'critical',
            '1m',
            'job_scheme:functional_scaffold_redis_up:max == 0',
            'no exporter of {{ $labels.job }} can read Redis{{ with $labels.shard }} (shard {{ . }}){{ end }}',
            'The app goes on serving. Counts that it cannot store within a second go to its log; replay them once Redis is back.',
          ),
          // A logged batch stays out of Redis until it is replayed.
          alert(
            'FunctionalScaffoldBatchesLogged',
            'warning',
            null,
            grew('job_scheme:functional_scaffold_flush_failures_total:sum{outcome="logged"}', '15m'),
            '{{ $labels.job }} wrote metrics to its log',
            'About {{ $value | printf "%.0f" }} batches could not be stored in the last 15 minutes. They are in the log of the app, and no total contains them until they are replayed.',
          ),
          alert(
            'FunctionalScaffoldFollowFailing',
            'warning',
            '5m',
            isDown('job_scheme:functional_scaffold_follow_up:min'),
            'batches in the log of {{ $labels.job }} are not stored',
            'For five minutes, an exporter or container that follows a log has been down, or could not read a log, reach Redis, or find the key. Its own log says which. Batches wait in the log of the app.',
          ),
          // Rotation deletes what is not read in time, whatever the reason.
          alert(
            'FunctionalScaffoldFollowLagging',
            'warning',
            '1m',
            'job_scheme:functional_scaffold_follow_lag_bytes:max > %d' % config.followLagBytes,
            '{{ $value | humanize1024 }}B of a log of {{ $labels.job }} wait to be read',
            'Rotation deletes the oldest file of the log, and the batches in it are then lost. The default keeps 160 MiB.',
          ),
          alert(
            'FunctionalScaffoldFollowSkipping',
            'warning',
            null,
            'job_scheme:functional_scaffold_follow_skipped:increase15m > 0',
            'batches in the log of {{ $labels.job }} are left out ({{ $labels.reason }})',
            'About {{ $value | printf "%.0f" }} batches or lines were left out in the last 15 minutes, and no total contains them. The log of the exporter or container that follows names each.',
          ),
          // A failed attempt is retried, so it matters only if failures continue.
          alert(
            'FunctionalScaffoldFlushFailing',
            'warning',
            null,
            |||
              min_over_time(job_scheme:functional_scaffold_flush_failures:rate5m{outcome="failed"}[%(window)s]) > 0
                and
              job_scheme:functional_scaffold_flush_failures:rate5m{outcome="failed"} offset %(window)s
            ||| % { window: d('10m') },
            '{{ $labels.job }} fails to store metrics',
            'Attempts to store a batch have failed for ten minutes. They are repeated, and what cannot be stored within a second goes to the log.',
          ),
          // A lease carries its due time, so this holds for every execution limit.
          alert(
            'FunctionalScaffoldUnsettledLeases',
            'warning',
            '2m',
            'job_scheme:functional_scaffold_oldest_lease_overdue_seconds:max > 0',
            'expired leases of {{ $labels.job }} are not settled',
            'An execution lease expired {{ $value | humanizeDuration }} ago and is still open. An exporter that may run scripts in Redis counts such an execution as crashed.',
          ),
          alert(
            'FunctionalScaffoldDecodeErrors',
            'warning',
            '5m',
            'job_scheme:functional_scaffold_decode_errors:max > 0',
            'the exporter of {{ $labels.job }} cannot serve a part of {{ $labels.family }}',
            '{{ $value }} fields, keys or registrations in Redis cannot be served ({{ $labels.reason }}). The log of the exporter names them.',
          ),
          alert(
            'FunctionalScaffoldRegressions',
            'warning',
            null,
            'job_scheme:functional_scaffold_regressions:increase15m > 0',
            'Redis has lost counts of {{ $labels.job }}',
            'About {{ $value | printf "%.0f" }} series went backwards: a failover, a restart without the last writes, or an old backup. They are served from their highest value on.',
          ),
          alert(
            'FunctionalScaffoldSeriesLimited',
            'warning',
            null,
            grew('job_scheme:functional_scaffold_series_limited_total:max', '15m'),
            '{{ $labels.family }} of {{ $labels.job }} has reached its limit of series',
            'New label values of {{ $labels.family }} are counted as `other` (a new gauge is dropped). The limit is `metrics_max_series`.',
          ),
          alert(
            'FunctionalScaffoldRedisMemoryHigh',
            'warning',
            '5m',
            |||
              job_scheme:functional_scaffold_redis_memory_used_bytes:max
                /
              (job_scheme:functional_scaffold_redis_memory_max_bytes:max > 0)
                > %g
            ||| % config.redisMemoryRatio,
            'the Redis of {{ $labels.job }} uses {{ $value | humanizePercentage }} of its memory{{ with $labels.shard }} (shard {{ . }}){{ end }}',
            'When its memory is full, Redis refuses writes (noeviction) or deletes data (any other policy).',
          ),
          alert(
            'FunctionalScaffoldRedisPersistenceFailing',
            'critical',
            '2m',
            'job_scheme:functional_scaffold_redis_persistence_ok:min == 0',
            'the Redis of {{ $labels.job }} cannot write to disk ({{ $labels.kind }}{{ with $labels.shard }}, shard {{ . }}{{ end }})',
            'Redis refuses writes (MISCONF), unless stop-writes-on-bgsave-error is off: then a restart loses what was counted since.',
          ),
          // Without a limit on memory, nothing is evicted.
          alert(
            'FunctionalScaffoldRedisMayEvict',
            'critical',
            '5m',
            |||
              job_scheme:functional_scaffold_redis_maxmemory_policy:max{policy!="noeviction"} == 1
                and ignoring (policy)
              job_scheme:functional_scaffold_redis_memory_max_bytes:max > 0
            |||,
            'the Redis of {{ $labels.job }} deletes data when its memory is full{{ with $labels.shard }} (shard {{ . }}){{ end }}',
            'maxmemory-policy is {{ $labels.policy }}. Redis may delete counts, the ids of stored batches, or the record of removed series.',
          ),
        ],
      },
    ],
  },
}
