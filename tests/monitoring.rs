//! That what is in `monitoring/` works: promtool accepts it, every alert has
//! unit tests, and a real Prometheus that scrapes the real app under load has a
//! sane answer to every expression, by each way that numbers come to it.

#[path = "monitoring/alerts.rs"]
mod alerts;
#[path = "monitoring/dashboard.rs"]
mod dashboard;
#[path = "monitoring/expressions.rs"]
mod expressions;
#[path = "monitoring/world.rs"]
mod world;

type Result<T = ()> = anyhow::Result<T>;
