// The dashboard. It shows one application and scheme in one place, and uses only the
// series of recording.libsonnet.
{
  local config = $._config,
  local lib = (import 'lib.libsonnet')(config),
  local datasource = { type: 'prometheus', uid: '${datasource}' },

  // The labels of what is chosen. `further` are matchers.
  local place = '%s=~"$cluster", %s=~"$namespace"' % [config.clusterLabel, config.namespaceLabel],
  local of(series, further='') =
    '%s{%s, job="$job", scheme="$scheme"%s}' % [series, place, if further == '' then '' else ', ' + further],
  local algorithms = 'algorithm=~"$algorithm"',

  // A query and its legend.
  local query(expr, legend) = { expr: expr, legend: legend },
  // Grafana shows the exemplars of a series where there are any. Recorded series have
  // none, and the service attaches none (docs/adr/0021-scope.md).
  local quantiles(series, further='', sum='%s') = [
    query('histogram_quantile(%s, %s)' % [q[0], sum % of(series, further)], q[1]) + { exemplar: true }
    for q in [['0.50', 'P50'], ['0.95', 'P95'], ['0.99', 'P99']]
  ],

  local targets(queries, kind) = [
    {
      refId: std.char(std.codepoint('A') + i),
      expr: queries[i].expr,
      legendFormat: queries[i].legend,
      [kind]: true,
    } + (if std.objectHas(queries[i], 'exemplar') then { exemplar: true } else {})
    for i in std.range(0, std.length(queries) - 1)
  ],

  // Colours from these values on; the first has none.
  local steps(colours) = {
    mode: 'absolute',
    steps: [{ color: colours[i][1], value: colours[i][0] } for i in std.range(0, std.length(colours) - 1)],
  },
  local blue = [[null, 'blue']],
  local redFrom(value) = [[null, 'green'], [value, 'red']],
  local upOrDown = { mappings: [{ type: 'value', options: {
    '0': { text: 'down', color: 'red' },
    '1': { text: 'up', color: 'green' },
  } }] },
  local coloured(name, colour) = {
    matcher: { id: 'byName', options: name },
    properties: [{ id: 'color', value: { mode: 'fixed', fixedColor: colour } }],
  },

  local panel(type, title, description, size, unit, alert) = {
    type: type,
    title: title,
    description: description,
    datasource: datasource,
    gridPos: { w: size[0], h: size[1] },
    fieldConfig: { defaults: { unit: unit, min: 0 }, overrides: [] },
    links: if alert == null then [] else [
      { title: 'Runbook: ' + name, url: lib.runbook(name), targetBlank: true }
      for name in if std.isString(alert) then [alert] else alert
    ],
  },

  local stat(title, description, queries, size=[6, 4], unit='short', colours=blue, alert=null, more={}) =
    panel('stat', title, description, size, unit, alert) {
      targets: targets(queries, 'instant'),
      fieldConfig+: { defaults+: {
        decimals: if unit == 'short' then 0 else null,
        color: { mode: 'thresholds' },
        thresholds: steps(colours),
      } + more },
      options: {
        reduceOptions: { calcs: ['lastNotNull'], fields: '', values: false },
        colorMode: 'value',
        graphMode: 'none',
        textMode: 'auto',
      },
    },

  // `line` is a threshold that is drawn.
  local graph(title, description, queries, size=[12, 8], unit='short', line=null, bars=false, stacked=false, alert=null, more={}, overrides=[]) =
    panel('timeseries', title, description, size, unit, alert) {
      targets: targets(queries, 'range'),
      fieldConfig+: { overrides: overrides, defaults+: {
        color: { mode: 'palette-classic' },
        thresholds: steps(if line == null then blue else redFrom(line)),
        custom: {
          drawStyle: if bars then 'bars' else 'line',
          lineWidth: 1,
          fillOpacity: if bars then 80 else 10,
          showPoints: 'never',
          spanNulls: false,
          stacking: if stacked then { mode: 'normal', group: 'A' } else { mode: 'none' },
          [if line != null then 'thresholdsStyle']: { mode: 'line' },
        },
      } + more },
      options: {
        legend: { displayMode: 'table', placement: 'bottom', calcs: ['lastNotNull', 'max'] },
        tooltip: { mode: 'multi', sort: 'desc' },
      },
    },

  local budgetLeft(ratioOf, objective) =
    local average(series) = 'avg_over_time(%s[%s])' % [of(series), lib.duration(config.sloPeriod)];
    '1 - %s / (%s > 0) / (1 - %g)' % [average(ratioOf[0]), average(ratioOf[1]), objective],
  local errors = ['job_scheme:user_errors:rate5m', 'job_scheme:user_requests:rate5m'],
  local slow = ['job_scheme:slow_user_requests:rate5m', 'job_scheme:timed_user_requests:rate5m'],
  local burnRates(ratio, objective) = [
    query('%s / (1 - %g)' % [of(ratio + window), objective], window)
    for window in lib.windows
  ],

  local crashes(range) = |||
    increase(%s[%s])
      or
    increase(%s[%s])
  ||| % [
    of('job_scheme:algorithm_executions_total:sum', algorithms + ', status="crashed"'),
    range,
    of('job_scheme:functional_scaffold_leases_settled_total:max', 'algorithm=""'),
    range,
  ],
  local growth(series) = 'sum(increase(%s[$__rate_interval]))' % of(series, algorithms),
  local errorRatio = of('job_scheme:user_errors_per_user_requests:ratio_rate5m'),
  local target = '%g' % config.latencySlo.seconds,

  local sections = [
    { title: 'Requests and executions', panels: [
      stat(
        'Requests',
        'Requests in the time range, including probes.',
        [query('sum(increase(%s[$__range]))' % of('job_scheme:http_requests_total:sum'), 'requests')],
      ),
      stat(
        'Executions',
        'Executions that ended in the time range, including crashes.',
        [query('sum(increase(%s[$__range]))' % of('job_scheme:algorithm_executions_total:sum', algorithms), 'executions')],
      ),
      stat(
        'Error rate, now',
        'Fraction of responses with a 5xx code over the last five minutes, without probes. HighErrorRate fires above %s.' % lib.percent(config.errorRatio),
        [query(errorRatio, 'errors')],
        unit='percentunit',
        colours=[[null, 'green'], [0.01, 'yellow'], [config.errorRatio, 'red']],
        alert='HighErrorRate',
        more={ max: 1, noValue: 'no traffic' },
      ),
      stat(
        'Crashes',
        'Executions in the time range that ended without a result: a trap, an endless loop, or a host that died.',
        [query('sum(%s)' % crashes('$__range'), 'crashes')],
        colours=redFrom(0.5),
        alert='FunctionalScaffoldAlgorithmCrashed',
      ),
      graph(
        'Request rate',
        "Responses per second by class: rejected is 4xx (the caller's fault), error is 5xx (the service's fault). Five-minute average, including probes.",
        [query('sum by (status) (%s)' % of('job_scheme:http_requests:rate5m'), '{{status}}')],
        unit='reqps',
        stacked=true,
        alert='FunctionalScaffoldNoTraffic',
        overrides=[coloured('success', 'green'), coloured('rejected', 'yellow'), coloured('error', 'red')],
      ),
      graph(
        'Request latency',
        "Time from a request's arrival in the component to its response, without probes. The line is the objective: %s of the requests take no longer than %s s." % [lib.percent(config.latencySlo.ratio), target],
        quantiles('job_scheme:user_request_duration_seconds_bucket:rate5m'),
        unit='s',
        line=config.latencySlo.seconds,
        alert='FunctionalScaffoldLatencyBudgetBurn',
      ),
      graph(
        'Execution rate',
        'Executions per second by algorithm and status. Five-minute average.',
        [query('sum by (algorithm, status) (%s)' % of('job_scheme:algorithm_executions:rate5m', algorithms), '{{algorithm}} {{status}}')],
        unit='ops',
        stacked=true,
      ),
      graph(
        'Execution latency',
        'Time spent in the algorithm. Crashed executions are not included.',
        quantiles('job_scheme:algorithm_execution_duration_seconds_bucket:rate5m', algorithms, 'sum without (algorithm) (%s)'),
        unit='s',
      ),
      graph(
        'Error rate',
        'Fraction of responses with a 5xx code, without probes. A gap means no traffic. HighErrorRate fires above %s.' % lib.percent(config.errorRatio),
        [query(errorRatio, 'errors')],
        size=[24, 7],
        unit='percentunit',
        line=config.errorRatio,
        alert='HighErrorRate',
        more={ max: 1 },
      ),
    ] },
    { title: 'Objectives', panels: [
      stat(
        'Error budget left',
        'Part of the budget of failed requests that is left of %s. The objective is %s.' % [config.sloPeriod, lib.percent(config.availabilitySlo)],
        [query(budgetLeft(errors, config.availabilitySlo), 'left')],
        size=[4, 8],
        unit='percentunit',
        colours=[[null, 'red'], [0, 'yellow'], [0.5, 'green']],
        alert='FunctionalScaffoldErrorBudgetBurn',
        more={ min: null, max: 1, noValue: 'no traffic' },
      ),
      graph(
        'Error budget burn rate',
        'How many times too fast the budget burns: above 1 it does not last. An alert fires if a long and a short window are above its factor (%s).' % std.join(', ', ['%s: %s and %s' % [rate.factor, rate.long, rate.short] for rate in config.burnRates]),
        burnRates('job_scheme:user_errors_per_user_requests:ratio_rate', config.availabilitySlo),
        size=[8, 8],
        unit='short',
        line=1,
        alert='FunctionalScaffoldErrorBudgetBurn',
      ),
      stat(
        'Latency budget left',
        'Part of the budget of requests slower than %s s that is left of %s. The objective is %s.' % [target, config.sloPeriod, lib.percent(config.latencySlo.ratio)],
        [query(budgetLeft(slow, config.latencySlo.ratio), 'left')],
        size=[4, 8],
        unit='percentunit',
        colours=[[null, 'red'], [0, 'yellow'], [0.5, 'green']],
        alert='FunctionalScaffoldLatencyBudgetBurn',
        more={ min: null, max: 1, noValue: 'no traffic' },
      ),
      graph(
        'Latency budget burn rate',
        'As for errors, of the requests that take longer than %s s.' % target,
        burnRates('job_scheme:slow_user_requests_per_user_requests:ratio_rate', config.latencySlo.ratio),
        size=[8, 8],
        unit='short',
        line=1,
        alert='FunctionalScaffoldLatencyBudgetBurn',
      ),
    ] },
    { title: 'By route and by algorithm', panels: [
      graph(
        'Responses by route and code',
        'Responses per second by method, route and status code. Unknown paths are `unmatched`.',
        [query('sum by (method, endpoint, code) (%s)' % of('job_scheme:http_requests:rate5m'), '{{method}} {{endpoint}} {{code}}')],
        unit='reqps',
      ),
      graph(
        'P99 latency by route',
        'Including probes.',
        [query('histogram_quantile(0.99, %s)' % of('job_scheme:http_request_duration_seconds_bucket:rate5m'), '{{method}} {{endpoint}}') + { exemplar: true }],
        unit='s',
      ),
      panel('table', 'Executions by algorithm', 'Executions in the time range by algorithm and status.', [12, 8], 'short', null) {
        targets: [{
          refId: 'A',
          expr: 'sum by (algorithm, status) (increase(%s[$__range]))' % of('job_scheme:algorithm_executions_total:sum', algorithms),
          format: 'table',
          instant: true,
        }],
        fieldConfig+: { defaults+: {
          decimals: 0,
          color: { mode: 'palette-classic' },
          thresholds: steps(blue),
        } },
        options: { showHeader: true, cellHeight: 'sm' },
        transformations: [{
          id: 'groupingToMatrix',
          options: { columnField: 'status', rowField: 'algorithm', valueField: 'Value' },
        }],
      },
      graph(
        'P99 execution latency by algorithm',
        'Time spent in the algorithm.',
        [query('histogram_quantile(0.99, %s)' % of('job_scheme:algorithm_execution_duration_seconds_bucket:rate5m', algorithms), '{{algorithm}}')],
        unit='s',
      ),
    ] },
    { title: 'Crashes and leases (Redis)', panels: [
      graph(
        'Crashes',
        'Executions counted as crashed: at once if the guard caught the crash, otherwise 5 s after `execution_limit_ms` has passed.',
        [query('sum by (algorithm) (%s)' % crashes('$__rate_interval'), '{{algorithm}}')],
        size=[8, 8],
        bars=true,
        alert='FunctionalScaffoldAlgorithmCrashed',
      ),
      graph(
        'In flight',
        'Executions that began and have not ended, by algorithm (open leases).',
        [query('sum by (algorithm) (%s)' % of('job_scheme:algorithm_executions_in_flight:max', algorithms), '{{algorithm}}')],
        size=[8, 8],
        more={ decimals: 0 },
      ),
      graph(
        'Oldest open lease',
        'Age of the oldest open lease, and how long ago the first one expired. Expired leases are settled at once, so the second is 0 if all is well.',
        [
          query(of('job_scheme:functional_scaffold_oldest_lease_age_seconds:max'), 'age'),
          query(of('job_scheme:functional_scaffold_oldest_lease_overdue_seconds:max'), 'overdue'),
        ],
        size=[8, 8],
        unit='s',
        alert='FunctionalScaffoldUnsettledLeases',
      ),
      graph(
        'Lease failures',
        'Expired: counted as crashed. Late: a result that arrived after that. Unleased: Redis did not acknowledge the lease in time, so a crash would not have been counted.',
        [
          query(growth('job_scheme:functional_scaffold_leases_settled_total:max'), 'expired'),
          query(growth('job_scheme:functional_scaffold_late_results_total:max'), 'late'),
          query(growth('job_scheme:functional_scaffold_unleased_executions_total:max'), 'unleased'),
        ],
        size=[24, 7],
        bars=true,
      ),
    ] },
    { title: 'Health of the metrics', panels: [
      stat(
        'Exporter',
        'Whether Prometheus can scrape an exporter.',
        [query(of('job_scheme:up:max'), 'exporter')],
        size=[4, 5],
        unit='none',
        alert='FunctionalScaffoldExporterDown',
        more={ noValue: 'none' } + upOrDown,
      ),
      stat(
        'Redis',
        'Whether an exporter can read Redis.',
        [query(of('job_scheme:functional_scaffold_redis_up:max'), 'Redis')],
        size=[4, 5],
        unit='none',
        alert='FunctionalScaffoldRedisDown',
        more={ noValue: 'unknown' } + upOrDown,
      ),
      stat(
        'Last flush',
        'Time since a batch was last stored, by the clocks of Prometheus and Redis. A high value is a problem only while there is traffic.',
        [query('time() - ' + of('job_scheme:functional_scaffold_last_flush_timestamp_seconds:max'), 'ago')],
        size=[4, 5],
        unit='s',
        more={ min: null, noValue: 'never' },
      ),
      stat(
        'Regressions',
        'Series that decreased because Redis lost writes, since the exporters and relays started. They are served from their highest value on.',
        [query(of('job_scheme:functional_scaffold_regressions_total:sum'), 'series')],
        size=[4, 5],
        colours=redFrom(1),
        alert='FunctionalScaffoldRegressions',
      ),
      stat(
        'Decode errors',
        'Fields, keys and registrations in Redis that the exporter cannot serve.',
        [query('sum(%s) or vector(0)' % of('job_scheme:functional_scaffold_decode_errors:max'), 'errors')],
        size=[4, 5],
        colours=redFrom(1),
        alert='FunctionalScaffoldDecodeErrors',
      ),
      stat(
        'Firing alerts',
        'Alerts of this job that are firing.',
        [query('count(ALERTS{alertstate="firing", %s, job="$job"}) or vector(0)' % place, 'alerts')],
        size=[4, 5],
        colours=redFrom(1),
      ),
      graph(
        'Flush troubles',
        'Attempts to store a batch that failed, were duplicates (an answer had been lost; counted once), or ended in the log and wait to be replayed.',
        [query('sum by (outcome) (%s)' % of('job_scheme:functional_scaffold_flush_failures:rate5m'), '{{outcome}}')],
        size=[8, 8],
        unit='ops',
        alert=['FunctionalScaffoldBatchesLogged', 'FunctionalScaffoldFlushFailing'],
      ),
      graph(
        'Exporter failures',
        'Failed reads of Redis and failed attempts to settle expired leases, by reason.',
        [
          query('sum by (reason) (%s)' % of('job_scheme:functional_scaffold_redis_read_failures:rate5m'), 'read: {{reason}}'),
          query('sum by (reason) (%s)' % of('job_scheme:functional_scaffold_settle_failures:rate5m'), 'settle: {{reason}}'),
        ],
        size=[8, 8],
        unit='ops',
      ),
      graph(
        'Scrape duration',
        'Time that the exporter took to read Redis. Prometheus gives up after 10 s, the exporter after 8.',
        [query(of('job_scheme:functional_scaffold_scrape_duration_seconds:max'), 'scrape')],
        size=[8, 8],
        unit='s',
        line=8,
      ),
      graph(
        'Followed logs',
        "Bytes of the app's logs that wait to be read, by exporters with `--follow` and containers that follow. No data without any.",
        [query(of('job_scheme:functional_scaffold_follow_lag_bytes:sum'), 'lag')],
        size=[24, 5],
        unit='bytes',
        alert=['FunctionalScaffoldFollowFailing', 'FunctionalScaffoldFollowLagging', 'FunctionalScaffoldFollowSkipping'],
      ),
      graph(
        'Memory of Redis',
        'Memory that Redis uses, and its limit (maxmemory; 0 is none).',
        [
          query(of('job_scheme:functional_scaffold_redis_memory_used_bytes:max'), 'used'),
          query(of('job_scheme:functional_scaffold_redis_memory_max_bytes:max'), 'limit'),
        ],
        size=[8, 8],
        unit='bytes',
        alert=['FunctionalScaffoldRedisMemoryHigh', 'FunctionalScaffoldRedisMayEvict'],
      ),
      stat(
        'Redis on disk',
        "Whether Redis's last write to disk succeeded.",
        [query(of('job_scheme:functional_scaffold_redis_persistence_ok:min'), '{{kind}}')],
        size=[8, 8],
        unit='none',
        alert='FunctionalScaffoldRedisPersistenceFailing',
        more={ noValue: 'unknown', mappings: [{ type: 'value', options: {
          '0': { text: 'failed', color: 'red' },
          '1': { text: 'ok', color: 'green' },
        } }] },
      ),
      graph(
        'Series',
        'Label sets in Redis (a histogram counts once), and batches that wrote to a series beyond the limit of its family.',
        [
          query(of('job_scheme:functional_scaffold_series:max'), 'series'),
          query('sum by (family) (increase(%s[$__rate_interval]))' % of('job_scheme:functional_scaffold_series_limited_total:max'), 'limited: {{family}}'),
        ],
        size=[8, 8],
        alert='FunctionalScaffoldSeriesLimited',
      ),
    ] },
  ],

  // Places the panels of a section from left to right, in lines of the grid. A line has
  // panels of one height.
  local columns = 24,
  local placed(section, top) = std.foldl(
    function(grid, panel)
      local wraps = grid.x + panel.gridPos.w > columns;
      local x = if wraps then 0 else grid.x;
      local y = if wraps then grid.y + grid.height else grid.y;
      {
        x: x + panel.gridPos.w,
        y: y,
        height: panel.gridPos.h,
        panels: grid.panels + [panel { gridPos+: { x: x, y: y } }],
      },
    section.panels,
    {
      x: 0,
      y: top + 1,
      height: 0,
      panels: [{
        type: 'row',
        title: section.title,
        collapsed: false,
        gridPos: { x: 0, y: top, w: columns, h: 1 },
        panels: [],
      }],
    },
  ),
  local panels = std.foldl(
    function(all, section)
      local grid = placed(section, all.bottom);
      { bottom: grid.y + grid.height, panels: all.panels + grid.panels },
    sections,
    { bottom: 0, panels: [] },
  ).panels,

  local variable(name, label, description, query, more={}) = {
    type: 'query',
    name: name,
    label: label,
    description: description,
    datasource: datasource,
    query: { query: query, refId: name },
    refresh: 2,
    sort: 1,
  } + more,
  local all = { multi: true, includeAll: true, allValue: '.*', current: { text: 'All', value: '$__all' } },
  local annotation(name, colour, expr, title, text) = {
    name: name,
    enable: true,
    iconColor: colour,
    datasource: datasource,
    expr: expr,
    titleFormat: title,
    textFormat: text,
  },
  local build = of('job_scheme:functional_scaffold_build_info:max'),

  grafanaDashboards+:: {
    'functional-scaffold.json': {
      uid: 'functional-scaffold',
      title: 'Functional Scaffold',
      description: 'Requests, objectives, executions, crashes, and the health of the metrics themselves. Uses the series of monitoring/recording.yaml.',
      tags: ['functional-scaffold'],
      schemaVersion: 42,
      editable: true,
      graphTooltip: 1,
      refresh: '30s',
      timezone: 'browser',
      time: { from: 'now-1h', to: 'now' },
      links: [{
        type: 'link',
        title: 'Runbooks',
        icon: 'doc',
        tooltip: 'What to do about each alert',
        url: config.runbookBaseUrl + '#runbooks',
        targetBlank: true,
      }],
      annotations: { list: [
        // A version that was not there a moment ago.
        annotation(
          'Releases',
          'blue',
          '%s unless %s offset $__interval' % [build, build],
          'Exporter {{version}}',
          'The first exporter of this version.',
        ),
        annotation(
          'Alerts',
          'red',
          'ALERTS{alertstate="firing", %s, job="$job"}' % place,
          '{{alertname}}',
          '{{severity}}',
        ),
      ] },
      templating: { list: [
        {
          type: 'datasource',
          name: 'datasource',
          label: 'Prometheus',
          description: 'The Prometheus server that scrapes this application.',
          query: 'prometheus',
          refresh: 1,
        },
        variable(
          'cluster',
          'Cluster',
          'By the label %s. All, if there is no such label.' % config.clusterLabel,
          'label_values(job_scheme:http_requests_total:sum, %s)' % config.clusterLabel,
          all,
        ),
        variable(
          'namespace',
          'Namespace',
          'By the label %s. All, if there is no such label.' % config.namespaceLabel,
          'label_values(job_scheme:http_requests_total:sum{%s=~"$cluster"}, %s)' % [config.clusterLabel, config.namespaceLabel],
          all,
        ),
        variable(
          'job',
          'Job',
          'The application, by the label job.',
          'label_values(job_scheme:http_requests_total:sum{%s}, job)' % place,
        ),
        variable(
          'scheme',
          'Scheme',
          'How the metrics reach Prometheus: redis, pushgateway or pull. Schemes are never added to each other.',
          'label_values(job_scheme:http_requests_total:sum{%s, job="$job"}, scheme)' % place,
          { sort: 2 },
        ),
        variable(
          'algorithm',
          'Algorithm',
          'Filters executions and leases, not requests.',
          'label_values(%s, algorithm)' % of('job_scheme:algorithm_executions_total:sum'),
          all,
        ),
      ] },
      panels: [panels[i] { id: i + 1 } for i in std.range(0, std.length(panels) - 1)],
    },
  },
}
