//! Log lines: one JSON object a line on stderr. Owns their form and level;
//! what is worth a line is decided where it happens.

use std::{cell::Cell, time::SystemTime};

use serde::Serialize;

/// How much is logged, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What was lost or could not be done.
    Error,
    /// What will be lost if it goes on.
    Warn,
    /// Every request.
    Info,
    /// Every flush.
    Debug,
}

impl Level {
    /// The level's name in lines and in the variable `log_level`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// The level of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Error, Self::Warn, Self::Info, Self::Debug]
            .into_iter()
            .find(|level| level.name() == name)
    }
}

thread_local! {
    static MOST: Cell<Level> = const { Cell::new(Level::Info) };
}

/// Sets how much is logged from now on.
pub fn set_level(level: Level) {
    MOST.set(level);
}

/// Whether lines of this level are written.
#[must_use]
pub fn enabled(level: Level) -> bool {
    level <= MOST.get()
}

/// Writes a line: time, level, the event's name, and `fields`, which must
/// serialise as an object.
pub fn write(level: Level, event: &'static str, fields: impl Serialize) {
    #[derive(Serialize)]
    struct Line<F> {
        time: String,
        level: &'static str,
        event: &'static str,
        #[serde(flatten)]
        fields: F,
    }

    if !enabled(level) {
        return;
    }
    let line = Line {
        time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        level: level.name(),
        event,
        fields,
    };
    if let Ok(mut text) = serde_json::to_string(&line) {
        text.push('\n');
        // One write a line, so that the lines of two instances do not mix; a
        // closed stderr is no reason to fail a request.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
    }
}
