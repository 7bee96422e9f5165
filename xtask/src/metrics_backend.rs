//! The app's `metrics_backend`, as far as it decides what runs beside the app.

use anyhow::{Result, bail};

use crate::spin_variables::SpinVariables;

/// Where the app's counts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetricsBackend {
    /// To Redis, and from there to the exporter.
    Redis,
    /// To a Pushgateway.
    Pushgateway,
    /// Nowhere: the app shows them.
    Pull,
    /// Nothing is counted.
    Off,
}

impl MetricsBackend {
    /// What the app will read.
    ///
    /// # Errors
    ///
    /// When it is none of them.
    pub(crate) fn read(variables: &SpinVariables) -> Result<Self> {
        let Some(given) = variables.get("METRICS_BACKEND") else {
            return Ok(Self::Redis);
        };
        Ok(match given.value.as_str() {
            "redis" => Self::Redis,
            "pushgateway" => Self::Pushgateway,
            "pull" => Self::Pull,
            "off" => Self::Off,
            other => bail!(
                "{} is {other:?}; it must be redis, pushgateway, pull or off",
                given.variable
            ),
        })
    }
}
