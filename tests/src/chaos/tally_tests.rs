use std::time::Duration;

use crate::chaos::risk::Span;

use super::*;

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn stretch(from: u64, to: u64) -> Span {
    Span {
        from: at(from),
        to: at(to),
    }
}

fn answered(sent: u64, instance: u64) -> Entry {
    Entry {
        mood: Mood::Deadly,
        kind: Kind::Nothing,
        sent: at(sent),
        ended: at(sent + 5),
        outcome: Outcome::Answer {
            code: 200,
            instance,
        },
    }
}

fn unanswered(kind: Kind, sent: u64, ended: u64) -> Entry {
    Entry {
        mood: Mood::Deadly,
        kind,
        sent: at(sent),
        ended: at(ended),
        outcome: Outcome::HostError,
    }
}

fn of_successes(entries: &[Entry], events: &Events, durability: Durability) -> Answers {
    tally(entries, events, durability).of(Mood::Deadly, Kind::Nothing)
}

#[test]
fn an_answer_is_at_risk_shortly_before_a_death_of_an_instance_not_heard_of_again() {
    let trap = unanswered(Kind::Trap, 1_000, 1_003);
    for (entries, at_risk) in [
        (vec![answered(980, 1), trap], 1),
        (vec![answered(400, 1), trap], 0),
        (vec![answered(980, 1), trap, answered(1_010, 2)], 1),
        (vec![answered(980, 1), trap, answered(1_010, 1)], 0),
        // Sent before the death: its answer proves nothing.
        (vec![answered(980, 1), trap, answered(1_001, 1)], 2),
    ] {
        let events = Events::default();
        let answers = of_successes(&entries, &events, Durability::Exact);
        assert_eq!(answers.retractable, at_risk, "{entries:?}");
        assert_eq!(answers.losable, 0, "it had a lease");
        let strict = of_successes(&entries, &events, Durability::Strict);
        assert_eq!(strict.retractable, 0, "its count was stored before");
        let relaxed = of_successes(&entries, &events, Durability::Relaxed);
        assert_eq!(relaxed.losable, at_risk);
    }
}

#[test]
fn an_instance_that_answered_all_it_takes_died_of_no_request() {
    let of_one: Vec<_> = (0..128)
        .map(|number| answered(960 + number / 4, 1))
        .collect();
    let trap = unanswered(Kind::Trap, 1_000, 1_003);
    let mut events = Events::default();
    let at_risk = |entries: &[Entry], events: &Events| {
        let all = [entries, &[trap]].concat();
        of_successes(&all, events, Durability::Exact).retractable
    };
    assert_eq!(at_risk(&of_one, &events), 0);
    assert_eq!(at_risk(&of_one[1..], &events), 127);
    events.kills = vec![stretch(1_000, 1_500)];
    assert_eq!(
        at_risk(&of_one, &events),
        128,
        "but it may have died with the runtime"
    );
}

#[test]
fn while_something_is_slow_an_answer_waits_for_longer_and_may_have_no_lease() {
    let trap = unanswered(Kind::Trap, 1_000, 1_003);
    let mut events = Events::default();
    let entries = [answered(700, 1), trap];
    let mut found = |slow: &[u64]| {
        events.slow = slow.iter().copied().map(at).collect();
        let answers = of_successes(&entries, &events, Durability::Exact);
        (answers.retractable, answers.losable)
    };
    assert_eq!(found(&[]), (0, 0));
    assert_eq!(found(&[5_000, 600]), (1, 1));
    assert_eq!(found(&[100, 1_300]), (0, 0));
    let mut strict = |slow: &[u64], cuts: &[u64]| {
        events.slow = slow.iter().copied().map(at).collect();
        events.cuts = cuts.iter().copied().map(at).collect();
        of_successes(&entries, &events, Durability::Strict).retractable
    };
    // It waited for its count all the same; but not after an error.
    assert_eq!((strict(&[600], &[]), strict(&[], &[600])), (0, 1));
}

#[test]
fn a_loop_holds_its_instance_for_all_its_time() {
    let entries = [answered(980, 1), unanswered(Kind::Loop, 1_000, 1_600)];
    let answers = of_successes(&entries, &Events::default(), Durability::Exact);
    assert_eq!(answers.retractable, 1);
}

#[test]
fn in_a_trouble_of_redis_more_is_at_risk_and_may_be_lost() {
    let events = Events {
        troubles: vec![stretch(500, 1_000)],
        ..Events::default()
    };
    for (sent, died, at_risk) in [
        (600, 2_100, 1),
        (1_000, 2_100, 1),
        (2_100, 2_200, 1),
        (300, 2_100, 0),
        // Redis was back for long.
        (1_000, 3_000, 0),
    ] {
        let trap = unanswered(Kind::Trap, died, died + 3);
        for durability in [Durability::Exact, Durability::Strict, Durability::Relaxed] {
            let answers = of_successes(&[answered(sent, 1), trap], &events, durability);
            assert_eq!((answers.retractable, answers.losable), (at_risk, at_risk));
        }
    }
}

#[test]
fn what_redis_forgot_may_be_lost_in_every_mode() {
    let events = Events {
        forgotten: vec![stretch(1_000, 2_000)],
        ..Events::default()
    };
    for (sent, losable) in [(850, 0), (950, 1), (1_500, 1), (2_200, 0)] {
        let answers = of_successes(&[answered(sent, 1)], &events, Durability::Strict);
        assert_eq!(answers.losable, losable, "{sent}");
    }
}

#[test]
fn fatal_requests_that_overlap_crashed_once_at_the_least() {
    let entries = [
        unanswered(Kind::Trap, 1_000, 1_005),
        unanswered(Kind::Loop, 2_000, 2_500),
        unanswered(Kind::Trap, 2_100, 2_105),
        unanswered(Kind::Trap, 2_400, 2_600),
        unanswered(Kind::Trap, 5_000, 5_005),
    ];
    let mut events = Events::default();
    let tallied = tally(&entries, &events, Durability::Exact);
    assert_eq!((tallied.fatal, tallied.surely_crashed), (5, 3));
    events.troubles = vec![stretch(4_900, 4_950)];
    assert_eq!(
        tally(&entries, &events, Durability::Exact).surely_crashed,
        2
    );
    assert_eq!(
        tally(&entries, &events, Durability::Relaxed).surely_crashed,
        0
    );
}

#[test]
fn a_missing_answer_that_no_death_explains_is_told() {
    let mut entries = vec![
        unanswered(Kind::Trap, 1_000, 1_005),
        unanswered(Kind::Nothing, 999, 1_006),
        unanswered(Kind::Nothing, 3_000, 3_005),
    ];
    let mut refused = unanswered(Kind::Nothing, 9_000, 9_001);
    refused.outcome = Outcome::Refused;
    entries.push(refused);
    let mut events = Events::default();
    let tallied = tally(&entries, &events, Durability::Exact);
    assert_eq!(tallied.unexplained.1, 2);
    assert_eq!(tallied.of(Mood::Deadly, Kind::Nothing).unsure, 2);
    assert_eq!(tallied.sent(), 3, "nothing was sent where nobody listens");
    events.kills = vec![stretch(2_990, 9_000)];
    assert_eq!(tally(&entries, &events, Durability::Exact).unexplained.1, 0);
}
