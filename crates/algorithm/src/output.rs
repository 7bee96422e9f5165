//! Encodes the value that a function returns as JSON text.

use serde::Serialize;

use crate::Error;

/// A value that a function returned: a `Result`, or any other type.
///
/// A `Result` is told apart by its type, whatever its alias is called. `Result`
/// itself is [`Serialize`], so two implementations of a trait would overlap. The
/// compiler prefers the inherent method, which only a `Result` has, to that of
/// [`Plain`].
#[derive(Debug)]
pub struct Returned<T>(pub T);

impl<T, E> Returned<Result<T, E>> {
    /// # Errors
    /// The function's error, or the value is not JSON.
    // Bounds of the `impl` would make the compiler fall back to `Plain`.
    pub fn into_json(self) -> Result<String, Error>
    where
        T: Output,
        E: IntoError,
    {
        self.0.map_err(IntoError::into_error)?.to_json()
    }
}

/// The conversion of what is not a `Result`.
pub trait Plain {
    /// The value that the function returned.
    type Output;

    /// # Errors
    /// The value is not JSON.
    // Bounds of the `impl` would make the compiler say that there is no method.
    fn into_json(self) -> Result<String, Error>
    where
        Self::Output: Output;
}

impl<T> Plain for Returned<T> {
    type Output = T;

    fn into_json(self) -> Result<String, Error>
    where
        T: Output,
    {
        self.0.to_json()
    }
}

/// The output of an algorithm.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the output of an algorithm",
    label = "`serde::Serialize` is not implemented for `{Self}`",
    note = "derive it: `#[derive(serde::Serialize)]`"
)]
pub trait Output {
    /// Serializes it.
    ///
    /// # Errors
    /// [`Error::Failed`]: it is not JSON.
    fn to_json(&self) -> Result<String, Error>;
}

#[diagnostic::do_not_recommend]
impl<T: Serialize> Output for T {
    fn to_json(&self) -> Result<String, Error> {
        serde_json::to_string(self)
            .map_err(|error| Error::Failed(format!("the result is not JSON: {error}")))
    }
}

/// The error of an algorithm.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of an algorithm",
    label = "neither `functional_scaffold_algorithm::Error` nor a type that converts into it",
    note = "every `std::error::Error` converts into it; for another type, implement \
            `From<{Self}> for functional_scaffold_algorithm::Error`"
)]
pub trait IntoError {
    /// Converts it.
    fn into_error(self) -> Error;
}

#[diagnostic::do_not_recommend]
impl<E: Into<Error>> IntoError for E {
    fn into_error(self) -> Error {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::num::ParseIntError;

    use super::*;
    use crate::invoke;

    #[derive(Serialize)]
    struct Sum {
        sum: i64,
    }

    type Fallible = Result<Sum, ParseIntError>;

    #[test]
    fn a_result_is_told_by_its_type() {
        fn plain(sum: i64) -> Sum {
            Sum { sum }
        }
        fn fallible(text: String) -> Fallible {
            text.parse().map(plain)
        }
        assert_eq!(invoke!(plain, "1"), Ok(r#"{"sum":1}"#.to_owned()));
        assert_eq!(invoke!(fallible, r#""1""#), Ok(r#"{"sum":1}"#.to_owned()));
        let failed = Error::Failed("invalid digit found in string".to_owned());
        assert_eq!(invoke!(fallible, r#""x""#), Err(failed));
    }

    #[test]
    fn any_output_that_is_not_json_fails() {
        fn keyed(key: u8) -> BTreeMap<Vec<u8>, u8> {
            BTreeMap::from([(vec![key], key)])
        }
        let failed = Error::Failed("the result is not JSON: key must be a string".to_owned());
        assert_eq!(invoke!(keyed, "1"), Err(failed));
    }
}
