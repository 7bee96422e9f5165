//! Write an algorithm for Functional Scaffold as a plain function.
//!
//! ```
//! use functional_scaffold_algorithm::{Error, algorithm};
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize, JsonSchema)]
//! struct Input {
//!     numbers: Vec<f64>,
//! }
//!
//! #[derive(Debug, PartialEq, Serialize)]
//! struct Output {
//!     mean: f64,
//! }
//!
//! /// Computes the mean of some numbers.
//! #[algorithm]
//! fn mean(input: Input) -> Result<Output, Error> {
//!     if input.numbers.is_empty() {
//!         return Err(Error::invalid_input("numbers: at least one is required"));
//!     }
//!     let sum: f64 = input.numbers.iter().sum();
//!     Ok(Output { mean: sum / input.numbers.len() as f64 })
//! }
//!
//! // It stays a function.
//! assert_eq!(mean(Input { numbers: vec![1.0, 2.0] }), Ok(Output { mean: 1.5 }));
//! ```
//!
//! Built for `wasm32-wasip2`, the crate is a component that the service serves:
//! `POST /invoke {"numbers": [1, 2]}` responds with the result, `GET /invoke` with
//! the description.
//!
//! # Cargo.toml
//!
//! ```toml
//! [package]
//! name = "mean"       # the algorithm's name: label `algorithm`, route /invoke/mean
//! version = "0.1.0"   # its version
//! edition = "2024"
//!
//! [lib]
//! crate-type = ["cdylib"]
//!
//! [dependencies]
//! functional-scaffold-algorithm = { path = "…" }
//! schemars = "1"
//! serde = { version = "1", features = ["derive"] }
//! ```
//!
//! # Name, version and summary
//!
//! The name and version are the package's. The summary is the first paragraph of
//! the function's doc comment. [`#[algorithm]`](algorithm) can set each of them.
//!
//! # Input
//!
//! The argument is one type that implements [`serde::de::DeserializeOwned`] and
//! [`schemars::JsonSchema`]; usually both are derived. The schema (draft 2020-12) is
//! a part of the service's `/openapi.json`. Attributes such as
//! `#[serde(default)]`, `#[serde(deny_unknown_fields)]` and `#[schemars(range(max =
//! 100))]` change it, and doc comments of fields become descriptions. schemars only
//! describes: the function itself must check such a range.
//!
//! The input is parsed by [`serde_json`], with its rules: unknown fields are
//! ignored unless the type denies them, a field that is given twice is an error,
//! a struct may be given as an array of its fields, and an integer may not be
//! written with a decimal point (`17.0`).
//! Other input is rejected before the function is called, with the path to the
//! value:
//!
//! ```text
//! number: invalid value: integer `-1`, expected u64
//! ```
//!
//! # Output
//!
//! The function returns a type that implements [`serde::Serialize`], or a `Result`
//! of one. Numbers above 2^53 - 1 are rounded by many clients; NaN and infinity
//! become `null`.
//!
//! # Errors
//!
//! The error of the `Result` is [`Error`], or any type that converts into it. `?`
//! turns every [`std::error::Error`] into [`Error::Failed`]:
//!
//! ```
//! # use functional_scaffold_algorithm::{Error, algorithm};
//! /// Adds the integers of a line.
//! #[algorithm]
//! fn sum(line: String) -> Result<i64, Error> {
//!     let mut sum = 0;
//!     for word in line.split_whitespace() {
//!         sum += word.parse::<i64>()?;
//!     }
//!     Ok(sum)
//! }
//!
//! let error = sum("1 x".to_owned()).unwrap_err();
//! assert_eq!(error, Error::Failed("invalid digit found in string".to_owned()));
//! ```
//!
//! Other types convert by hand: for instance, `map_err(Error::failed)` for a
//! `String`, or `map_err(|error| Error::failed(format!("{error:#}")))` for an
//! `anyhow::Error`.
//!
//! A panic is for bugs. The guard, which rewrites the component after it is built, ends
//! that call with a 500 and a fixed message, and resets the algorithm to its initial
//! state. It also ends a call that exceeds its budget of instructions.
//!
//! # Tests
//!
//! The function is called as it is, and natively: `cargo test` needs neither
//! WebAssembly nor a runtime. [`invoke!`] passes JSON text in and out, as the
//! service does:
//!
//! ```
//! # use functional_scaffold_algorithm::{Error, algorithm, invoke};
//! # /// Counts words.
//! # #[algorithm]
//! # fn word_count(text: String) -> usize { text.split_whitespace().count() }
//! assert_eq!(invoke!(word_count, r#""to be or not""#), Ok("4".to_owned()));
//!
//! let error = invoke!(word_count, "17").unwrap_err();
//! assert_eq!(error.to_string(), "invalid type: integer `17`, expected a string");
//! ```
//!
//! Unit tests belong in `src/lib.rs`. Tests in `tests/` and examples in doc comments
//! need a library that they can link: `crate-type = ["cdylib", "rlib"]`. Cargo then
//! builds the component without link-time optimisation.
//!
//! # The sandbox
//!
//! A component has clocks, random numbers, stdout and stderr (which the host logs),
//! but no network, files, environment variables, or stores. It has one algorithm:
//! if a crate has two, its component does not build (`symbol … is already defined`).

mod component;
mod error;
mod input;
mod output;

/// Makes a function the algorithm of its crate.
///
/// It takes one owned argument and returns a result; it is not async or generic,
/// and stays callable.
///
/// | option | default |
/// |---|---|
/// | `name` | the package's name. `[a-z][a-z0-9-]*`, at most 64 characters |
/// | `version` | the package's version |
/// | `summary` | the first paragraph of the doc comment |
/// | `budget` | the guard's. WebAssembly instructions that a call may execute, an integer above 0 |
///
/// # Examples
///
/// ```
/// use functional_scaffold_algorithm::algorithm;
///
/// #[algorithm(name = "word-count", version = "2", summary = "counts words", budget = 500_000_000)]
/// fn count(text: String) -> usize {
///     text.split_whitespace().count()
/// }
/// ```
pub use functional_scaffold_algorithm_macros::algorithm;

pub use error::Error;
pub use input::schema;

/// Calls a function as the service does: with JSON text, and for JSON text.
///
/// `invoke!(function, json)` is a `Result<String, Error>`.
///
/// # Examples
///
/// ```
/// use functional_scaffold_algorithm::{Error, invoke};
///
/// fn half(number: u32) -> Result<u32, Error> {
///     match number % 2 {
///         0 => Ok(number / 2),
///         _ => Err(Error::invalid_input(format!("{number} is odd"))),
///     }
/// }
///
/// assert_eq!(invoke!(half, "4"), Ok("2".to_owned()));
/// assert_eq!(invoke!(half, "5"), Err(Error::InvalidInput("5 is odd".to_owned())));
/// ```
#[macro_export]
macro_rules! invoke {
    ($function:expr, $json:expr) => {{
        #[allow(unused_imports, reason = "a `Result` has the method itself")]
        use $crate::__private::Plain as _;
        $crate::__private::Input::parse($json)
            .and_then(|input| $crate::__private::Returned($function(input)).into_json())
    }};
}

/// Items that the macros expand to. Not for other use.
#[doc(hidden)]
pub mod __private {
    #[cfg(target_family = "wasm")]
    pub use crate::component::{Component, bindings};
    pub use crate::{
        component::Algorithm,
        input::Input,
        output::{Plain, Returned},
    };
}
