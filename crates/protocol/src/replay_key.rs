//! Authentication of the batches in the log.
//!
//! A log also holds texts of clients and algorithms. So that none of them can pass for
//! a batch, the JSON object of a batch ends with a message authentication code
//! ([HMAC-SHA256](https://www.rfc-editor.org/rfc/rfc2104)) of everything before it:
//! `{…,"mac":"…"}`. It covers bytes, not values, so nothing has to be brought into a
//! canonical form, and a reader checks it before it parses anything else.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac_sha256::HMAC;
use thiserror::Error;

/// The text before the MAC in the object.
const MEMBER: &str = ",\"mac\":\"";
/// The code's 32 bytes in base64.
const CODE_BYTES: usize = 43;
/// The text after the MAC.
const END: &str = "\"}";

/// The secret that the service and `replay` share.
///
/// It has no `Debug`, because no log may show it.
///
/// # Examples
/// ```
/// use functional_scaffold_protocol::replay_key::{MacError, ReplayKey};
///
/// let key = ReplayKey::new("a secret of at least 32 characters")?;
/// let mut object = r#"{"id":"0000000000000002-3"}"#.to_owned();
/// key.sign(&mut object);
/// assert_eq!(key.verify(object.as_bytes()), Ok(()));
///
/// let forged = object.replace("-3", "-4");
/// assert_eq!(key.verify(forged.as_bytes()), Err(MacError::Wrong));
/// # Ok::<(), functional_scaffold_protocol::replay_key::ReplayKeyError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ReplayKey(String);

/// The key is too short. The error does not show it.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("it has {0} bytes, and needs at least {min} that nobody can guess", min = ReplayKey::MIN_BYTES)]
pub struct ReplayKeyError(usize);

/// Why an object is not authentic.
#[derive(Debug, Clone, Copy, Error, PartialEq, Eq)]
pub enum MacError {
    /// It does not end with a code.
    #[error("it has no message authentication code")]
    Missing,
    /// Its contents or its code were changed, or it was signed with another key.
    #[error("its message authentication code is wrong")]
    Wrong,
}

impl ReplayKey {
    /// The shortest key. A shorter one could be guessed from a line of the log.
    pub const MIN_BYTES: usize = 32;
    /// The bytes that [`Self::sign`] adds.
    pub const MEMBER_BYTES: usize = MEMBER.len() + CODE_BYTES + END.len() - "}".len();

    /// Checks a key's length.
    ///
    /// # Errors
    /// The key is too short.
    pub fn new(secret: &str) -> Result<Self, ReplayKeyError> {
        match secret.len() {
            bytes if bytes < Self::MIN_BYTES => Err(ReplayKeyError(bytes)),
            _ => Ok(Self(secret.to_owned())),
        }
    }

    /// Adds the code to the text of a JSON object that has members.
    pub fn sign(&self, object: &mut String) {
        if object.pop() != Some('}') {
            return;
        }
        let code = HMAC::mac(&object, &self.0);
        object.push_str(MEMBER);
        BASE64_URL_SAFE_NO_PAD.encode_string(code, object);
        object.push_str(END);
    }

    /// Checks the code of an object, in constant time.
    ///
    /// # Errors
    /// The object is not authentic.
    pub fn verify(&self, object: &[u8]) -> Result<(), MacError> {
        let end = object.strip_suffix(END.as_bytes());
        let code = end.and_then(|rest| rest.split_last_chunk::<CODE_BYTES>());
        let (signed, code) = code
            .and_then(|(rest, code)| Some((rest.strip_suffix(MEMBER.as_bytes())?, code)))
            .ok_or(MacError::Missing)?;
        let mut bytes = [0; 32];
        let decoded = BASE64_URL_SAFE_NO_PAD.decode_slice(code, &mut bytes);
        match decoded.is_ok() && HMAC::verify(signed, &self.0, &bytes) {
            true => Ok(()),
            false => Err(MacError::Wrong),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: &str = r#"{"time":"t","id":"0000000000000002-3","increments":{"k":{"a":1}}"#;

    fn key(start: &str) -> ReplayKey {
        ReplayKey::new(&format!("{start:x<32}")).expect("it is long enough")
    }

    fn signed() -> String {
        let mut object = format!("{OBJECT}}}");
        key("a").sign(&mut object);
        object
    }

    /// The code was computed with `openssl dgst -sha256 -hmac` and base64url.
    #[test]
    fn the_code_is_the_one_that_other_programs_compute() {
        let expected =
            format!("{OBJECT},\"mac\":\"_MJ5pBibitTxXl5Nq1OE6JSUpKAFaFuVeEs_BqJT3f0\"}}");
        assert_eq!(signed(), expected);
        assert_eq!(signed().len(), OBJECT.len() + 1 + ReplayKey::MEMBER_BYTES);
    }

    #[test]
    fn every_change_is_noticed() {
        let object = signed();
        assert_eq!(key("a").verify(object.as_bytes()), Ok(()));
        assert_eq!(key("b").verify(object.as_bytes()), Err(MacError::Wrong));
        for at in 0..object.len() {
            let mut changed = object.clone().into_bytes();
            changed[at] ^= 1;
            assert!(key("a").verify(&changed).is_err(), "byte {at}");
            assert!(key("a").verify(&object.as_bytes()[..at]).is_err(), "{at}");
        }
        let longer = object.replace("{\"time\"", "{\"group\":\"/\",\"time\"");
        assert_eq!(key("a").verify(longer.as_bytes()), Err(MacError::Wrong));
        let twice = format!("{},\"id\":\"x\"}}", &object[..object.len() - 1]);
        assert_eq!(key("a").verify(twice.as_bytes()), Err(MacError::Missing));
    }

    #[test]
    fn an_object_without_a_code_is_told_apart() {
        let unsigned = format!("{OBJECT}}}");
        let short = format!("{OBJECT},\"mac\":\"\"}}");
        for object in ["", "{}", "\"}", &unsigned, &short] {
            let error = key("a").verify(object.as_bytes());
            assert_eq!(error, Err(MacError::Missing), "{object}");
        }
    }

    #[test]
    fn a_short_key_is_refused_without_being_shown() {
        let error = ReplayKey::new("hunter2").err().expect("it is refused");
        let shown = error.to_string();
        assert!(
            shown.contains("7 bytes") && !shown.contains("hunter"),
            "{shown}"
        );
    }
}
