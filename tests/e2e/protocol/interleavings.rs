//! The property: in any order of events, model and store agree after each event, and
//! every execution that Redis knows has exactly one end or is in flight.

use std::cell::Cell;

use functional_scaffold_protocol::{batch::MAX_INCREMENT, catalog::ExecutionStatus};
use functional_scaffold_testkit::redis::RedisServer;
use proptest::{
    prelude::*,
    test_runner::{Config, TestError, TestRunner},
};

use super::{
    store::Store,
    world::{BatchDelivery, INSTANCES, LeaseDelivery, Step, World},
};
use crate::Result;

/// One lease a step: below the hundred that one call settles.
const STEPS: std::ops::Range<usize> = 10..50;

#[test]
fn every_execution_has_one_end_in_any_order_of_events() -> Result {
    let server = RedisServer::start()?;
    server.call::<()>(&["CONFIG", "SET", "appendonly", "no"])?;
    let cases = Cell::new(0_u64);
    let run = |steps: Vec<Step>| -> Result {
        cases.set(cases.get() + 1);
        let mut store = Store::open(&server, &format!("m{}:", cases.get()))?;
        store.call::<()>(&["FLUSHALL"])?;
        let mut world = World::new(store)?;
        steps.into_iter().try_for_each(|step| world.step(step))
    };
    // The number of cases is PROPTEST_CASES, 256 if it is not set.
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..Config::default()
    });
    let outcome = runner.run(&prop::collection::vec(step(), STEPS), |steps| {
        run(steps).map_err(|error| TestCaseError::fail(format!("{error:#}")))
    });
    match outcome {
        Ok(()) => Ok(()),
        Err(TestError::Fail(reason, steps)) => anyhow::bail!("{reason}\nafter {steps:#?}"),
        Err(TestError::Abort(reason)) => anyhow::bail!("{reason}"),
    }
}

fn step() -> impl Strategy<Value = Step> {
    let instance = 0..INSTANCES;
    let index = 0..64_usize;
    prop_oneof![
        12 => (instance.clone(), delivery(), 0..4_u64)
            .prop_map(|(instance, lease, grid_lines)| Step::Begin { instance, lease, grid_lines }),
        1 => instance.clone().prop_map(|instance| Step::BeginUnleased { instance }),
        8 => (index.clone(), status(), nanos())
            .prop_map(|(index, status, nanos)| Step::Finish { index, status, nanos }),
        8 => (instance.clone(), fate()).prop_map(|(instance, fate)| Step::Flush { instance, fate }),
        3 => index.clone().prop_map(|index| Step::LeaseArrives { index }),
        3 => index.clone().prop_map(|index| Step::BatchArrives { index }),
        2 => instance.clone().prop_map(|instance| Step::GiveUp { instance }),
        5 => index.prop_map(|index| Step::Replay { index }),
        1 => instance.clone().prop_map(|instance| Step::Crash { instance }),
        4 => any::<bool>().prop_map(|knows_all_keys| Step::Settle { knows_all_keys }),
        2 => (1..8_i64).prop_map(|grid_lines| Step::Pass { grid_lines }),
        2 => (0..3_i64).prop_map(|grid_lines| Step::Pause { grid_lines }),
        1 => (instance, 1..8_i64)
            .prop_map(|(instance, grid_lines)| Step::Suspend { instance, grid_lines }),
        1 => (1..8_i64).prop_map(|grid_lines| Step::ClockAhead { grid_lines }),
        1 => (1..8_i64).prop_map(|grid_lines| Step::ClockBack { grid_lines }),
    ]
}

fn delivery() -> impl Strategy<Value = LeaseDelivery> {
    prop_oneof![
        4 => Just(LeaseDelivery::Acknowledged),
        1 => Just(LeaseDelivery::Lost),
        3 => Just(LeaseDelivery::Delayed),
    ]
}

fn fate() -> impl Strategy<Value = BatchDelivery> {
    prop_oneof![
        4 => Just(BatchDelivery::Answered),
        2 => Just(BatchDelivery::ReplyLost),
        1 => Just(BatchDelivery::Lost),
        3 => Just(BatchDelivery::Delayed),
    ]
}

fn status() -> impl Strategy<Value = ExecutionStatus> {
    prop_oneof![
        Just(ExecutionStatus::Success),
        Just(ExecutionStatus::InvalidInput),
        Just(ExecutionStatus::Failed),
    ]
}

/// Durations, some of which fill a sum at once.
fn nanos() -> impl Strategy<Value = u64> {
    prop_oneof![1..1_000_000_u64, Just(MAX_INCREMENT)]
}
