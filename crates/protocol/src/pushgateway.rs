//! The path of a group of metrics in a [Pushgateway].
//!
//! [Pushgateway]: https://github.com/prometheus/pushgateway/blob/v1.11.0/README.md#url

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

/// Returns the path of the group with this job and these further labels,
/// `/metrics/job/<job>/<name>/<value>…`. Names must be label names other than `job`.
///
/// # Examples
/// ```
/// use functional_scaffold_protocol::pushgateway::group_path;
///
/// let path = group_path("prime-check", [("instance", "a/1")]);
/// assert_eq!(path, "/metrics/job/prime-check/instance@base64/YS8x");
/// ```
#[must_use]
pub fn group_path<'a>(
    job: &'a str,
    labels: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> String {
    let mut path = String::from("/metrics");
    for (name, value) in [("job", job)].into_iter().chain(labels) {
        path.push('/');
        path.push_str(name);
        if is_plain(value) {
            path.push('/');
            path.push_str(value);
        } else {
            // The Pushgateway takes an escaped slash for a separator, and a path
            // has no empty segments.
            path.push_str("@base64/");
            if value.is_empty() {
                path.push('=');
            }
            BASE64_URL_SAFE_NO_PAD.encode_string(value, &mut path);
        }
    }
    path
}

/// Returns whether a value needs no encoding: it has only unreserved characters of
/// [RFC 3986](https://www.rfc-editor.org/rfc/rfc3986#section-2.3), and is not a dot
/// segment, which proxies remove.
fn is_plain(value: &str) -> bool {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    value.bytes().all(unreserved) && !matches!(value, "" | "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_cannot_be_path_segments_are_encoded() {
        for (labels, path) in [
            (&[][..], "/metrics/job/a-1.b_c~"),
            (&[("instance", "x")], "/metrics/job/a-1.b_c~/instance/x"),
            (
                &[("a", ""), ("b", "..")],
                "/metrics/job/a-1.b_c~/a@base64/=/b@base64/Li4",
            ),
            (
                &[("a", "/var/tmp"), ("b", "ü?"), ("c", "%41")],
                "/metrics/job/a-1.b_c~/a@base64/L3Zhci90bXA/b@base64/w7w_/c@base64/JTQx",
            ),
        ] {
            assert_eq!(group_path("a-1.b_c~", labels.iter().copied()), path);
        }
        assert_eq!(group_path("a/b", []), "/metrics/job@base64/YS9i");
    }
}
