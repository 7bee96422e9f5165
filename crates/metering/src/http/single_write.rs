//! Makes a response leave in one write, head and body together.
//!
//! In two writes, the second waits some 40 ms on Spin, which does not set
//! `TCP_NODELAY`, for the client's delayed acknowledgement of the first. Head and
//! body leave together if the host copies the body before it polls its HTTP
//! connection again. That depends on how the last poll of the component begins
//! and ends. ADR 3, "A response leaves in one write", explains each rule.

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
    /// By an event that the request waited for.
    Woken,
    /// After a yield, in a fresh poll of the host's task.
    Fresh,
}

thread_local! {
    /// How the current poll began. Set at every poll of a request.
    static CURRENT: Cell<PollStart> = const { Cell::new(PollStart::First) };
}

/// Awaits `response`. If the request had to wait, yields before it returns, so that
/// the response leaves from a fresh poll of the host's task.
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
        yield_to_host().await;
    }
    output
}

/// Returns whether the request has not waited for anything yet.
pub(super) fn is_first_poll() -> bool {
    CURRENT.get() == PollStart::First
}

/// Yields, so that the host polls its task again before the request continues.
pub(super) async fn yield_to_host() {
    wit_bindgen::yield_async().await;
    CURRENT.set(PollStart::Fresh);
}

/// Spawns an empty task, so that the component's poll does not end in a yield. The
/// task must be the last one: call this after everything else is spawned, and
/// return the response in the same poll.
pub fn avoid_final_yield() {
    wit_bindgen::spawn(async {});
}
