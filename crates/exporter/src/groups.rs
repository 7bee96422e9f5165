//! Groups of a Pushgateway that the service gave to its log: its totals, as they
//! were to stand there. Putting them there again changes nothing, so a group may
//! be replayed as often and as late as one likes.

use std::time::Duration;

use functional_scaffold_protocol::{
    batch::Batch,
    catalog::Catalog,
    exposition::{Format, expose},
    series::families_of_totals,
};
use hyper::body::Bytes;
use tokio::time::{Instant, sleep};

use crate::pushgateway::{Group, PushError};

/// The pause before the Pushgateway is asked again.
const BACKOFF: Duration = Duration::from_millis(200);

/// Where logged groups are put.
pub struct Groups {
    url: String,
    retry: Duration,
}

impl Groups {
    /// In the Pushgateway at `url`, which is tried for `retry` while it is away.
    #[must_use]
    pub fn new(url: String, retry: Duration) -> Self {
        Self { url, retry }
    }

    /// Puts the totals of one group in their place.
    ///
    /// # Errors
    /// The path is no group's, or the totals are not those of the catalog.
    pub async fn put(
        &self,
        path: &str,
        totals: &Batch,
        catalog: &Catalog,
    ) -> anyhow::Result<Result<(), PushError>> {
        let group = Group::at(&self.url, path)?;
        let families = families_of_totals(&catalog.families(), totals)?;
        let exposition = Bytes::from(expose(Format::Text, &families));
        let began = Instant::now();
        loop {
            match group.put(&exposition).await {
                Err(error) if error.may_pass() && began.elapsed() + BACKOFF < self.retry => {
                    sleep(BACKOFF).await;
                }
                answered => return Ok(answered),
            }
        }
    }
}
