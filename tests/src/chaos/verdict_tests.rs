use super::*;
const SUCCESSES: i64 = 100;
const REFUSALS: i64 = 20;
const FAILURES: i64 = 10;

/// 130 answers, of which 7, 2 and 1 are at risk; 5, 1 and 1 unsure; 6 sent to
/// crash, of which 4 surely did.
fn tally(losable: i64) -> Tally {
    let answers = |answered, retractable, unsure| Answers {
        answered,
        retractable,
        losable: losable.min(retractable),
        unsure,
    };
    Tally {
        ending: [
            ((Mood::Deadly, Kind::Nothing), answers(SUCCESSES, 7, 5)),
            ((Mood::Deadly, Kind::Hum), answers(REFUSALS, 2, 1)),
            ((Mood::Deadly, Kind::Fail), answers(FAILURES, 1, 1)),
        ]
        .into(),
        fatal: 6,
        surely_crashed: 4,
        ..Tally::default()
    }
}

fn stored(success: i64, invalid: i64, failed: i64, crashed: i64) -> Stored {
    let executions = [
        (ExecutionStatus::Success, success),
        (ExecutionStatus::InvalidInput, invalid),
        (ExecutionStatus::Failed, failed),
        (ExecutionStatus::Crashed, crashed),
    ];
    let requests = [(200, success), (422, invalid), (500, failed + crashed)];
    Stored {
        executions: executions
            .map(|(status, count)| (execution_labels(status), count))
            .into(),
        requests: requests
            .map(|(code, count)| (request_labels(Mood::Deadly, code), count))
            .into(),
        timed_executions: success + invalid + failed,
        timed_requests: success + invalid + failed,
        settled: crashed,
        ..Stored::default()
    }
}

fn counts(counted: [i64; 4], durability: Durability) -> Vec<String> {
    let [success, invalid, failed, crashed] = counted;
    let stored = stored(success, invalid, failed, crashed);
    assert_eq!(judge_stored(&stored), Vec::<String>::new());
    judge_counts(&tally(0), &stored, durability)
}

#[test]
fn counts_within_the_promise_are_right() {
    for counted in [
        [SUCCESSES, REFUSALS, FAILURES, 4],
        // Those at risk crashed.
        [SUCCESSES - 7, REFUSALS - 2, FAILURES - 1, 14],
        // The unsure had ended before their instance died.
        [SUCCESSES + 5, REFUSALS + 1, FAILURES + 1, 6],
        // All that was sent began, and died where it could.
        [SUCCESSES - 7, REFUSALS - 2, FAILURES - 1, 6 + 7 + 10],
    ] {
        assert_eq!(
            counts(counted, Durability::Exact),
            Vec::<String>::new(),
            "{counted:?}"
        );
    }
}

#[test]
fn a_count_that_is_lost_or_doubled_is_told_by_name() {
    for (counted, name, words) in [
        (
            [SUCCESSES - 8, REFUSALS, FAILURES, 12],
            "status=\"success\": ",
            "1 fewer",
        ),
        (
            [SUCCESSES + 6, REFUSALS, FAILURES, 4],
            "status=\"success\": ",
            "1 more",
        ),
        (
            [SUCCESSES, REFUSALS - 3, FAILURES, 7],
            "status=\"invalid_input\": ",
            "1 fewer",
        ),
        (
            [SUCCESSES, REFUSALS + 2, FAILURES, 4],
            "status=\"invalid_input\": ",
            "1 more",
        ),
        (
            [SUCCESSES, REFUSALS, FAILURES - 2, 6],
            "status=\"failed\": ",
            "1 fewer",
        ),
        (
            [SUCCESSES, REFUSALS, FAILURES + 2, 4],
            "status=\"failed\": ",
            "1 more",
        ),
        (
            [SUCCESSES, REFUSALS, FAILURES, 3],
            "status=\"crashed\": ",
            "1 fewer",
        ),
        (
            [SUCCESSES, REFUSALS, FAILURES, 24],
            "status=\"crashed\": ",
            "1 more",
        ),
    ] {
        let wrong = counts(counted, Durability::Exact);
        let told = wrong
            .iter()
            .find(|text| text.starts_with("algorithm=") && text.contains(name));
        assert!(
            told.is_some_and(|text| text.contains(words)),
            "{counted:?}: {wrong:?}"
        );
    }
}

#[test]
fn an_execution_that_is_counted_as_nothing_at_all_is_told() {
    // Each status alone is within its bounds: the one at risk is just gone.
    let wrong = counts([SUCCESSES - 1, REFUSALS, FAILURES, 4], Durability::Exact);
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert!(
        wrong[0].starts_with("all executions: 133 counted, 1 fewer"),
        "{wrong:?}"
    );
    let stored = stored(SUCCESSES - 1, REFUSALS, FAILURES, 4);
    assert!(judge_counts(&tally(1), &stored, Durability::Exact).is_empty());
}

#[test]
fn in_calm_times_a_lost_or_doubled_count_is_not_hidden_by_what_deaths_took() {
    let mut tally = tally(7);
    for (kind, answered) in [(Kind::Nothing, 50), (Kind::Hum, 50), (Kind::Fail, 50)] {
        let answers = Answers {
            answered,
            ..Answers::default()
        };
        tally.ending.insert((Mood::Calm, kind), answers);
    }
    // Of the other route, all that may be lost is.
    let mut right = stored(SUCCESSES - 7 + 50, REFUSALS - 2 + 50, FAILURES - 1 + 50, 4);
    for (code, of_both) in [
        (200, SUCCESSES - 7),
        (422, REFUSALS - 2),
        (500, FAILURES + 3),
    ] {
        right
            .requests
            .insert(request_labels(Mood::Deadly, code), of_both);
        right.requests.insert(request_labels(Mood::Calm, code), 50);
    }
    assert_eq!(judge_stored(&right), Vec::<String>::new());
    let judged = |stored: &Stored| judge_counts(&tally, stored, Durability::Exact);
    assert_eq!(judged(&right), Vec::<String>::new());
    for code in [200, 422, 500] {
        for (by, words) in [(1, "1 more"), (-1, "1 fewer")] {
            let mut wrong = right.clone();
            let labels = request_labels(Mood::Calm, code);
            *wrong.requests.entry(labels.clone()).or_default() += by;
            let told = judged(&wrong);
            let is_it = |text: &String| text.starts_with(&labels) && text.contains(words);
            assert!(told.iter().any(is_it), "{told:?}");
        }
    }
}

#[test]
fn more_than_was_sent_is_told() {
    // Each status alone is within its bounds again.
    let wrong = counts(
        [SUCCESSES + 5, REFUSALS + 1, FAILURES, 8],
        Durability::Exact,
    );
    assert_eq!(
        wrong,
        ["all executions: 144 counted, 1 more than the 143 that there can be"]
    );
}

#[test]
fn in_relaxed_mode_nothing_crashes() {
    let mut tally = tally(7);
    tally.surely_crashed = 0;
    let lost = stored(SUCCESSES - 7, REFUSALS - 2, FAILURES - 1, 0);
    assert!(judge_counts(&tally, &lost, Durability::Relaxed).is_empty());
    let crashed = stored(SUCCESSES, REFUSALS, FAILURES, 1);
    let wrong = judge_counts(&tally, &crashed, Durability::Relaxed);
    let crash = "algorithm=\"rogue\",status=\"crashed\": 1 counted, 1 more than the 0";
    assert!(
        wrong.iter().any(|text| text.starts_with(crash)),
        "{wrong:?}"
    );
}

#[test]
fn a_late_result_is_counted_as_crashed_instead() {
    let mut late = stored(SUCCESSES - 9, REFUSALS, FAILURES, 13);
    assert!(!judge_counts(&tally(0), &late, Durability::Exact).is_empty());
    late.late = 2;
    assert!(judge_counts(&tally(0), &late, Durability::Exact).is_empty());
}

#[test]
fn counts_that_belong_together_and_differ_are_told() {
    type Change = fn(&mut Stored);
    let right = stored(SUCCESSES, REFUSALS, FAILURES, 4);
    let changes: [(Change, &str); 7] = [
        (|stored| stored.settled += 1, "leases that ran out"),
        (|stored| stored.timed_executions -= 1, "execution durations"),
        (|stored| stored.timed_requests += 1, "request durations"),
        (|stored| stored.open_leases = 1, "open leases"),
        (
            |stored| {
                *stored
                    .requests
                    .entry(request_labels(Mood::Calm, 200))
                    .or_default() += 1
            },
            "requests 200",
        ),
        (
            |stored| {
                *stored
                    .requests
                    .entry(request_labels(Mood::Calm, 404))
                    .or_default() += 1
            },
            "all requests",
        ),
        (
            |stored| *stored.executions.entry("x".into()).or_default() += 1,
            "all executions",
        ),
    ];
    for (change, name) in changes {
        let mut stored = right.clone();
        change(&mut stored);
        let wrong = judge_stored(&stored);
        assert!(wrong.len() == 1 && wrong[0].starts_with(name), "{wrong:?}");
    }
}
