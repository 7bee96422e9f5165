//! Turns: the pieces in which the host runs a task of this component, each from
//! one wait to the next. Owns what makes a response leave in one piece.
//!
//! The host's HTTP connection (hyper) writes a response's head as soon as it is
//! polled, with as much of the body as it finds. wasmtime copies the body out of
//! this component right after it has handed over the response, in the same poll
//! of its own tokio task. So the connection must not be polled in between:
//!
//! - [`end_in_waiting`], because after a turn that ends in yielding wasmtime
//!   gives way to tokio as soon as one host future, of whatever request, is
//!   finished (`poll_until` in its `concurrent.rs`).
//! - The body goes before the trailers (`wasi_http`): theirs would be that
//!   future.
//! - [`fresh`], because tokio runs a task that is woken on the same thread, next
//!   after the one that wakes it, but hands it to another thread if that one was
//!   itself run so for the third time on end (Redis answers at once), or once
//!   `block_in_place` has been called (Spin reads variables so).
//!
//! What remains is chance: a response in some hundreds to thousands.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::pin,
};

use spin_sdk::wit_bindgen;

/// Which turn of its request it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    /// It began when what was waited for came.
    Later,
    /// It was begun anew, by a new poll of the host's task.
    Anew,
}

thread_local! {
    /// That of the request which is polled: set whenever one is.
    static TURN: Cell<Turn> = const { Cell::new(Turn::First) };
}

/// Awaits a request's `future`. If it ends in a turn that began when what was
/// waited for came, a new one is begun by a new poll of the host's task.
pub async fn fresh<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut turn = Turn::First;
    let output = poll_fn(|context| {
        TURN.set(turn);
        turn = Turn::Later;
        future.as_mut().poll(context)
    })
    .await;
    if TURN.get() == Turn::Later {
        begin_anew().await;
    }
    output
}

/// Whether the request has not waited for anything yet.
pub fn is_first() -> bool {
    TURN.get() == Turn::First
}

/// Begins a new turn, by a new poll of the host's task.
pub async fn begin_anew() {
    wit_bindgen::yield_async().await;
    TURN.set(Turn::Anew);
}

/// Lets the turn in which this is called end in waiting, if nothing is spawned
/// after it and the request's own future is finished.
///
/// wit-bindgen's executor (`FuturesUnordered`) asks to be polled again when the
/// last task it has polled was pending and it has polled them all; that becomes
/// a yield. If the last one is finished it does not.
pub fn end_in_waiting() {
    wit_bindgen::spawn(async {});
}
