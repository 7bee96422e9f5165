//! Ctrl-C, SIGTERM and SIGHUP: they only set a mark here. Whoever waits for
//! something asks for it, and stops what it started.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

static SIGNALS: AtomicUsize = AtomicUsize::new(0);
static CTRL_CS: AtomicUsize = AtomicUsize::new(0);

/// The error of work that ended because the user asked for it.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Marks signals from now on instead of dying of them.
///
/// # Errors
///
/// When the handlers cannot be set.
pub(crate) fn watch() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot handle signals")?;
    thread::spawn(move || {
        for signal in signals.forever() {
            SIGNALS.fetch_add(1, Ordering::Relaxed);
            if signal == SIGINT {
                CTRL_CS.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    Ok(())
}

/// Whether somebody wants an end.
pub(crate) fn requested() -> bool {
    SIGNALS.load(Ordering::Relaxed) > 0
}

/// Whether somebody pressed Ctrl-C again: nothing is waited for any more.
pub(crate) fn insisted() -> bool {
    CTRL_CS.load(Ordering::Relaxed) > 1
}
