//! Makes a crash or an endless loop of an algorithm an error of that call.
//!
//! A trap ends the instance of a component, with all requests in it, and an endless
//! loop occupies its host for good. [`guard`] rewrites an algorithm component when it
//! is built, so that a crash or a loop ends only its call:
//!
//! - What traps on purpose (a panic, `abort`, exhausted memory, `exit`) throws an
//!   exception, which the guarded `run` catches. It returns `crashed`, and resets the
//!   module to its state after instantiation.
//! - Loops and calls count instructions. When a call has used up its budget, it ends
//!   in the same way, and `run` returns `limit-exceeded`.
//!
//! `docs/adr/0027-guard.md` describes the design.

mod adapter;
mod calls;
mod component;
mod instrument;
mod module;
mod path;
mod rewrite;

pub use component::guard;
pub use instrument::guard_module;

/// The budget of a call, in instructions, if neither the options nor the algorithm
/// set one. An endless loop uses it up in about 10 seconds.
pub const DEFAULT_BUDGET: u64 = 20_000_000_000;

/// Options of the guard.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The budget of each call.
    pub budget: Budget,
    /// How far memory may grow, in bytes.
    pub max_memory: Option<u64>,
}

/// The budget of a call of `run`.
#[derive(Clone, Copy, Debug, Default)]
pub enum Budget {
    /// The one that the algorithm brings in its custom section
    /// `functional-scaffold-budget` (8 bytes, little-endian), or [`DEFAULT_BUDGET`].
    #[default]
    Default,
    /// A number of instructions.
    Instructions(u64),
    /// Instructions are not counted. An endless loop stays one.
    Unlimited,
}

/// Why a component cannot be guarded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// The bytes are not a WebAssembly component.
    #[error("not a WebAssembly component")]
    NotAComponent,
    /// The bytes are malformed.
    #[error("malformed WebAssembly")]
    Malformed(#[from] wasmparser::Error),
    /// No core module exports the function.
    #[error("the component does not export {0}")]
    NoRun(String),
    /// The component carries the guard's mark.
    #[error("the component is already guarded")]
    AlreadyGuarded,
    /// Several core modules have state, as in components of Python and JavaScript.
    #[error("it consists of several modules with state of their own, which cannot be reset: {0}")]
    SeveralModules(String),
    /// The module uses something that the guard cannot handle.
    #[error("the guard does not support this module: {0}")]
    Unsupported(String),
    /// The memory that the module begins with is larger than the limit.
    #[error("max-memory is {max_memory} bytes, but its memory begins with {initial}")]
    MaxMemory {
        /// The limit.
        max_memory: u64,
        /// The initial size.
        initial: u64,
    },
    /// The algorithm's own budget is malformed.
    #[error("the section functional-scaffold-budget has {0} bytes instead of 8")]
    OwnBudget(usize),
}
