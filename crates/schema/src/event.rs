//! What happens in a service and is counted, in plain types. Which families it
//! is counted in, and under which labels, is [`crate::catalog`]'s.

/// The class of a finished request, the label `status` of the request counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestStatus {
    /// A code below 400.
    Success,
    /// 4xx: the caller's fault.
    Rejected,
    /// 5xx: ours.
    Error,
}

impl RequestStatus {
    /// The class of an HTTP status code.
    #[must_use]
    pub fn of_code(code: u16) -> Self {
        match code {
            0..=399 => Self::Success,
            400..=499 => Self::Rejected,
            500.. => Self::Error,
        }
    }

    /// The label's value.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Rejected => "rejected",
            Self::Error => "error",
        }
    }
}

/// How an execution ended, the label `status` of the execution counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutionStatus {
    /// It gave a result.
    Success,
    /// It refused its input: the caller's fault.
    InvalidInput,
    /// It reported that it could not finish.
    Failed,
    /// It never reported: a trap, an endless loop, a host that died.
    Crashed,
}

impl ExecutionStatus {
    /// Every status, in no meaningful order.
    pub const ALL: [Self; 4] = [
        Self::Success,
        Self::InvalidInput,
        Self::Failed,
        Self::Crashed,
    ];

    /// The label's value.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::InvalidInput => "invalid_input",
            Self::Failed => "failed",
            Self::Crashed => "crashed",
        }
    }
}

/// One finished request, as it is counted.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The HTTP method, upper case; anything unknown is `OTHER`.
    pub method: &'a str,
    /// The pattern of the route, never the raw path; `unmatched` for none.
    pub endpoint: &'a str,
    /// The HTTP status code answered.
    pub code: u16,
    /// From the first byte handed to the component to the response, in
    /// nanoseconds.
    pub duration_nanos: u64,
}

/// One finished execution, as it is counted.
#[derive(Debug, Clone, Copy)]
pub struct Execution<'a> {
    /// The algorithm's own name.
    pub algorithm: &'a str,
    /// How it ended.
    pub status: ExecutionStatus,
    /// The time in the algorithm alone, in nanoseconds.
    pub duration_nanos: u64,
}

/// What became of an attempt to store a batch, where that is not the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushOutcome {
    /// It failed, and is tried again or given up.
    Failed,
    /// It was stored before: an answer had been lost.
    Duplicate,
    /// It was given up, to the log.
    Logged,
}

impl FlushOutcome {
    /// The label's value.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Duplicate => "duplicate",
            Self::Logged => "logged",
        }
    }
}
