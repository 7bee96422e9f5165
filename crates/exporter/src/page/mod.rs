//! The page at `/`: what Prometheus is told, drawn, for whoever has no Grafana at
//! hand. Its panels are those of `monitoring/grafana`, over one minute instead
//! of five.
//!
//! # Layout
//! - [`options`]: how often Redis is read for it, and where it leads to
//! - [`recorder`]: reads again and again
//! - [`sample`]: what one read says to it
//! - [`counts`]: what only grows of that
//! - [`window`]: rates and quantiles over the last minute
//! - [`quantile`]: a quantile of a histogram
//! - [`history`]: what there is to draw, a ring
//! - [`answer`]: that as JSON
//! - [`assets`]: the files of the page
//! - [`routes`]: paths and headers
//!
//! What is drawn how is in `assets/`: HTML, style and script as they are served.

pub mod answer;
pub mod assets;
pub mod counts;
pub mod history;
pub mod options;
pub mod quantile;
pub mod recorder;
pub mod routes;
pub mod sample;
pub mod window;
