//! Explains Redis's errors to operators.
//!
//! Spin passes on the text of its Redis client, which spells some error codes
//! in its own way and names no remedy.

/// Parts of the client's texts, and what they mean. The first match counts.
const EXPLANATIONS: [(&[&str], &str); 20] = [
    (
        &["BusyLoadingError", "LOADING"],
        "Redis is loading its data",
    ),
    (
        &["ReadOnly", "READONLY"],
        "Redis is a replica, which takes no writes",
    ),
    (
        &["MasterDown", "MASTERDOWN"],
        "Redis is a replica that lost its master",
    ),
    (&["OOM"], "Redis's memory is full (maxmemory)"),
    (
        &["MISCONF"],
        "Redis could not save to disk, and takes no writes until it can",
    ),
    (
        &["NOREPLICAS"],
        "Redis has too few replicas to take writes (min-replicas-to-write)",
    ),
    (
        &["BUSY: "],
        "Redis runs a script that does not end (SCRIPT KILL ends it)",
    ),
    // An unauthenticated client that sends a command of more than ten words gets the
    // second error instead of NOAUTH.
    (
        &["NOAUTH", "unauthenticated multibulk"],
        "Redis requires a password (redis_password)",
    ),
    (
        &["AuthenticationFailed", "WRONGPASS"],
        "Redis refuses user or password (redis_username, redis_password)",
    ),
    (
        &["NOPERM", "no permissions", "can't run this command"],
        "Redis's user lacks a permission (ACL)",
    ),
    (
        &["switch database"],
        "Redis refuses the database (redis_metrics_db)",
    ),
    (&["WRONGTYPE"], "Redis holds a key of another type"),
    (
        &["CrossSlot", "CROSSSLOT"],
        "Redis is a cluster, and the keys are in several slots: metrics_prefix needs a {hash tag}, \
         or set metrics_shards",
    ),
    (
        &["Moved", "MOVED"],
        "Redis Cluster redirects too often, or to no usable address",
    ),
    (
        &["- Ask:", "TryAgain", "TRYAGAIN"],
        "Redis Cluster is moving the keys to another node",
    ),
    (
        &["ClusterDown", "CLUSTERDOWN"],
        "Redis's cluster is down, or has no node for the keys",
    ),
    (
        &["ParseError"],
        "the server there does not speak the Redis protocol",
    ),
    (
        &["failed to lookup address"],
        "the host name cannot be resolved",
    ),
    (&["Connection refused"], "nothing listens there"),
    (
        &["certificate"],
        "Redis's certificate is not trusted by this component's host",
    ),
];

/// Puts the explanation of a client's text before it, if there is one.
pub(crate) fn explain(text: &str) -> String {
    let found = EXPLANATIONS
        .iter()
        .find(|(parts, _)| parts.iter().any(|part| text.contains(part)));
    match found {
        Some((_, explanation)) => format!("{explanation} ({})", text.trim()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{EXPLANATIONS, explain};

    #[test]
    fn known_errors_are_explained() {
        for (text, explanation) in [
            (
                "An error was signalled by the server - BusyLoadingError: Redis is loading the \
                 dataset in memory",
                "Redis is loading its data (",
            ),
            (
                "Redis server refused to switch database - ResponseError: this user has no \
                 permissions to run the 'select' command",
                "Redis's user lacks a permission (ACL) (",
            ),
            ("broken pipe", "broken pipe"),
        ] {
            let explained = explain(text);
            assert!(explained.starts_with(explanation), "{explained}");
            assert!(explained.contains(text), "{explained}");
        }
    }

    #[test]
    fn every_explanation_is_documented() {
        let docs = include_str!("../../../../docs/operations.md");
        let table = docs.split("\n| reason |").nth(1).expect("the table");
        let rows = table.lines().take_while(|line| !line.is_empty());
        let reasons = rows.filter_map(|row| row.split('|').nth(1));
        let texts = reasons.flat_map(|cell| cell.split('`').skip(1).step_by(2));
        let texts: Vec<_> = texts.map(|text| text.trim_end_matches(" …")).collect();
        for (_, explanation) in EXPLANATIONS {
            let is_documented = texts.iter().any(|text| explanation.starts_with(text));
            assert!(is_documented, "{explanation} is not in docs/operations.md");
        }
    }
}
