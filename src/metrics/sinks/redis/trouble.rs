//! What is the matter with Redis, in the words of those who run it. Spin hands
//! on the text of its Redis client, which spells some error codes its own way
//! and names no remedy.

/// Parts of the client's texts, and what they mean; the first that fits holds.
const TROUBLES: [(&[&str], &str); 19] = [
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
        "Redis runs somebody's script that does not end (SCRIPT KILL ends it)",
    ),
    // A client without a password may send ten words at the most.
    (
        &["NOAUTH", "unauthenticated multibulk"],
        "Redis wants a password (redis_password)",
    ),
    (
        &["AuthenticationFailed", "WRONGPASS"],
        "Redis refuses user or password (redis_username, redis_password)",
    ),
    (
        &["NOPERM", "no permissions", "can't run this command"],
        "Redis's user lacks a right (ACL)",
    ),
    (
        &["switch database"],
        "Redis refuses the database (redis_metrics_db)",
    ),
    (&["WRONGTYPE"], "Redis holds a key of another type"),
    (
        &["CrossSlot", "CROSSSLOT"],
        "Redis is a cluster, and the keys are in several slots: metrics_prefix needs a {hash tag}",
    ),
    (
        &["Moved", "MOVED"],
        "Redis is a cluster, and the keys are on another node",
    ),
    (
        &["ClusterDown", "CLUSTERDOWN"],
        "Redis's cluster is down, or has no node for the keys",
    ),
    (
        &["ParseError"],
        "what listens there does not speak as Redis does",
    ),
    (&["failed to lookup address"], "the host's name is unknown"),
    (&["Connection refused"], "nothing listens there"),
    (
        &["certificate"],
        "Redis's certificate is not one that the host of this component trusts",
    ),
];

/// The text, with what it means before it where that is known.
#[must_use]
pub fn in_words(text: &str) -> String {
    let meaning = TROUBLES
        .iter()
        .find(|(signs, _)| signs.iter().any(|sign| text.contains(sign)));
    match meaning {
        Some((_, words)) => format!("{words} ({})", text.trim()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::in_words;

    #[test]
    fn the_clients_texts_are_put_in_words() {
        for (text, words) in [
            (
                "An error was signalled by the server - BusyLoadingError: Redis is loading the \
                 dataset in memory",
                "Redis is loading its data (",
            ),
            (
                "Redis server refused to switch database - ResponseError: this user has no \
                 permissions to run the 'select' command",
                "Redis's user lacks a right (ACL) (",
            ),
            ("broken pipe", "broken pipe"),
        ] {
            let explained = in_words(text);
            assert!(explained.starts_with(words), "{explained}");
            assert!(explained.contains(text), "{explained}");
        }
    }
}
