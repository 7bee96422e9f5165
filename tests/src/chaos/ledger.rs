//! One request as the client saw it, and what it may be counted as. Counts
//! nothing itself.
//!
//! Which answers bind: one with a body is the application's own, its execution
//! has ended and is to be counted as that. A 500 *without* a body is the host's,
//! for a request whose instance died: that execution may have begun or not, and
//! may even have ended (with `strict` it waits for its count), so like no answer
//! at all it counts as crashed, as what it is, or not at all.

use std::time::Duration;

use fastrand::Rng;
use functional_scaffold_protocol::catalog::{ExecutionLabels, ExecutionStatus, RequestLabels};

use super::schedule::Mood;

/// What the rogue algorithm is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// To succeed.
    Nothing,
    /// To say that it failed.
    Fail,
    /// What it does not know.
    Hum,
    /// To trap, which ends its instance.
    Trap,
    /// To loop, until the host's limit ends its instance.
    Loop,
}

impl Kind {
    /// The kinds whose executions end.
    pub const ENDING: [Self; 3] = [Self::Nothing, Self::Hum, Self::Fail];

    /// Draws one: mostly successes; if it may be fatal one trap in 500, one loop
    /// in 3,000.
    #[must_use]
    pub fn draw(rng: &mut Rng, fatal: bool) -> Self {
        match rng.u32(0..6_000) {
            0..2 if fatal => Self::Loop,
            2..14 if fatal => Self::Trap,
            ..900 => Self::Fail,
            900..1_800 => Self::Hum,
            _ => Self::Nothing,
        }
    }

    /// The body of its request.
    #[must_use]
    pub fn body(self) -> &'static str {
        match self {
            Self::Nothing => r#""nothing""#,
            Self::Fail => r#""fail""#,
            Self::Hum => r#""hum""#,
            Self::Trap => r#""trap""#,
            Self::Loop => r#""loop""#,
        }
    }

    /// Whether it ends the instance that it runs in.
    #[must_use]
    pub fn is_fatal(self) -> bool {
        matches!(self, Self::Trap | Self::Loop)
    }

    /// The status of its execution.
    #[must_use]
    pub fn status(self) -> ExecutionStatus {
        match self {
            Self::Nothing => ExecutionStatus::Success,
            Self::Fail => ExecutionStatus::Failed,
            Self::Hum => ExecutionStatus::InvalidInput,
            Self::Trap | Self::Loop => ExecutionStatus::Crashed,
        }
    }

    /// The code of its answer.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::Nothing => 200,
            Self::Hum => 422,
            Self::Fail | Self::Trap | Self::Loop => 500,
        }
    }
}

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer of the application, by the instance of this nonce.
    Answer {
        /// The status code.
        code: u16,
        /// From the request id that the instance made.
        instance: u64,
    },
    /// A 500 of the host's own: the instance died.
    HostError,
    /// Nothing: the connection broke, or the time was up.
    NoAnswer,
    /// Nothing was sent: nobody listens.
    Refused,
}

/// A request. Times are since the run's beginning.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// When it was sent, which chose its route.
    pub mood: Mood,
    /// What was asked.
    pub kind: Kind,
    /// Before the first byte of it left.
    pub sent: Duration,
    /// After the last byte of the answer came, or when there will be none.
    pub ended: Duration,
    /// What came back.
    pub outcome: Outcome,
}

impl Entry {
    /// The instance that answered.
    #[must_use]
    pub fn instance(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Answer { instance, .. } => Some(instance),
            _ => None,
        }
    }
}

/// The label set under which an execution of the rogue algorithm is counted.
#[must_use]
pub fn execution_labels(status: ExecutionStatus) -> String {
    let algorithm = "rogue";
    ExecutionLabels { algorithm, status }.to_text()
}

/// The path of a request, and the pattern of its route.
#[must_use]
pub fn route(mood: Mood) -> (&'static str, &'static str) {
    match mood {
        Mood::Calm => ("/invoke/rogue", "/invoke/{algorithm}"),
        Mood::Deadly => ("/invoke", "/invoke"),
    }
}

/// The label set under which a request that is answered with a code is counted.
#[must_use]
pub fn request_labels(mood: Mood, code: u16) -> String {
    RequestLabels::new("POST", route(mood).1, code).to_text()
}
