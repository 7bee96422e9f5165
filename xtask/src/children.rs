//! The servers that `up` runs, in the order in which they were started. They
//! are stopped in the opposite order, so that the app's last counts still find
//! where they go.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::child::{Child, describe_end};
use crate::interrupt::{self, Interrupted};

/// How long a server may take until it answers. Redis reads its AOF first.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What runs.
#[derive(Default)]
pub(crate) struct Children(Vec<Child>);

impl Children {
    /// Adds a child, and waits until it answers.
    ///
    /// # Errors
    ///
    /// When it does not within a minute, or one of the children ended;
    /// [`Interrupted`].
    pub(crate) fn add(&mut self, child: Child, answers: impl Fn() -> Result<()>) -> Result<()> {
        let name = child.name().to_owned();
        self.0.push(child);
        let start = Instant::now();
        loop {
            let outcome = answers();
            // After the question: an answer of somebody else's server, on the
            // port that our child could not have, is none.
            self.check()?;
            match outcome {
                Ok(()) => return Ok(()),
                Err(error) if start.elapsed() > START_TIMEOUT => {
                    let seconds = START_TIMEOUT.as_secs();
                    return Err(error)
                        .with_context(|| format!("{name} did not answer in {seconds} s"));
                }
                Err(_not_yet) => thread::sleep(POLL_INTERVAL),
            }
        }
    }

    /// Waits for the end that the user asks for.
    ///
    /// # Errors
    ///
    /// When one of the children ended by itself.
    pub(crate) fn watch(&mut self) -> Result<()> {
        loop {
            match self.check() {
                Ok(()) => thread::sleep(POLL_INTERVAL),
                // This is how `up` ends when all is well.
                Err(error) if error.is::<Interrupted>() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn check(&mut self) -> Result<()> {
        if interrupt::requested() {
            bail!(Interrupted);
        }
        for child in &mut self.0 {
            if let Some(status) = child.exit_status()? {
                bail!("{} {}", child.name(), describe_end(status));
            }
        }
        Ok(())
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        while let Some(child) = self.0.pop() {
            eprintln!("stopping {}", child.name());
            drop(child);
        }
    }
}
