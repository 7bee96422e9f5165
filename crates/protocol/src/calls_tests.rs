//! Tests of calls and replies.

use super::*;
use crate::{batch::LeasedExecution, lease::Lease};

fn id() -> BatchId {
    BatchId {
        nonce: 0xab,
        sequence: 7,
    }
}

fn lease() -> Lease {
    Lease {
        id: "ab/1".into(),
        millis: 35_000,
        count: vec![("m:c".into(), "f".into())],
    }
}

#[test]
fn an_apply_call_names_every_key_and_counts_every_field() {
    let mut increments = Batch::default();
    increments.inc("m:a", "x=\"1\"", 2);
    increments.inc("m:b", "y=\"1\"|sum", 3);
    let mut of_lease = Batch::default();
    of_lease.inc("m:b", "y=\"1\"|sum", 4);
    of_lease.inc("m:b", "y=\"1\"|1", 1);
    let second = Lease {
        id: "ab/2".into(),
        ..lease()
    };
    let of_leases = [(lease(), of_lease), (second.clone(), Batch::default())];
    let leased = of_leases.map(|(lease, increments)| LeasedExecution {
        lease,
        due_ms: 40_000,
        increments,
    });
    let batch = SentBatch {
        id: id(),
        frozen_ms: Some(5_500),
        increments,
        leased: leased.into(),
        custom: CustomWrites::default(),
    };
    let call = apply_call("m:", &batch);
    assert_eq!(
        call.keys,
        [
            "m:applied:0000:0",
            "m:applied:0000:1",
            "m:state",
            "m:leases",
            "m:closed_leases",
            "m:a",
            "m:b"
        ]
    );
    let members = [lease().encode(), second.encode()];
    assert_eq!(
        call.arguments,
        [
            "00000000000ab",
            "7",
            "5500",
            "7200000",
            "2",
            "2",
            "10000",
            &members[0],
            &members[1],
            "ab/1",
            "ab/2",
            "40000",
            "40000",
            "1",
            "x=\"1\"",
            "2",
            "2",
            "y=\"1\"|1",
            "1",
            "y=\"1\"|sum",
            "7"
        ]
    );
    let parts: Vec<_> = call.parts().collect();
    assert_eq!(parts.len(), 1 + 7 + 21);
    assert_eq!(parts[0], b"7");
    let never_sent = SentBatch {
        frozen_ms: None,
        ..batch
    };
    assert_eq!(apply_call("m:", &never_sent).arguments[2], "0", "too old");
}

#[test]
fn a_lease_expires_when_its_time_has_passed_since_it_began() {
    let command = lease_command("m:", &lease().begin(1_700_000_000_000));
    assert_eq!(command.name, "ZADD");
    let member = lease().encode();
    assert_eq!(command.arguments, ["m:leases", "1700000035000", &member]);
}

#[test]
fn a_settle_call_names_the_keys_that_leases_may_count_in() {
    let call = settle_call("m:", 7, 9, ["m:a", "m:b"], []);
    assert_eq!(call.keys[..3], ["m:state", "m:leases", "m:closed_leases"]);
    assert_eq!(call.keys[3..], ["m:a", "m:b"]);
    assert_eq!(call.arguments, ["7200000", "0000000000000007", "9"]);
    let refusing = settle_call("m:", 7, 9, ["m:a", "m:b"], ["x", "y"]);
    assert_eq!(refusing.keys, call.keys);
    assert_eq!(refusing.arguments[3..], ["x", "y"]);
}

#[test]
fn a_call_for_lost_counts_adds_to_hashes_beside_the_metric_hashes() {
    let mut lost = Batch::default();
    lost.inc("m:a", "x=\"1\"", 2);
    lost.inc("other", "|sum", 3);
    let call = add_lost_counts_call("m:", "e", None, "n", &lost);
    assert_eq!(call.keys, ["m:state", "m:lost:m:a", "m:lost:other"]);
    assert_eq!(
        call.arguments,
        ["e", "", "n", "1", "x=\"1\"", "2", "1", "|sum", "3"]
    );
    let again = add_lost_counts_call("m:", "e", Some("v"), "n", &lost);
    assert_eq!(again.arguments[1], "v");
}

#[test]
fn a_register_call_names_every_key_and_counts_every_field() {
    let catalog = Catalog::new("m:");
    let registration = Registration::of_catalog(&catalog, "a", &["/invoke"]);
    let call = register_call("m:", 7, &registration);
    assert_eq!(call.keys[..2], ["m:families", "m:state"]);
    assert_eq!(call.keys[3], "m:request_counter");
    assert_eq!(call.keys.len(), 3 + 8);
    assert_eq!(call.arguments.len(), 2 + 3 * 8 + 4 + 1 + 3 + 3);
    assert_eq!(
        call.arguments[..3],
        ["0000000000000007", "60", "http_requests_total"]
    );
    assert_eq!(call.arguments[4], "1");
    let zeros = catalog.zero_cells("a", &["/invoke"]);
    assert_eq!(call.arguments[5], zeros[4].1);

    let note = is_registered_call("m:", &registration).keys[1].clone();
    assert_eq!(note, call.keys[2]);
    assert!(is_own_key("m:", &note));
    let fewer_zeros = Registration::of_catalog(&catalog, "a", &[]);
    let mut without_help: Vec<_> = catalog.families().into_iter().cloned().collect();
    without_help[7].help.clear();
    let without_help = Registration::new(
        without_help
            .iter()
            .map(|family| (family.name.as_str(), family)),
        &zeros,
    );
    for other in [fewer_zeros, without_help] {
        assert_ne!(is_registered_call("m:", &other).keys[1], note);
    }
}

#[test]
fn replies_are_decoded_or_refused() {
    let read =
        |reply: &[&str]| ApplyReply::decode(reply.iter().map(|&text| text.to_owned()).collect());
    assert_eq!(
        read(&["applied", "17", "k f +1: WRONGTYPE"]),
        Ok(ApplyReply::Stored {
            lease_time_millis: 17,
            refused: vec!["k f +1: WRONGTYPE".into()]
        })
    );
    assert_eq!(read(&["duplicate"]), Ok(ApplyReply::Duplicate));
    assert_eq!(
        read(&["late", "ab/1"]),
        Ok(ApplyReply::Late(vec!["ab/1".into()]))
    );
    assert_eq!(
        read(&["too old", "17"]),
        Ok(ApplyReply::TooOld {
            lease_time_millis: 17
        })
    );
    let catalog = Catalog::new("m:");
    let family = catalog.families()[0];
    let registration = Registration::new([(family.name.as_str(), family)], &[]);
    let registered = |reply: &[&str]| {
        let reply = reply.iter().map(|&text| text.to_owned()).collect();
        RegisterReply::decode(&registration, reply)
    };
    assert_eq!(
        registered(&["17", "noeviction", "{}"]),
        Ok(RegisterReply {
            lease_time_millis: 17,
            eviction: Eviction::Never,
            in_force: vec!["{}".into()]
        })
    );
    for reply in [
        &[][..],
        &["{}"],
        &["17"],
        &["17", "{}"],
        &["17", "", "{}", "{}"],
    ] {
        assert!(registered(reply).is_err(), "{reply:?}");
    }
    let checked = |reply: &[&str]| {
        let reply = reply.iter().map(|&text| text.to_owned()).collect();
        CheckReply::decode(reply)
    };
    assert_eq!(
        checked(&["allkeys-lru", "m:check:set ZREM: NOPERM"]),
        Ok(CheckReply {
            eviction: Eviction::Policy("allkeys-lru".into()),
            refused: vec!["m:check:set ZREM: NOPERM".into()]
        })
    );
    let unknown = checked(&[""]).map(|checked| checked.eviction);
    assert_eq!(unknown, Ok(Eviction::Unknown));
    assert!(checked(&[]).is_err());
    let is_registered =
        |reply: &[&str]| decode_is_registered(reply.iter().map(|&text| text.to_owned()).collect());
    assert_eq!(is_registered(&[]), Ok(None));
    assert_eq!(is_registered(&["-3"]), Ok(Some(-3)));
    for reply in [&["x"][..], &["17", "{}"]] {
        assert!(is_registered(reply).is_err(), "{reply:?}");
    }
    let settled = |skip: &str| {
        let reply = [
            "e",
            "2",
            "17",
            skip,
            "1",
            "1",
            "3",
            "m:x",
            "l x: not",
            "k f +1: WRONGTYPE",
        ];
        SettleReply::decode(reply.map(str::to_owned).to_vec())
    };
    let expected = |next_skip| SettleReply {
        epoch: "e".into(),
        leases: 2,
        lease_time_millis: 17,
        next_skip,
        unknown_keys: vec!["m:x".into()],
        dropped: vec!["l x: not".into()],
        refused_counts: 3,
        refused: vec!["k f +1: WRONGTYPE".into()],
    };
    assert_eq!(settled(""), Ok(expected(None)));
    assert_eq!(settled("30"), Ok(expected(Some(30))));
    assert!(settled("x").is_err());
    let too_many = "18446744073709551615";
    for reply in [
        &["e", "2", "17", ""][..],
        &["e", "2", "17", "", "1"],
        &["e", "2", "17", "", "0", "0"],
        &["e", "2", "17", "", "0", "0", "-1"],
        &["e", "2", "17", "", "1", "0", "0"],
        &["e", "2", "17", "", "1", "1", "0", "m:x"],
        &["e", "2", "17", "", "1", too_many, "0", "m:x"],
    ] {
        let reply = reply.iter().map(|&text| text.to_owned()).collect();
        assert!(SettleReply::decode(reply).is_err());
    }
    let added = |reply: &[&str]| {
        AddLostCountsReply::decode(reply.iter().map(|&text| text.to_owned()).collect())
    };
    let refused = vec!["k f +1: ERR".into()];
    assert_eq!(
        added(&["added", "k f +1: ERR"]),
        Ok(AddLostCountsReply::Added { refused })
    );
    assert_eq!(added(&["overtaken"]), Ok(AddLostCountsReply::Overtaken));
    for reply in [&[][..], &["OK"], &["overtaken", "x"]] {
        assert!(added(reply).is_err(), "{reply:?}");
    }
    for reply in [
        &[][..],
        &["OK"],
        &["applied"],
        &["applied", "k f +1: WRONGTYPE"],
        &["duplicate", "x"],
        &["late"],
        &["too old"],
        &["too old", "x"],
    ] {
        assert!(read(reply).is_err(), "{reply:?}");
    }
}

/// The names of the commands that a script calls.
fn commands(script: &Script) -> std::collections::BTreeSet<&str> {
    let calls = ["redis.call('", "redis.pcall('", "attempt(reply, '", "{'"];
    let calls = calls
        .iter()
        .flat_map(|call| script.source.split(call).skip(1));
    let names = calls.filter_map(|call| call.split('\'').next());
    names
        .filter(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase()))
        .collect()
}

#[test]
fn readiness_tries_every_command_of_a_component() {
    let tried = commands(&Script::CHECK);
    assert_eq!(tried.len(), 14, "{tried:?}");
    let called = [Script::IS_REGISTERED, Script::REGISTER, Script::APPLY];
    let called = called.iter().flat_map(commands);
    let zadd = lease_command("m:", &lease().begin(0)).name;
    let rights = include_str!("../../../docs/operations.md");
    let rights = rights
        .lines()
        .find(|line| line.starts_with("ACL SETUSER app "));
    for command in called.chain([zadd]) {
        // The clock is read by every registration.
        assert!(
            tried.contains(command) || command == "TIME",
            "{command} is not tried"
        );
        let right = format!("+{}", command.to_lowercase());
        let mut rights = rights.unwrap_or_default().split(' ');
        assert!(rights.any(|named| named == right), "the docs lack {right}");
    }
}
