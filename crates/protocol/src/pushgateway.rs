//! Where a group of metrics lives in a
//! [Pushgateway](https://github.com/prometheus/pushgateway/blob/v1.11.0/README.md#url).
//! Owns the path, with values of any text; pushes nothing.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

/// The path of the group with this job and these further labels, below the
/// Pushgateway's own: `/metrics/job/<job>/<name>/<value>…`. Names are label names,
/// and none is `job`.
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
            // A slash cannot be escaped there, and an empty value is no segment.
            path.push_str("@base64/");
            if value.is_empty() {
                path.push('=');
            }
            BASE64_URL_SAFE_NO_PAD.encode_string(value, &mut path);
        }
    }
    path
}

/// Whether a value can stand in a path as it is: RFC 3986's unreserved
/// characters, and no segment of dots, which some remove.
fn is_plain(value: &str) -> bool {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    value.bytes().all(unreserved) && !matches!(value, "" | "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_no_path_segment_are_encoded() {
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
