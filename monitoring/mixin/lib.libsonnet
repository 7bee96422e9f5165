// What recording rules, alerts and dashboard share.
function(config) {
  local secondsOf = { s: 1, m: 60, h: 3600, d: 86400 },
  local last = function(text) text[std.length(text) - 1],

  // Seconds of a duration such as '5m', after `speed`.
  seconds(duration)::
    std.parseInt(std.substr(duration, 0, std.length(duration) - 1))
    * secondsOf[last(duration)] / config.speed,

  // The duration for PromQL, after `speed`.
  duration(duration)::
    if config.speed == 1 then duration
    else '%dms' % std.ceil(1000 * self.seconds(duration)),

  // A selector of a scraped metric.
  scraped(metric, matchers='')::
    local all = std.filter(function(text) text != '', [matchers, config.selector]);
    metric + (if all == [] then '' else '{%s}' % std.join(', ', all)),

  // Probes and scrapes: they would hide missing traffic and dilute the error ratio.
  users:: 'endpoint!~"/healthz|/readyz|/metrics"',

  // Matches what belongs to one application and scheme in one place.
  on:: 'on (%s, %s, job, scheme)' % [config.clusterLabel, config.namespaceLabel],

  // The windows of all burn rates, each once.
  windows:: std.set(
    std.flattenArrays([[rate.long, rate.short] for rate in config.burnRates]),
    function(window) secondsOf[last(window)] * std.parseInt(std.substr(window, 0, std.length(window) - 1))
  ),

  // The label `le` of the latency objective: Prometheus 3 and OpenMetrics write whole
  // numbers as 1.0.
  le::
    local text = std.toString(config.latencySlo.seconds);
    if std.length(std.findSubstr('.', text)) > 0 then 'le="%s"' % text
    else 'le=~"%s(\\\\.0)?"' % text,

  runbook(name):: '%s#runbook-%s' % [config.runbookBaseUrl, std.asciiLower(name)],

  percent(ratio):: '%g %%' % (100 * ratio),
}
