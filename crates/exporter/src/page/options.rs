//! The options of the page. Owns names, defaults and help.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use serde::Serialize;
use url::Url;

/// Less would be a load, and show no more.
const LEAST_INTERVAL_MS: u64 = 500;
const MOST_INTERVAL_MS: u64 = 60_000;

/// What the front page shows.
#[derive(Args)]
#[command(next_help_heading = "Page")]
pub struct PageOptions {
    /// Pause, in milliseconds, between two reads of Redis for the page at /; it
    /// is made longer where a read takes long. 0: no reads for it, and it has
    /// links alone.
    #[arg(long, env = "EXPORTER_PAGE_INTERVAL_MS", value_name = "MS", default_value = "5000", value_parser = interval)]
    pub page_interval_ms: u64,

    /// Where this exporter's Prometheus is, for a link on the page.
    #[arg(long, env = "EXPORTER_PROMETHEUS_URL", value_name = "URL")]
    pub prometheus_url: Option<String>,

    /// Where the Grafana with the dashboard is, for a link on the page.
    #[arg(long, env = "EXPORTER_GRAFANA_URL", value_name = "URL")]
    pub grafana_url: Option<String>,
}

/// The options, checked.
#[derive(Debug, Clone)]
pub struct PageConfig {
    /// Pause between two reads; None is no reads.
    pub interval: Option<Duration>,
    /// Where the page leads to.
    pub links: Links,
}

/// Where the page leads to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Links {
    /// Prometheus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<String>,
    /// Grafana.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grafana: Option<String>,
}

impl PageOptions {
    /// Checks the URLs.
    ///
    /// # Errors
    /// One is not of a page.
    pub fn check(&self) -> anyhow::Result<PageConfig> {
        let interval = Duration::from_millis(self.page_interval_ms);
        Ok(PageConfig {
            interval: (!interval.is_zero()).then_some(interval),
            links: Links {
                prometheus: link("--prometheus-url", self.prometheus_url.as_deref())?,
                grafana: link("--grafana-url", self.grafana_url.as_deref())?,
            },
        })
    }
}

fn link(option: &str, text: Option<&str>) -> anyhow::Result<Option<String>> {
    // Empty is what an unset variable gives in a Compose file.
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    // No error shows the URL, which may hold a password, and no page either.
    let url = Url::parse(text).with_context(|| format!("{option} is no URL"))?;
    ensure!(
        matches!(url.scheme(), "http" | "https"),
        "{option} does not begin with http:// or https://"
    );
    ensure!(
        url.username().is_empty() && url.password().is_none(),
        "{option} holds a user or password, which the page would show"
    );
    Ok(Some(url.into()))
}

fn interval(text: &str) -> Result<u64, String> {
    let millis = text.parse().ok();
    let fit =
        |millis: &u64| *millis == 0 || (LEAST_INTERVAL_MS..=MOST_INTERVAL_MS).contains(millis);
    millis
        .filter(fit)
        .ok_or_else(|| format!("not 0, nor from {LEAST_INTERVAL_MS} to {MOST_INTERVAL_MS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_to_a_page_and_shows_no_secret() {
        let read = |url: &str| link("--x", Some(url)).map_err(|error| format!("{error:#}"));
        assert_eq!(link("--x", None).expect("none"), None);
        assert_eq!(read(""), Ok(None));
        let grafana = "https://grafana.internal/d/x?theme=light";
        assert_eq!(read(grafana), Ok(Some(grafana.to_owned())));
        for url in [
            "grafana",
            "javascript:alert(1)",
            "http://user:s3cret@grafana",
            "http://s3cret@grafana",
        ] {
            let error = read(url).expect_err(url);
            assert!(
                error.contains("--x") && !error.contains("s3cret"),
                "{error}"
            );
        }
    }

    #[test]
    fn an_interval_is_no_load_and_no_standstill() {
        for (text, millis) in [
            ("0", Some(0)),
            ("500", Some(500)),
            ("60000", Some(60_000)),
            ("499", None),
            ("60001", None),
            ("-1", None),
            ("5s", None),
        ] {
            assert_eq!(interval(text).ok(), millis, "{text}");
        }
    }
}
