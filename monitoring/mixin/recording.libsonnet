// Recording rules that give all three schemes the same series. Alerts, dashboard and
// guide use only these.
//
// Names follow level:metric:operations. The level `job_scheme` means that every label
// but `instance` is kept, `job` and `scheme` among them. Two schemes can be scraped at
// the same time, during a migration or because a relay pushes what an exporter also
// serves. Their series are never added to each other.
{
  local config = $._config,
  local lib = (import 'lib.libsonnet')(config),
  local scraped = lib.scraped,
  local rate5m(series) = 'rate(%s[%s])' % [series, lib.duration('5m')],

  // Written as `record: expr`, because these are many.
  local rules(pairs) = [{ record: pair[0], expr: pair[1] } for pair in pairs],

  // Totals over all instances:
  //
  // - redis: every exporter serves the same totals, so the maximum is the newest. So
  //   does every relay, each with its own group. A group that is left over, or that an
  //   old push has replaced, is below the maximum.
  // - pushgateway: one group for each app instance, which serves at most 128 requests.
  //   The groups are summed before the rate is taken: the rate of a single group is
  //   zero, because a group first appears with its final count. Deleting a single group
  //   makes the sum decrease, which Prometheus reads as a counter reset to the
  //   remaining sum. Delete all groups or none.
  // - pull: one target for each app, summed.
  local total(metric) = ['job_scheme:%s:sum' % metric, |||
    max without (instance) (%s)
      or
    sum without (instance) (%s)
  ||| % [scraped(metric, 'scheme="redis"'), scraped(metric, 'scheme=~"pushgateway|pull"')]],

  // The rate is taken of the sum, but for pull: there a restart of one of several apps
  // would decrease the sum, which Prometheus would read as a reset of all of them. So
  // for pull the rate of each app is taken first.
  local rateOf(record, metric) = ['job_scheme:%s:rate5m' % record, |||
    %s
      or
    sum without (instance) (%s)
  ||| % [
    rate5m('job_scheme:%s:sum{scheme!="pull"}' % metric),
    rate5m(scraped(metric, 'scheme="pull"')),
  ]],

  local max(metric, selector=scraped(metric)) =
    ['job_scheme:%s:max' % metric, 'max without (instance) (%s)' % selector],

  // A follower (`follow --listen`) is scraped with the scheme `follow`, so that its `up`
  // does not count as an exporter's. What it stores belongs to redis.
  local ofRedis(expr) = 'label_replace(%s, "scheme", "redis", "", "")' % std.strReplace(expr, '\n', ' '),

  // What a counter of a process counted in a time. Of one that is new, because its
  // process is, all that it has counted.
  local counted(counter, window) = '((%s unless last_over_time(%s[%s] offset %s)) or increase(%s[%s]))' % [
    counter,
    counter,
    lib.duration(window),
    lib.duration(window),
    counter,
    lib.duration(window),
  ],

  // The fraction of requests that a part of them is. There is no series without
  // traffic, and 0 without any of the part.
  local ratio(part, whole, window) = '%s\n  /\n(%s > 0)\n' % (
    if window == '5m' then [part, whole]
    // The average of one series instead of the rate of many: it reads fewer samples.
    else [
      'avg_over_time(%s[%s])' % [series, lib.duration(window)]
      for series in [part, whole]
    ]
  ),

  prometheusRules+:: {
    groups+: [
      {
        name: 'functional_scaffold_totals',
        rules: rules([
          total('http_requests_total'),
          total('http_request_duration_seconds_bucket'),
          total('algorithm_executions_total'),
          total('algorithm_execution_duration_seconds_bucket'),
          total('functional_scaffold_flush_failures_total'),
          // Only the redis scheme has leases, and a limit of series.
          max('functional_scaffold_unleased_executions_total'),
          max('functional_scaffold_late_results_total'),
          max('functional_scaffold_leases_settled_total'),
          max('functional_scaffold_series_limited_total'),
          max('algorithm_executions_in_flight'),
        ]),
      },
      {
        name: 'functional_scaffold_rates',
        rules: rules([
          rateOf('http_requests', 'http_requests_total'),
          rateOf('http_request_duration_seconds_bucket', 'http_request_duration_seconds_bucket'),
          rateOf('algorithm_executions', 'algorithm_executions_total'),
          rateOf('algorithm_execution_duration_seconds_bucket', 'algorithm_execution_duration_seconds_bucket'),
          rateOf('functional_scaffold_flush_failures', 'functional_scaffold_flush_failures_total'),
          ['job_scheme:user_requests:rate5m', |||
            sum without (method, endpoint, status, code) (
              job_scheme:http_requests:rate5m{%s}
            )
          ||| % lib.users],
          ['job_scheme:user_request_duration_seconds_bucket:rate5m', |||
            sum without (method, endpoint) (
              job_scheme:http_request_duration_seconds_bucket:rate5m{%s}
            )
          ||| % lib.users],
          // The share of executions that crash. An app behind the middleware has no
          // executions: its crashes are the leases without an algorithm that were settled.
          ['job_scheme:crashes_per_executions:ratio_rate5m', |||
            sum without (status) (job_scheme:algorithm_executions:rate5m{status="crashed"})
              /
            (sum without (status) (job_scheme:algorithm_executions:rate5m) > 0)
              or
            %s
              /
            (job_scheme:user_requests:rate5m > 0)
          ||| % rate5m('job_scheme:functional_scaffold_leases_settled_total:max{algorithm=""}')],
        ]),
      },
      // The service level indicators, over every window of the burn rates.
      {
        name: 'functional_scaffold_slo',
        rules: rules([
          ['job_scheme:user_errors:rate5m', |||
            sum without (method, endpoint, status, code) (
              job_scheme:http_requests:rate5m{status="error", %s}
            )
              or
            0 * job_scheme:user_requests:rate5m
          ||| % lib.users],
          // A crash that was counted by its lease has no duration.
          ['job_scheme:timed_user_requests:rate5m', |||
            sum without (le) (job_scheme:user_request_duration_seconds_bucket:rate5m{le="+Inf"})
          |||],
          ['job_scheme:slow_user_requests:rate5m', |||
            job_scheme:timed_user_requests:rate5m
              -
            sum without (le) (job_scheme:user_request_duration_seconds_bucket:rate5m{%s})
          ||| % lib.le],
        ] + std.flattenArrays([
          [
            [
              'job_scheme:user_errors_per_user_requests:ratio_rate' + window,
              ratio('job_scheme:user_errors:rate5m', 'job_scheme:user_requests:rate5m', window),
            ],
            [
              'job_scheme:slow_user_requests_per_user_requests:ratio_rate' + window,
              ratio('job_scheme:slow_user_requests:rate5m', 'job_scheme:timed_user_requests:rate5m', window),
            ],
          ]
          for window in lib.windows
        ]) + std.flattenArrays([
          // For the traffic floor. The average of a rate would take the first hour of a
          // series for all of three days.
          [
            ['job_scheme:user_errors:increase' + rate.long, |||
              sum without (method, endpoint, status, code) (
                increase(job_scheme:http_requests_total:sum{status="error", %s}[%s])
              )
            ||| % [lib.users, lib.duration(rate.long)]],
            ['job_scheme:slow_user_requests:increase' + rate.long, |||
              sum without (method, endpoint, le) (
                increase(job_scheme:http_request_duration_seconds_bucket:sum{le="+Inf", %(users)s}[%(long)s])
              )
                -
              sum without (method, endpoint, le) (
                increase(job_scheme:http_request_duration_seconds_bucket:sum{%(le)s, %(users)s}[%(long)s])
              )
            ||| % { users: lib.users, le: lib.le, long: lib.duration(rate.long) }],
          ]
          for rate in config.burnRates
        ])),
      },
      // Metrics of the exporters and of what is scraped. One exporter that can read
      // Redis is enough, hence `max`. Counters are per exporter, so their rates are
      // taken before summing.
      {
        name: 'functional_scaffold_exporters',
        rules: rules([
          max('up', scraped('up', 'scheme=~"redis|pushgateway|pull"')),
          // Of several apps that are pulled, each has counts of its own.
          ['job_scheme:up:min', 'min without (instance) (%s)' % scraped('up', 'scheme="pull"')],
          // A relay's group; the metric is the Pushgateway's.
          max('push_time_seconds', scraped('push_time_seconds', 'scheme="redis"')),
          max('functional_scaffold_redis_up'),
          max('functional_scaffold_scrape_duration_seconds'),
          max('functional_scaffold_series'),
          max('functional_scaffold_oldest_lease_age_seconds'),
          max('functional_scaffold_oldest_lease_overdue_seconds'),
          max('functional_scaffold_last_flush_timestamp_seconds'),
          max('functional_scaffold_decode_errors'),
          [
            'job_scheme:functional_scaffold_redis_read_failures:rate5m',
            'sum without (instance) (%s)' % rate5m(scraped('functional_scaffold_redis_read_failures_total')),
          ],
          [
            'job_scheme:functional_scaffold_settle_failures:rate5m',
            'sum without (instance) (%s)' % rate5m(scraped('functional_scaffold_settle_failures_total')),
          ],
          // Only the exporter or relay that sees a regression first counts it.
          ['job_scheme:functional_scaffold_regressions_total:sum', 'sum without (instance) (%s)' % scraped('functional_scaffold_regressions_total')],
          [
            'job_scheme:functional_scaffold_regressions:increase15m',
            'sum without (instance) (increase(%s[%s]))' % [scraped('functional_scaffold_regressions_total'), lib.duration('15m')],
          ],
          max('functional_scaffold_redis_memory_used_bytes'),
          max('functional_scaffold_redis_memory_max_bytes'),
          max('functional_scaffold_redis_maxmemory_policy'),
          [
            'job_scheme:functional_scaffold_redis_persistence_ok:min',
            'min without (instance) (%s)' % scraped('functional_scaffold_redis_persistence_ok'),
          ],
          max('functional_scaffold_build_info'),
          // Of exporters and followers, each has logs of its own. One that is down is not up.
          ['job_scheme:functional_scaffold_follow_up:min', 'min without (instance) (%s)' % ofRedis(
            '%s or %s' % [scraped('functional_scaffold_follow_up'), scraped('up', 'scheme="follow"')],
          )],
          ['job_scheme:functional_scaffold_follow_lag_bytes:sum', 'sum without (instance) (%s)' % ofRedis(scraped('functional_scaffold_follow_lag_bytes'))],
          ['job_scheme:functional_scaffold_follow_lag_bytes:max', 'max without (instance) (%s)' % ofRedis(scraped('functional_scaffold_follow_lag_bytes'))],
          ['job_scheme:functional_scaffold_follow_skipped:increase15m', |||
            sum without (instance) (
              %s
            )
              or
            sum without (instance, outcome) (
              label_replace(
                %s,
                "reason", "$1", "outcome", "(.*)"
              )
            )
          ||| % [
            ofRedis(counted(scraped('functional_scaffold_follow_lines_refused_total'), '15m')),
            ofRedis(counted(scraped('functional_scaffold_follow_batches_total', 'outcome!~"applied|already_applied"'), '15m')),
          ]],
        ]),
      },
    ],
  },
}
