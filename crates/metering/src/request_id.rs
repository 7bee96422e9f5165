//! Ids of requests, under which log lines name them.

use std::cell::Cell;

/// Makes the ids of one instance's requests.
pub struct RequestIds {
    /// Random number that distinguishes the instance from all others.
    nonce: u64,
    /// Number of requests received.
    requests: Cell<u64>,
}

impl RequestIds {
    /// Creates the ids of the instance with this random number.
    #[must_use]
    pub fn new(nonce: u64) -> Self {
        Self {
            nonce,
            requests: Cell::new(0),
        }
    }

    /// Returns the id of a new request: the id that was `sent` if it is valid (1
    /// to 128 letters, digits, `-`, `_` and `.`), or else a new one: the instance's
    /// nonce and a number, because a random id would cost a host call.
    #[must_use]
    pub fn next(&self, sent: Option<&str>) -> String {
        let number = self.requests.get().wrapping_add(1);
        self.requests.set(number);
        match sent {
            Some(sent) if is_valid(sent) => sent.to_owned(),
            _ => format!("{:016x}-{number}", self.nonce),
        }
    }
}

fn is_valid(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::is_valid;

    #[test]
    fn request_ids_are_validated() {
        for (text, valid) in [
            ("abc-1_2.3", true),
            ("", false),
            ("a b", false),
            ("a\"b", false),
            ("é", false),
        ] {
            assert_eq!(is_valid(text), valid, "{text:?}");
        }
        assert!(is_valid(&"x".repeat(128)));
        assert!(!is_valid(&"x".repeat(129)));
    }
}
