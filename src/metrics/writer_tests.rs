//! Tests of the writer.

use functional_scaffold_protocol::{
    catalog::{ExecutionStatus, RequestLabels},
    family::Kind,
};

use super::*;

fn writer() -> Writer {
    Writer::new(Catalog::new("m:"), "a".into(), 7, 100)
}

const REQUEST: FinishedRequest<'static> = FinishedRequest {
    labels: RequestLabels::new("POST", "/invoke", 200),
    duration_nanos: 1,
};

const EXECUTED: Executed = Executed {
    status: ExecutionStatus::Success,
    nanos: 1,
};

fn record(writer: &mut Writer) -> Ticket {
    writer.record(&REQUEST, None)
}

fn record_leased(writer: &mut Writer) -> String {
    let lease = writer.lease("/invoke", 1000);
    let id = lease.id.clone();
    let _ticket = writer.record(&REQUEST, Some((EXECUTED, Some(lease))));
    id
}

/// What goes to Redis: id, total and leases.
fn as_sent(writer: &mut Writer) -> Option<(BatchId, Batch, Vec<EncodedLease>)> {
    let frozen = writer.freeze()?;
    let leases = frozen.leases().cloned().collect();
    Some((frozen.id.clone(), frozen.total.clone(), leases))
}

fn count(total: &Batch) -> u64 {
    sum(total, "m:request_counter")
}

fn sum(total: &Batch, key: &str) -> u64 {
    let cells = total.cells().filter(|(found, _, _)| found.starts_with(key));
    cells.map(|(_, _, by)| by).sum()
}

#[test]
fn a_sent_batch_is_frozen_until_it_is_answered() {
    let mut writer = writer();
    assert_eq!(as_sent(&mut writer), None);
    let ticket = record(&mut writer);
    record_leased(&mut writer);
    let first = as_sent(&mut writer);
    let later = record(&mut writer);
    assert_eq!(as_sent(&mut writer), first, "a retry sends the same");
    assert!(!writer.is_answered(ticket));
    writer.acknowledge(false);
    assert!(writer.is_answered(ticket));
    assert!(!writer.is_answered(later), "it goes with the next batch");
    let (first, second) = (first, as_sent(&mut writer));
    let (first, first_total, leases) = first.expect("two requests wait");
    let (second, second_total, _) = second.expect("the other request waits");
    assert_eq!((first.sequence, second.sequence), (1, 2));
    assert_eq!((count(&first_total), count(&second_total)), (2, 1));
    assert_eq!(leases.len(), 1);
}

#[test]
fn a_late_result_is_taken_out_and_counted_as_late() {
    let mut writer = writer();
    let late = record_leased(&mut writer);
    record_leased(&mut writer);
    let (id, total, _) = as_sent(&mut writer).expect("two requests wait");
    assert_eq!(count(&total), 2);
    writer.remove_late(&[late]);
    let (same_id, total, leases) = as_sent(&mut writer).expect("one request is left");
    assert_eq!(same_id, id);
    assert_eq!((count(&total), sum(&total, "m:late_counter")), (1, 1));
    assert_eq!(leases.len(), 1);
}

#[test]
fn a_lease_says_what_a_crash_counts() {
    let mut writer = writer();
    let lease = writer.lease("/invoke", 30_000);
    assert_ne!(lease.id, writer.lease("/invoke", 30_000).id);
    let lease = Lease::decode(&lease.member).expect("it is a lease");
    assert_eq!(lease.millis, 35_000);
    let keys: Vec<_> = lease.count.iter().map(|(key, _)| key.as_str()).collect();
    let crash_keys = [
        "m:request_counter",
        "m:algorithm_counter",
        "m:settled_counter",
    ];
    assert_eq!(keys, crash_keys);
    assert!(lease.count[0].1.contains("code=\"500\""));
    assert!(lease.count[1].1.contains("status=\"crashed\""));
    let other = writer.lease("/invoke/{algorithm}", 30_000);
    assert!(other.member.contains("/invoke/{algorithm}"));
}

#[test]
fn redis_is_waited_for_again_when_it_has_answered() {
    let mut writer = writer();
    let waits = |writer: &Writer| (writer.waits_for_leases(), writer.waits_for_batches());
    assert_eq!(waits(&writer), (true, true));
    writer.give_up_leases("hung".to_owned());
    assert_eq!(waits(&writer), (false, true));
    record(&mut writer);
    assert!(writer.record_failure("full"), "that is new");
    assert!(!writer.record_failure("full"), "that is known");
    assert_eq!(waits(&writer), (false, false));
    assert!(writer.freeze().is_some());
    writer.acknowledge(true);
    assert_eq!(waits(&writer), (true, true));
    let next = writer.freeze().expect("the duplicate is counted");
    assert_eq!(sum(&next.total, "m:flush_counter"), 1);
}

#[test]
fn a_key_that_goes_on_refusing_is_no_news() {
    let mut writer = writer();
    let refused = |key: &str| [format!("{key} outcome=\"x\" +1: WRONGTYPE")];
    assert!(writer.note_refused(&refused("m:a")));
    assert!(!writer.note_refused(&refused("m:a")));
    assert!(writer.note_refused(&refused("m:b")));
}

#[test]
fn giving_up_hands_over_everything_and_takes_a_new_name() {
    let mut writer = writer();
    record(&mut writer);
    record_leased(&mut writer);
    let (id, total, leases) = as_sent(&mut writer).expect("two requests wait");
    record(&mut writer);
    record_leased(&mut writer);
    let given_up = writer.give_up([8, 9], 200);
    assert_eq!(given_up.len(), 2);
    assert_eq!((&given_up[0].id, given_up[0].total()), (&id, total));
    assert_eq!(EncodedLease::from(&given_up[0].leased[0].lease), leases[0]);
    assert_eq!(count(&given_up[0].leased[0].increments), 1);
    let waiting = given_up[1].total();
    assert_eq!(count(&waiting), 2);
    assert_eq!(sum(&waiting, "m:flush_counter"), 2, "both are logged");
    let names: Vec<_> = given_up.iter().map(|batch| batch.id.nonce).collect();
    assert_eq!(names, [7, 8], "neither makes the other look applied");
    assert!(writer.begin_flushing());
    assert!(writer.end_flushing(), "nothing is left to linger for");
    record(&mut writer);
    let next = writer.freeze().expect("one request waits");
    assert_eq!(
        (next.id.nonce, next.id.started_at, next.id.sequence),
        (9, 200, 1)
    );
}

#[test]
fn one_flush_at_a_time_and_none_left_behind() {
    let mut writer = writer();
    record(&mut writer);
    assert!(writer.begin_flushing());
    assert!(!writer.begin_flushing());
    assert!(!writer.end_flushing(), "a request still waits");
    assert!(writer.freeze().is_some());
    assert!(!writer.end_flushing(), "a batch is not answered");
    writer.acknowledge(false);
    assert!(writer.end_flushing());
    assert!(writer.begin_flushing());
}

#[test]
fn another_components_layout_is_left_alone() {
    let mut writer = writer();
    record(&mut writer);
    let registered = Catalog::new("m:");
    let mut standing = registered.families().map(Family::clone);
    standing[0].key = "m:elsewhere".into();
    standing[1].bounds = vec![1.0];
    standing[2].kind = Kind::Gauge;
    let standing = standing.each_ref().map(Family::encode);
    let own = writer.adopt(&registered, &standing);
    // Also where it registers again, to see whether Redis takes writes.
    assert_eq!(writer.adopt(&registered, &standing), own);
    let fields: Vec<_> = own.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(fields.len(), 2);
    assert!(fields[0].starts_with("http_request_duration_seconds@"));
    assert!(fields[1].starts_with("algorithm_executions_total@"));
    let batch = writer.freeze().expect("one request waits");
    let keys: Vec<_> = batch.total.hashes().map(|(key, _)| key).collect();
    assert_eq!(keys, ["m:elsewhere", own[0].1.key.as_str()]);
}

#[test]
fn a_corrupt_registration_is_left_alone() {
    let mut writer = writer();
    let own = writer.adopt(&Catalog::new("m:"), &["{".to_owned()]);
    assert_eq!(own.len(), 1);
}
