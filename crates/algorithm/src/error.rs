//! Why an algorithm gives no result.

use std::fmt;

/// Why an algorithm gives no result. The message is shown to the caller.
///
/// Every [`std::error::Error`] converts into [`Error::Failed`], with the messages of
/// its sources, so that `?` works. Therefore `Error` itself cannot implement that
/// trait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The algorithm rejects the input: the caller's fault (HTTP 422).
    InvalidInput(String),
    /// The algorithm could not finish: its own fault (HTTP 500).
    Failed(String),
}

impl Error {
    /// The algorithm rejects the input: the caller's fault (HTTP 422).
    ///
    /// # Examples
    ///
    /// ```
    /// # use functional_scaffold_algorithm::Error;
    /// # let number = "x";
    /// let parsed = number.parse::<u8>().map_err(Error::invalid_input);
    /// # assert!(parsed.is_err());
    /// ```
    #[must_use]
    pub fn invalid_input(message: impl fmt::Display) -> Self {
        Self::InvalidInput(message.to_string())
    }

    /// The algorithm could not finish: its own fault (HTTP 500).
    #[must_use]
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::Failed(message.to_string())
    }
}

/// Writes the message.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::InvalidInput(message) | Self::Failed(message)) = self;
        f.write_str(message)
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Some errors end with the message of their source.
            if !message.ends_with(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = cause.source();
        }
        Self::Failed(message)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as StdError;

    use super::*;

    #[derive(Debug)]
    struct Context(String, Box<dyn StdError>);

    impl fmt::Display for Context {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.0)
        }
    }

    impl StdError for Context {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&*self.1)
        }
    }

    #[test]
    fn every_cause_is_in_the_message_once() {
        let fails = || -> Result<i32, Error> {
            let number = "x".parse::<i32>();
            let word = number.map_err(|e| Context(format!("word 2: {e}"), e.into()));
            let line = word.map_err(|e| Context("line 3".to_owned(), e.into()));
            Ok(line.map_err(|e| Context("cannot read the table".to_owned(), e.into()))?)
        };
        let message = "cannot read the table: line 3: word 2: invalid digit found in string";
        assert_eq!(fails(), Err(Error::Failed(message.to_owned())));
    }
}
