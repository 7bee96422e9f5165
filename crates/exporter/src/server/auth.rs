//! Authorization: bearer tokens, and users with passwords, from files.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use axum::http::{HeaderMap, HeaderValue, header};
use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use subtle::ConstantTimeEq as _;

/// Accepts credentials without padding, as some clients send them. The typed header
/// of the crate `headers` does not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The accepted credentials. It has no `Debug`, because it holds secrets.
#[derive(Default)]
pub(crate) struct Auth {
    tokens: Vec<String>,
    /// Each `user:password`.
    users: Vec<String>,
}

impl Auth {
    /// Reads one token, or one `user:password`, per line, and ignores empty lines.
    /// With several lines, secrets can be rotated. No error shows a secret.
    pub(crate) fn read(
        bearer: Option<&Path>,
        basic: Option<&Path>,
    ) -> anyhow::Result<Option<Self>> {
        let mut auth = Self::default();
        if let Some(path) = bearer {
            auth.tokens = read_secrets(path, "not a token of visible ASCII characters", |line| {
                line.bytes().all(|byte| byte.is_ascii_graphic())
            })?;
        }
        if let Some(path) = basic {
            auth.users = read_secrets(path, "not of the form user:password", |line| {
                line.find(':').is_some_and(|at| at > 0)
            })?;
        }
        Ok((bearer.is_some() || basic.is_some()).then_some(auth))
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn of_token(token: &str) -> Self {
        Self {
            tokens: vec![token.to_owned()],
            ..Self::default()
        }
    }

    /// Checks the `Authorization` header. The time does not depend on the content of
    /// a wrong secret, only on its length.
    pub(crate) fn allows(&self, headers: &HeaderMap) -> bool {
        let Some((scheme, credentials)) = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
        else {
            return false;
        };
        let credentials = credentials.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            any_equals(&self.tokens, credentials.as_bytes())
        } else if scheme.eq_ignore_ascii_case("basic") {
            let user = BASE64.decode(credentials).unwrap_or_default();
            any_equals(&self.users, &user)
        } else {
            false
        }
    }

    /// The `WWW-Authenticate` headers of a 401.
    pub(crate) fn challenges(&self) -> impl Iterator<Item = HeaderValue> {
        let schemes = [
            (&self.tokens, "Bearer"),
            (&self.users, "Basic realm=\"exporter\""),
        ];
        schemes
            .into_iter()
            .filter(|(secrets, _)| !secrets.is_empty())
            .map(|(_, scheme)| HeaderValue::from_static(scheme))
    }
}

/// Compares with every secret, so that the time does not tell which one matched.
fn any_equals(secrets: &[String], given: &[u8]) -> bool {
    secrets
        .iter()
        .map(|secret| secret.as_bytes().ct_eq(given))
        .fold(subtle::Choice::from(0), |any, one| any | one)
        .into()
}

fn read_secrets(
    path: &Path,
    expected: &str,
    is_valid: impl Fn(&str) -> bool,
) -> anyhow::Result<Vec<String>> {
    let read = || {
        let text = std::fs::read_to_string(path)?;
        let lines = text.lines().enumerate();
        let mut secrets = Vec::new();
        for (index, line) in lines.filter(|(_, line)| !line.is_empty()) {
            if !is_valid(line) {
                bail!("line {}: {expected}", index + 1);
            }
            secrets.push(line.to_owned());
        }
        ensure!(!secrets.is_empty(), "it contains no secret");
        Ok(secrets)
    };
    read().with_context(|| format!("cannot use {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth() -> Auth {
        Auth {
            tokens: vec!["t0ken".into(), "other".into()],
            users: vec!["us er:pass:wörd".into()],
        }
    }

    fn allows(auth: &Auth, value: &str) -> bool {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("a header");
        headers.insert(header::AUTHORIZATION, value);
        auth.allows(&headers)
    }

    #[test]
    fn one_of_the_secrets_is_required() {
        assert!(!auth().allows(&HeaderMap::new()));
        // us er:pass:wörd
        let basic = "dXMgZXI6cGFzczp3w7ZyZA";
        for (value, allowed) in [
            ("Bearer t0ken", true),
            ("bearer  other ", true),
            (&format!("Basic {basic}=="), true),
            (&format!("BASIC {basic}"), true),
            ("Bearer", false),
            ("Bearer ", false),
            ("Bearer t0ke", false),
            ("Bearer t0kenn", false),
            ("Bearer T0KEN", false),
            ("t0ken", false),
            ("Basic t0ken", false),
            ("Basic dXMgZXI6", false),
            ("Basic \u{e9}", false),
            (&format!("Bearer {basic}"), false),
            ("Digest t0ken", false),
        ] {
            assert_eq!(allows(&auth(), value), allowed, "{value}");
        }
        // Without users, an empty user is refused.
        let tokens = Auth {
            users: Vec::new(),
            ..auth()
        };
        assert!(!allows(&tokens, "Basic "));
        assert_eq!(tokens.challenges().count(), 1);
    }

    #[test]
    fn files_have_one_secret_per_line_and_errors_show_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("secrets");
        let read = |text: &str, basic: bool| {
            std::fs::write(&file, text).expect("written");
            let path = Some(file.as_path());
            let read = match basic {
                true => Auth::read(None, path),
                false => Auth::read(path, None),
            };
            read.map_err(|error| format!("{error:#}"))
        };
        let tokens = read("\nt0ken\r\nother", false).expect("two");
        assert_eq!(tokens.map(|auth| auth.tokens), Some(auth().tokens));
        let users = read("us er:pass:wörd\n", true).expect("one");
        assert_eq!(users.map(|auth| auth.users), Some(auth().users));
        assert!(matches!(Auth::read(None, None), Ok(None)));
        for (text, basic, why) in [
            ("", false, "no secret"),
            ("\n\n", true, "no secret"),
            ("fine\ns3cret s3cret", false, "line 2"),
            ("s3cret", true, "line 1: not of the form"),
            (":s3cret", true, "line 1"),
        ] {
            let Err(error) = read(text, basic) else {
                panic!("accepted {text:?}");
            };
            assert!(error.contains(why) && error.contains("secrets"), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let missing = Auth::read(Some(Path::new("/nowhere")), None);
        let error = missing.err().map(|error| format!("{error:#}"));
        assert!(error.is_some_and(|error| error.contains("/nowhere")));
    }
}
