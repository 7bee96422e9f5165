//! The Pushgateway scheme: the instance keeps its totals, and each flush
//! replaces its group by them.
//!
//! A push is a POST, which replaces only the families in its body. PUT would
//! replace the whole group. The difference matters if a push is cut off before
//! its body, because it times out during an execution: Pushgateway 1.5.1 takes
//! it for a complete push without families. With PUT that would empty the group,
//! with POST it changes nothing.
//!
//! A repeated push changes nothing, so a batch needs no id here. But a push
//! without a response may arrive after a later one, and overwrite its totals with
//! older ones. So the next batch goes to a new group, which starts at 0.

use std::{cell::RefCell, time::Duration};

use functional_scaffold_protocol::{batch::SentBatch, exposition::Format, pushgateway::group_path};
use spin_sdk::wasip3::random::random::get_random_u64;

use crate::{
    batcher::Batcher,
    config::PushgatewayConfig,
    outbound_http::{self, Method, OutboundRequest, OutboundResponse, SendError},
    sinks::{
        error::{StoreError, Stored},
        totals::Totals,
    },
    time::Deadline,
};

/// Pushes to one Pushgateway.
pub(crate) struct PushgatewaySink {
    config: PushgatewayConfig,
    group: RefCell<Group>,
}

/// A group of metrics in the Pushgateway.
struct Group {
    nonce: u64,
    /// Totals that the Pushgateway acknowledged last.
    totals: Totals,
    /// Whether a push without a response may still arrive.
    in_doubt: bool,
}

impl Group {
    /// Makes a group with a random name. One host call.
    fn new() -> Self {
        Self {
            nonce: get_random_u64(),
            totals: Totals::default(),
            in_doubt: false,
        }
    }
}

impl PushgatewaySink {
    /// Makes a sink without connecting.
    pub(super) fn new(config: PushgatewayConfig) -> Self {
        Self {
            config,
            group: RefCell::new(Group::new()),
        }
    }

    /// The longest wait for one response.
    pub(super) fn timeout(&self) -> Duration {
        self.config.timeout
    }

    /// Replaces the group by the totals plus the next batch; `None` if there is
    /// no batch.
    pub(super) async fn store(
        &self,
        batcher: &RefCell<Batcher>,
        deadline: Deadline,
    ) -> Result<Option<Stored>, StoreError> {
        let (path, totals, body) = {
            let mut batcher = batcher.borrow_mut();
            batcher.admit_families();
            let Some(frozen) = batcher.freeze(None) else {
                return Ok(None);
            };
            let (batch, gauges) = (frozen.total.clone(), frozen.custom.gauges.clone());
            let group = self.group.borrow();
            let totals = group.totals.with(&batch, &gauges, &batcher);
            let body = totals.text(&batcher)?;
            (self.path(group.nonce), totals, body)
        };
        let request = OutboundRequest {
            method: Method::Post,
            origin: &self.config.origin,
            path: &path,
            content_type: Format::Text.content_type(),
            body: body.into_bytes(),
        };
        let sent = self.send(request, deadline).await;
        let mut group = self.group.borrow_mut();
        match sent {
            Ok(()) if group.in_doubt => *group = Group::new(),
            Ok(()) => group.totals = totals,
            Err(StoreError::Timeout(_) | StoreError::Http(_)) => group.in_doubt = true,
            Err(_) => {}
        }
        sent.map(|()| Some(Stored::default()))
    }

    /// Returns the group's path, and its totals plus a batch that was not
    /// stored. Later batches go to a new group, so that these totals can be
    /// pushed to the old one whether or not the push arrived.
    pub(super) fn group_with(&self, batch: &SentBatch, batcher: &Batcher) -> (String, Totals) {
        let group = self.group.replace(Group::new());
        let (batch, gauges) = (batch.total(), &batch.custom.gauges);
        let totals = group.totals.with(&batch, gauges, batcher);
        (self.path(group.nonce), totals)
    }

    /// Asks the Pushgateway whether it is ready. Returns its address, or what is
    /// wrong with it.
    pub(crate) async fn check(&self) -> Result<String, String> {
        let request = OutboundRequest {
            method: Method::Get,
            origin: &self.config.origin,
            path: "/-/ready",
            content_type: "",
            body: Vec::new(),
        };
        let address = self.config.origin.to_string();
        match self.send(request, Deadline::after(self.timeout())).await {
            Ok(()) => Ok(format!("{address} is ready")),
            Err(error) => Err(format!("{address}: {error}")),
        }
    }

    fn path(&self, nonce: u64) -> String {
        let PushgatewayConfig { job, instance, .. } = &self.config;
        let instance = match instance.as_str() {
            "" => format!("{nonce:016x}"),
            instance => format!("{instance}-{nonce:016x}"),
        };
        group_path(job, [("instance", instance.as_str())])
    }

    async fn send(
        &self,
        request: OutboundRequest<'_>,
        deadline: Deadline,
    ) -> Result<(), StoreError> {
        let OutboundResponse { status, text } = outbound_http::send(request, deadline)
            .await
            .map_err(|error| match error {
                SendError::Denied => StoreError::Denied(self.config.origin.to_string()),
                SendError::Timeout => StoreError::Timeout(deadline.limit()),
                SendError::Failed(reason) => StoreError::Http(reason),
            })?;
        match status {
            200..=299 => Ok(()),
            _ => Err(StoreError::Refused { status, text }),
        }
    }
}
