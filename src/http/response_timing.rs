//! Makes a response leave in one write, head and body together.
//!
//! In two writes the second waits for the client's delayed acknowledgement, some
//! 40 ms on Spin, which does not set `TCP_NODELAY`. Head and body leave together
//! if the host copies the body before it polls its HTTP connection again, and
//! that depends on how the component's last poll of the request began and ends.
//! ADR 3, "A response leaves in one write", explains each rule.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::pin,
};

use spin_sdk::wit_bindgen;

/// How the current poll of a request began.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PollStart {
    First,
    /// By the event that the request waited for.
    Woken,
    /// By a yield, so that the host's task was polled again.
    Fresh,
}

thread_local! {
    /// How the current poll of the current request began. Set at every poll of a
    /// request.
    static CURRENT: Cell<PollStart> = const { Cell::new(PollStart::First) };
}

/// Awaits a request's `response`. If the request had to wait, the response
/// returns from a fresh poll of the host's task.
pub async fn respond_on_fresh_poll<T>(response: impl Future<Output = T>) -> T {
    let mut response = pin!(response);
    let mut start = PollStart::First;
    let output = poll_fn(|context| {
        CURRENT.set(start);
        start = PollStart::Woken;
        response.as_mut().poll(context)
    })
    .await;
    if CURRENT.get() == PollStart::Woken {
        repoll().await;
    }
    output
}

/// Whether the request has not waited for anything yet.
pub(super) fn is_first_poll() -> bool {
    CURRENT.get() == PollStart::First
}

/// Yields, so that the host polls its task again before the request continues.
pub(super) async fn repoll() {
    wit_bindgen::yield_async().await;
    CURRENT.set(PollStart::Fresh);
}

/// Lets the current poll of the component end pending rather than yielding. The
/// request's own future must then be ready, and nothing may be spawned after
/// this.
pub(super) fn end_with_ready_future() {
    wit_bindgen::spawn(async {});
}
