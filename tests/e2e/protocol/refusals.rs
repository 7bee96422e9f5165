//! Redis in a state in which it refuses the scripts or parts of them. Either nothing
//! changes and an error names the cause, or the reply names the refused parts.

use std::time::Duration;

use anyhow::ensure;
use functional_scaffold_protocol::calls::{ApplyReply, Registration};
use functional_scaffold_testkit::process::poll_until;

use super::{
    fixture::{Fixture, LONG_MS, STORED, metric_keys},
    model::REMEMBERED_MS,
    store::{Passing, Store},
};
use crate::Result;

/// Calls a script, or the command for a lease.
type CallScript = fn(&mut Fixture) -> Result;

const REGISTER: CallScript = |fixture| {
    let nothing = Registration::new([], &[]);
    fixture.store.register(7, &nothing).map(|_reply| ())
};

const IS_REGISTERED: CallScript = |fixture| {
    let nothing = Registration::new([], &[]);
    fixture.store.is_registered(&nothing).map(|_reply| ())
};
const APPLY: CallScript = |fixture| {
    let lease = fixture.lease(2, 0);
    let batch = fixture.batch(2, &[&lease]);
    fixture.apply(&batch).map(|_reply| ())
};
const APPLY_WITHOUT_LEASES: CallScript = |fixture| {
    let mut batch = fixture.batch(2, &[]);
    batch.increments.inc("m:a", "x=\"1\"", 1);
    fixture.apply(&batch).map(|_reply| ())
};
const LEASE: CallScript = |fixture| {
    let lease = fixture.lease(3, 0);
    fixture.store.take(&lease, 1)
};
const SETTLE: CallScript = |fixture| fixture.settle().map(|_reply| ());
const REMOVE: CallScript = |fixture| {
    let crashed = &fixture.lease(1, 0).count[0];
    (fixture.store).remove(7, &crashed.0, std::slice::from_ref(&crashed.1))
};
const WIPE: CallScript = |fixture| {
    let key = fixture.key("http_requests_total");
    fixture.store.wipe(7, &[&key])
};

const ALL: [CallScript; 7] = [
    APPLY,
    APPLY_WITHOUT_LEASES,
    LEASE,
    SETTLE,
    REGISTER,
    REMOVE,
    WIPE,
];

/// A store with some of everything: a batch, open leases of which two have expired, and
/// an id that was closed long ago, so that the next script deletes it. Its saved clock is
/// old enough to be saved again.
fn filled_store() -> Result<Fixture> {
    let mut fixture = Fixture::start()?;
    let [first, second, third] = [(0, LONG_MS), (1, 0), (2, 0)];
    let leases = [first, second, third].map(|(number, millis)| fixture.lease(number, millis));
    fixture.store.lease(&leases)?;
    let lost = fixture.lease(9, 0);
    let mut batch = fixture.batch(1, &[&lost]);
    batch.id.nonce += 1;
    batch.leased[0].increments = functional_scaffold_protocol::batch::Batch::default();
    let applied = fixture.store.apply(&batch)?;
    assert!(matches!(applied, ApplyReply::Stored { .. }), "{applied:?}");
    fixture
        .store
        .call::<()>(&["ZADD", "m:closed_leases", "1", "old"])?;
    for field in ["last_ms", "flushed_ms"] {
        let second_ago = ["HINCRBY", "m:state", field, "-1000"];
        fixture.store.call::<()>(&second_ago)?;
    }
    Ok(fixture)
}

/// The script raises an error that contains `reason`, and nothing changes.
fn assert_refused_whole(fixture: &mut Fixture, call: CallScript, reason: &str) -> Result {
    let before = fixture.store.dump()?;
    let error = call(fixture).expect_err("it is refused");
    let error = format!("{error:#}");
    assert!(error.contains(reason), "{error} does not say {reason}");
    assert_eq!(fixture.store.dump()?, before, "after {error}");
    Ok(())
}

#[test]
fn a_script_is_refused_whole_while_redis_is_read_only() -> Result {
    let mut fixture = filled_store()?;
    let lease = fixture.lease(2, 0);
    let batch = fixture.batch(2, &[&lease]);
    fixture.store.call::<()>(&["REPLICAOF", "127.0.0.1", "1"])?;
    for call in ALL {
        assert_refused_whole(&mut fixture, call, "read only replica")?;
    }
    fixture.store.call::<()>(&["REPLICAOF", "NO", "ONE"])?;
    assert_eq!(fixture.apply(&batch)?, STORED, "it is no duplicate");
    assert_eq!(fixture.apply(&batch)?, ApplyReply::Duplicate);
    Ok(())
}

#[test]
fn a_script_is_refused_whole_while_redis_cannot_save() -> Result {
    let mut fixture = filled_store()?;
    let lease = fixture.lease(2, 0);
    let batch = fixture.batch(2, &[&lease]);
    // A folder has the name of the snapshot.
    let (_, folder): (String, String) = fixture.store.call(&["CONFIG", "GET", "dir"])?;
    std::fs::create_dir(std::path::Path::new(&folder).join("dump.rdb"))?;
    let store = &mut fixture.store;
    store.call::<()>(&["CONFIG", "SET", "save", "3600 1"])?;
    store.call::<()>(&["BGSAVE"])?;
    poll_until(Duration::from_secs(10), || {
        let info: String = store.call(&["INFO", "persistence"])?;
        ensure!(info.contains("rdb_last_bgsave_status:err"), "{info}");
        Ok(())
    })?;
    for call in ALL {
        assert_refused_whole(&mut fixture, call, "MISCONF")?;
    }
    let go_on = ["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"];
    fixture.store.call::<()>(&go_on)?;
    assert_eq!(fixture.apply(&batch)?, STORED, "it is no duplicate");
    assert_eq!(fixture.apply(&batch)?, ApplyReply::Duplicate);
    Ok(())
}

#[test]
fn a_batch_is_refused_whole_while_redis_is_full() -> Result {
    let mut fixture = filled_store()?;
    let lease = fixture.lease(2, 0);
    let batch = fixture.batch(2, &[&lease]);
    fixture
        .store
        .call::<()>(&["CONFIG", "SET", "maxmemory", "1"])?;
    for call in [APPLY, APPLY_WITHOUT_LEASES, LEASE, REGISTER, REMOVE, WIPE] {
        assert_refused_whole(&mut fixture, call, "maxmemory")?;
    }
    fixture
        .store
        .call::<()>(&["CONFIG", "SET", "maxmemory", "0"])?;
    assert_eq!(fixture.apply(&batch)?, STORED, "it is no duplicate");
    assert_eq!(fixture.apply(&batch)?, ApplyReply::Duplicate);
    Ok(())
}

/// Even then, an expired lease is settled as a whole or not at all.
#[test]
fn leases_are_settled_once_also_while_redis_is_full() -> Result {
    let mut fixture = filled_store()?;
    fixture
        .store
        .call::<()>(&["CONFIG", "SET", "maxmemory", "1"])?;
    let first = fixture.settle().map_or(0, |settled| settled.leases);
    fixture
        .store
        .call::<()>(&["CONFIG", "SET", "maxmemory", "0"])?;
    assert_eq!(first + fixture.settle()?.leases, 2);
    assert_eq!(fixture.counts()?, (1, 0, 2));
    Ok(())
}

#[test]
fn keys_of_a_wrong_type_refuse_a_script_whole() -> Result {
    for (key, calls) in [
        ("m:applied:0000:0", &[APPLY, APPLY_WITHOUT_LEASES][..]),
        ("m:applied:0000:1", &[APPLY, APPLY_WITHOUT_LEASES]),
        (
            "m:state",
            &[
                APPLY,
                APPLY_WITHOUT_LEASES,
                SETTLE,
                REGISTER,
                IS_REGISTERED,
                REMOVE,
                WIPE,
            ],
        ),
        ("m:leases", &[APPLY, APPLY_WITHOUT_LEASES, SETTLE, LEASE]),
        ("m:closed_leases", &[APPLY, APPLY_WITHOUT_LEASES, SETTLE]),
        ("m:removed", &[REMOVE]),
    ] {
        for call in calls {
            let mut fixture = filled_store()?;
            fixture.store.call::<()>(&["SET", key, "text"])?;
            assert_refused_whole(&mut fixture, *call, "WRONGTYPE")
                .or_else(|_| assert_refused_whole(&mut fixture, *call, "wrong kind"))?;
            fixture.store.call::<()>(&["DEL", key])?;
            call(&mut fixture)?;
        }
    }
    Ok(())
}

#[test]
fn metric_keys_of_a_wrong_type_are_named_and_lose_nothing_else() -> Result {
    let mut fixture = Fixture::start()?;
    let crashed = fixture.lease(1, 0);
    fixture.store.lease(std::slice::from_ref(&crashed))?;
    let requests = fixture.key("http_requests_total");
    let durations = fixture.key("algorithm_execution_duration_seconds");
    for key in [&requests, &durations] {
        fixture.store.call::<()>(&["SET", key, "text"])?;
    }
    let lease = fixture.lease(2, LONG_MS);
    let batch = fixture.batch(1, &[&lease]);
    let ApplyReply::Stored { refused, .. } = fixture.apply(&batch)? else {
        panic!("it is stored");
    };
    // A bucket and a sum of the result.
    assert_eq!(refused.len(), 2, "{refused:?}");
    for (refused, by) in refused.iter().zip([1, 7]) {
        assert!(refused.starts_with(&format!("{durations} ")), "{refused}");
        assert!(refused.contains(&format!(" +{by}: WRONGTYPE")), "{refused}");
    }
    assert_eq!(fixture.counts()?, (1, 1, 0));
    assert_eq!(fixture.apply(&batch)?, ApplyReply::Duplicate);

    for crashed in [1, 2] {
        // The request of a crash.
        let settled = fixture.settle()?;
        assert_eq!((settled.leases, settled.refused_counts), (1, 1));
        assert!(settled.refused[0].starts_with(&format!("{requests} ")));
        assert!(settled.refused[0].contains(" +1: WRONGTYPE"));
        assert_eq!(fixture.counts()?, (0, 1, crashed));
        let another = fixture.lease(3, 0);
        fixture.store.lease(&[another])?;
    }
    Ok(())
}

/// A user with every right but one.
fn without(fixture: &mut Fixture, command: &str) -> Result<Store> {
    let (user, denied) = ("limited", format!("-{command}"));
    let rights = ["reset", "on", ">p", "~m:*", "+@all", &denied];
    let set_user = [&["ACL", "SETUSER", user], &rights[..]].concat();
    fixture.store.call::<()>(&set_user)?;
    Store::open_as(&fixture.server, "m:", "limited:p@")
}

#[test]
fn a_missing_right_loses_no_batch_in_silence() -> Result {
    let commands = [
        "hmget", "hget", "hset", "hincrby", "unlink", "zadd", "zcard", "zrem", "zscore", "time",
    ];
    for command in commands {
        let mut fixture = Fixture::start()?;
        fixture.store.set_lease_time(8 * REMEMBERED_MS)?;
        let [arrived, lost, earlier] = [1, 2, 3].map(|number| fixture.lease(number, 1_000));
        // An id that is forgotten when its hash gets its next turn, and a closed lease.
        let old = fixture.batch(1, &[&earlier]);
        assert_eq!(fixture.apply(&old)?, STORED);
        fixture.store.pass(2 * REMEMBERED_MS, Passing::Busy)?;
        let began = fixture.store.begin(1)?;
        fixture.store.lease(std::slice::from_ref(&arrived))?;
        let mut batch = fixture.batch(2, &[&arrived, &lost]);
        for leased in &mut batch.leased {
            leased.due_ms = leased.lease.begin(began).due_ms;
        }
        batch.frozen_ms = Some(began);
        fixture.store.forget_flush()?;

        let mut limited = without(&mut fixture, command)?;
        let before = fixture.store.dump()?;
        match limited.apply(&batch) {
            // Nothing happened: it is sent again, and stored when the right is given.
            Err(error) => {
                assert!(
                    format!("{error:#}").contains("can't run this command"),
                    "{error:#}"
                );
                assert_eq!(fixture.store.dump()?, before, "{command}");
                assert_eq!(fixture.apply(&batch)?, STORED);
            }
            // Failed writes are named, and the others are done.
            Ok(ApplyReply::Stored { refused, .. }) => {
                let named = format!(" {}: ", command.to_uppercase());
                let is_named = |text: &String| text.contains(&named) || command == "hincrby";
                assert!(!refused.is_empty(), "{command} is silent");
                assert!(refused.iter().all(is_named), "{command}: {refused:?}");
                assert_eq!(fixture.apply(&batch)?, ApplyReply::Duplicate);
            }
            Ok(other) => panic!("{command}: {other:?}"),
        }
        let checked = limited.check().map(|checked| checked.refused.join("; "));
        let checked = checked.unwrap_or_else(|error| format!("{error:#}"));
        let is_tried = checked.contains(&command.to_uppercase());
        assert!(is_tried || command == "time", "{command}: {checked}");

        // No lease counts beside its result, unless it is named that it may.
        fixture.store.take(&lost, began)?;
        fixture.store.pass(1_000_000, Passing::Busy)?;
        fixture.settle()?;
        let (open, succeeded, crashed) = fixture.counts()?;
        let expected = if command == "hincrby" { 1 } else { 3 };
        let beside = i128::from(command == "zadd");
        assert_eq!(
            (open, succeeded, crashed),
            (0, expected, beside),
            "{command}"
        );
    }
    Ok(())
}

#[test]
fn a_reader_without_a_right_settles_no_lease_or_names_what_failed() -> Result {
    let commands = [
        "hget",
        "hincrby",
        "hmget",
        "hset",
        "hsetnx",
        "time",
        "zadd",
        "zcard",
        "zrangebyscore",
        "zrem",
        "zremrangebyscore",
        "zscore",
    ];
    // Only after a pause is the clock saved before the leases are settled.
    for (command, passing) in commands
        .into_iter()
        .flat_map(|command| [Passing::Paused, Passing::Busy].map(|passing| (command, passing)))
    {
        let mut fixture = Fixture::start()?;
        // Its id is old enough to be deleted.
        let earlier = fixture.lease(3, 0);
        fixture.store.lease(&[earlier])?;
        fixture.store.pass(1_000, Passing::Busy)?;
        fixture.settle()?;
        fixture.store.pass(2 * REMEMBERED_MS, Passing::Busy)?;
        let leases = [1, 2].map(|number| fixture.lease(number, 0));
        fixture.store.lease(&leases)?;
        fixture.store.pass(1_000, passing)?;
        let mut limited = without(&mut fixture, command)?;
        let catalog = fixture.catalog.clone();
        let before = fixture.store.dump()?;
        let refused = match limited.settle(1, &metric_keys(&catalog)) {
            Ok(settled) => {
                assert_eq!(settled.leases, 2, "{command}");
                settled.refused_counts
            }
            // A reply that is lost may have named something.
            Err(_denied) => {
                assert_eq!(fixture.store.dump()?, before, "{command}");
                0
            }
        };
        // Three cells of each lease.
        assert_eq!(refused, if command == "hincrby" { 6 } else { 0 });
        fixture.settle()?;
        let crashed = if command == "hincrby" { 1 } else { 3 };
        assert_eq!(fixture.counts()?, (0, 0, crashed), "{command}");
        assert!(fixture.store.kept()?.closed.len() <= 2, "{command}");
    }
    Ok(())
}

#[test]
fn a_cell_that_takes_no_increment_is_named_and_loses_nothing_else() -> Result {
    let mut fixture = Fixture::start()?;
    let full = i64::MAX.to_string();
    for (field, value) in [("text", "x"), ("full", &full), ("s|sum", &full)] {
        fixture.store.call::<()>(&["HSET", "m:h", field, value])?;
    }
    // A sum that is to carry, and a carry that cannot take it.
    let most = ((1_i64 << 62) - 1).to_string();
    fixture.store.call::<()>(&["HSET", "m:h", "c|sum", &most])?;
    fixture
        .store
        .call::<()>(&["HSET", "m:h", "c|sum_carry", "x"])?;
    let mut batch = fixture.batch(1, &[]);
    for field in ["text", "full", "s|sum", "c|sum", "well"] {
        batch.increments.inc("m:h", field, 5);
    }
    let ApplyReply::Stored { refused, .. } = fixture.apply(&batch)? else {
        panic!("it is stored");
    };
    let named: Vec<_> = refused
        .iter()
        .filter_map(|text| text.split(':').nth(1))
        .collect();
    assert_eq!(
        named,
        ["h c|sum_carry", "h full +5", "h s|sum +5", "h text +5"]
    );
    let cell = |field: &str| fixture.server.call::<String>(&["HGET", "m:h", field]);
    assert_eq!(cell("well")?, "5");
    assert_eq!(cell("c|sum")?, ((1_i64 << 62) + 4).to_string());
    assert_eq!(cell("full")?, full);
    Ok(())
}

#[test]
fn a_member_that_is_no_lease_is_removed_and_named() -> Result {
    let members = [
        "text",
        "7",
        "null",
        "[]",
        "{}",
        "{\"id\":\"x\"}",
        "{\"id\":7,\"millis\":1,\"count\":[]}",
        "{\"id\":\"x\",\"millis\":1,\"count\":7}",
        "{\"id\":\"x\",\"millis\":1,\"count\":[7]}",
        "{\"id\":\"x\",\"millis\":1,\"count\":[\"k\"]}",
        "{\"id\":\"x\",\"millis\":1,\"count\":[[\"m:algorithm_counter\",7]]}",
        "{\"id\":\"x\",\"millis\":1,\"count\":[null]}",
        "{\"id\":\"x\",\"millis\":1,\"count\":{\"k\":[\"m:algorithm_counter\",\"f\"]}}",
    ];
    let mut fixture = Fixture::start()?;
    fixture.store.lease(&[fixture.lease(1, 0)])?;
    for member in members {
        fixture
            .store
            .call::<()>(&["ZADD", "m:leases", "1", member])?;
    }
    let batch = fixture.batch(1, &[]);
    assert_eq!(
        fixture.apply(&batch)?,
        STORED,
        "batches leave it to readers"
    );
    let mut settled = fixture.settle()?;
    assert_eq!(settled.leases, 1);
    let mut expected = members.map(|member| format!("m:leases {member}: not a lease"));
    settled.dropped.sort();
    expected.sort();
    assert_eq!(settled.dropped, expected);
    assert_eq!(fixture.counts()?, (0, 0, 1));
    assert_eq!(fixture.store.kept()?.closed.len(), 1);
    Ok(())
}

#[test]
fn an_invalid_clock_is_started_again() -> Result {
    let mut fixture = filled_store()?;
    for field in ["last_ms", "shift_ms"] {
        fixture.store.call::<()>(&["HSET", "m:state", field, "x"])?;
    }
    assert_eq!(fixture.settle()?.leases, 2);
    assert!(fixture.store.kept()?.lease_time().is_some());
    Ok(())
}

#[test]
fn ids_and_labels_of_any_text_are_kept_as_they_are() -> Result {
    let mut fixture = Fixture::start()?;
    let id = "ab\0\"\\/é\u{1f980}\u{7f}\n\u{2028}";
    let mut lease = fixture.lease(1, 0);
    lease.id = id.to_owned();
    let field = format!("x=\"{id}\"");
    lease.count[1].1.clone_from(&field);
    fixture.store.lease(std::slice::from_ref(&lease))?;
    assert_eq!(fixture.settle()?.leases, 1);
    fixture.store.lease(std::slice::from_ref(&lease))?;
    assert_eq!(fixture.settle()?.leases, 0);
    let batch = fixture.batch(1, &[&lease]);
    assert_eq!(
        fixture.apply(&batch)?,
        ApplyReply::Late(vec![id.to_owned()])
    );
    let cells = fixture.server.cells(&lease.count[1].0)?;
    assert_eq!(cells.get(&field), Some(&1));
    Ok(())
}
