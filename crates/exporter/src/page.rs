//! The front page: links to the routes, and the version. Needs nothing from
//! outside the page, and shows nothing of Redis.

/// The page, complete.
pub const INDEX: &str = concat!(
    r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Functional Scaffold exporter</title>
<style>
:root { color-scheme: light dark; }
body { font: 1rem/1.6 system-ui, sans-serif; max-width: 38rem; margin: 3rem auto; padding: 0 1rem; }
dt { margin-top: 1rem; font-family: ui-monospace, monospace; }
dd { margin: 0; }
footer { margin-top: 2rem; opacity: 0.75; }
</style>
</head>
<body>
<main>
<h1>Functional Scaffold exporter</h1>
<p>Serves the metric families registered in Redis to Prometheus.</p>
<dl>
<dt><a href="/metrics">/metrics</a></dt>
<dd>the metrics: what Prometheus scrapes</dd>
<dt><a href="/readyz">/readyz</a></dt>
<dd>whether Redis answers</dd>
<dt><a href="/healthz">/healthz</a></dt>
<dd>whether the exporter is alive</dd>
</dl>
</main>
<footer>Version "#,
    env!("CARGO_PKG_VERSION"),
    "</footer>\n</body>\n</html>\n",
);
