//! The Pushgateway scheme: the instance keeps its totals, and each flush replaces
//! its group by them.
//!
//! It does so by POST, which replaces the families that are in the push. They are
//! the same each time, so PUT would do the same, but for a push that is cut off
//! before its body: a Pushgateway (1.5.1) takes that for a whole one without any
//! families, and PUT would empty the group. A push is cut off where it is given up
//! before its body has left, and while an execution computes nothing leaves.
//!
//! A push that is repeated changes nothing, so a batch needs no id here. But one
//! whose answer did not come may arrive late, after a later push, and take the
//! group back; so what follows it goes to a new group, which begins at 0.

use std::{cell::RefCell, time::Duration};

use functional_scaffold_protocol::{batch::Batch, exposition::Format, pushgateway::group_path};
use spin_sdk::wasip3::random::random::get_random_u64;

use crate::{
    clock::Deadline,
    config::PushgatewayConfig,
    instance::Ready,
    metrics::sinks::{
        StoreError, Stored,
        totals::{text, with_batch},
    },
    outbound_http::{self, Method, Reply, Request, SendError},
};

/// A Pushgateway, as one instance reaches it.
pub struct Pushgateway {
    config: PushgatewayConfig,
    group: RefCell<Group>,
}

/// What the instance pushes under one name.
struct Group {
    nonce: u64,
    /// As last taken by the Pushgateway.
    totals: Batch,
    /// Whether a push may still arrive.
    in_doubt: bool,
}

impl Group {
    /// A group that nobody has heard of. One host call.
    fn begin() -> Self {
        Self {
            nonce: get_random_u64(),
            totals: Batch::default(),
            in_doubt: false,
        }
    }
}

impl Pushgateway {
    /// Reaches nothing yet.
    #[must_use]
    pub fn new(config: PushgatewayConfig) -> Self {
        Self {
            config,
            group: RefCell::new(Group::begin()),
        }
    }

    /// The longest wait for one answer.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.config.timeout
    }

    /// Replaces the group by the totals with the batch that waits.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn store(
        &self,
        ready: &Ready,
        deadline: Deadline,
    ) -> Result<Option<Stored>, StoreError> {
        let (path, totals, body) = {
            let mut writer = ready.writer.borrow_mut();
            let Some(batch) = writer.freeze().map(|frozen| frozen.total.clone()) else {
                return Ok(None);
            };
            let group = self.group.borrow();
            let totals = with_batch(&group.totals, &batch, &writer);
            let body = text(&totals, &writer)?;
            (self.path(group.nonce), totals, body)
        };
        let request = Request {
            method: Method::Post,
            origin: &self.config.origin,
            path: &path,
            content_type: Format::Text.content_type(),
            body: body.into_bytes(),
        };
        let answered = self.send(request, deadline).await;
        let mut group = self.group.borrow_mut();
        match answered {
            Ok(()) if group.in_doubt => *group = Group::begin(),
            Ok(()) => group.totals = totals,
            Err(StoreError::Timeout(_) | StoreError::Http(_)) => group.in_doubt = true,
            Err(_) => {}
        }
        answered.map(|()| Some(Stored::default()))
    }

    /// The group's path and totals with a batch that is given up. What follows
    /// goes to a new group, so that these can be put in place of the old one
    /// whatever became of the push.
    pub fn give_up(&self, ready: &Ready, batch: &Batch) -> (String, Batch) {
        let group = self.group.replace(Group::begin());
        let totals = with_batch(&group.totals, batch, &ready.writer.borrow());
        (self.path(group.nonce), totals)
    }

    /// Whether it says that it is ready, and who.
    ///
    /// # Errors
    /// What it said instead.
    pub async fn check(&self) -> Result<String, String> {
        let request = Request {
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

    async fn send(&self, request: Request<'_>, deadline: Deadline) -> Result<(), StoreError> {
        let Reply { status, text } =
            outbound_http::send(request, deadline)
                .await
                .map_err(|error| match error {
                    SendError::Denied => StoreError::Denied(self.config.origin.to_string()),
                    SendError::Timeout => StoreError::Timeout(deadline.limit()),
                    SendError::Failed(words) => StoreError::Http(words),
                })?;
        match status {
            200..=299 => Ok(()),
            _ => Err(StoreError::Refused { status, text }),
        }
    }
}
