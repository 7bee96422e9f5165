//! A budget ends what would not end.

use functional_scaffold_guard::{Budget, Options};

use crate::guest::{End, Guest};

/// Loops in several ways.
const LOOPS: &str = r#"
    (module
      (memory (export "memory") 1)
      (data $bytes "0123456789")
      (func $callee (param i32) (result i32)
        (local $i i32)
        (loop $again
          (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
            (local.get 0))))
        (local.get $i))
      (func (export "run") (param $how i32) (param $times i32) (result i32)
        (local $i i32)
        (block $calls
          (block $bulk
            (block $nested
              (block $plain
                (br_table $plain $nested $bulk $calls (local.get $how)))
              (loop $again
                (i32.store (i32.const 64) (local.get $i))
                (br_if $again (i32.ne (local.get $times)
                  (local.tee $i (i32.add (local.get $i) (i32.const 1))))))
              (return (local.get $i)))
            (loop $outer
              (local.set $i (i32.const 0))
              (loop $inner
                (br_if $inner (i32.lt_u
                  (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 10))))
              (br $outer)))
          (loop $again
            (memory.fill (i32.const 0) (i32.const 7) (i32.const 65536))
            (memory.copy (i32.const 0) (i32.const 8) (i32.const 65528))
            (memory.init $bytes (i32.const 0) (i32.const 0) (i32.const 10))
            (br_if $again (i32.ne (local.get $times)
              (local.tee $i (i32.add (local.get $i) (i32.const 1))))))
          (return (local.get $i)))
        (loop $again
          (drop (call $callee (i32.const 100)))
          (br_if $again (i32.ne (local.get $times)
            (local.tee $i (i32.add (local.get $i) (i32.const 1))))))
        (local.get $i))
      (func (export "post") (param i32)
        (drop (call $callee (i32.const 1000000)))))
"#;

const PLAIN: i32 = 0;
const NESTED: i32 = 1;
const BULK: i32 = 2;
const CALLS: i32 = 3;
const FOREVER: i32 = -1;

fn guest(instructions: u64) -> Guest {
    let options = Options {
        budget: Budget::Instructions(instructions),
        ..Options::default()
    };
    Guest::guarded(LOOPS, &options)
}

#[test]
fn a_budget_ends_endless_loops() {
    let mut guest = guest(1_000_000);
    for how in [PLAIN, NESTED, BULK, CALLS] {
        assert_eq!(guest.call(how, FOREVER), End::ExceedsLimit, "{how}");
    }
}

#[test]
fn each_call_has_the_whole_budget() {
    let mut guest = guest(100_000);
    for _ in 0..20 {
        // Takes more than half of it.
        assert_eq!(guest.call(PLAIN, 4_000), End::Returns(4_000));
        assert_eq!(guest.call(PLAIN, FOREVER), End::ExceedsLimit);
    }
}

#[test]
fn a_call_ends_at_the_same_place_every_time() {
    for how in [PLAIN, BULK, CALLS] {
        let fits = |times| guest(100_000).call(how, times) == End::Returns(times);
        let (mut most, mut too_many) = (1, 100_000);
        while too_many - most > 1 {
            let times = most + (too_many - most) / 2;
            match fits(times) {
                true => most = times,
                false => too_many = times,
            }
        }
        let mut guest = guest(100_000);
        for _ in 0..3 {
            assert_eq!(guest.call(how, most), End::Returns(most), "{how}");
            assert_eq!(guest.call(how, too_many), End::ExceedsLimit, "{how}");
        }
    }
}

/// 128 KiB an iteration cost thousands of instructions.
#[test]
fn bulk_operations_are_charged_by_their_length() {
    assert_eq!(guest(100_000).call(BULK, 5), End::Returns(5));
    assert_eq!(guest(100_000).call(BULK, 50), End::ExceedsLimit);
}

/// Nothing would catch the exception there.
#[test]
fn the_budget_does_not_apply_outside_run() {
    let mut guest = guest(1_000);
    for _ in 0..3 {
        assert_eq!(guest.call(PLAIN, 1), End::Returns(1));
    }
}

#[test]
fn an_algorithm_brings_its_own_budget() {
    let own = LOOPS.replacen(
        "(module",
        r#"(module (@custom "functional-scaffold-budget" "\e8\03\00\00\00\00\00\00")"#,
        1,
    );
    let mut guest = Guest::guarded(&own, &Options::default());
    assert_eq!(guest.call(PLAIN, 10), End::Returns(10));
    assert_eq!(guest.call(PLAIN, 1_000), End::ExceedsLimit);
    let options = Options {
        budget: Budget::Instructions(100_000),
        ..Options::default()
    };
    assert_eq!(
        Guest::guarded(&own, &options).call(PLAIN, 1_000),
        End::Returns(1_000)
    );
}

/// Runs this body as `run`, and returns how it ends.
fn ends(functions: &str, body: &str) -> End {
    let module = format!(
        r#"
        (module
          (memory (export "memory") 1 10)
          {functions}
          (func (export "run") (param i32 i32) (result i32) {body} (i32.const 5))
          (func (export "post") (param i32)))
        "#
    );
    let options = Options {
        budget: Budget::Instructions(1_000_000),
        ..Options::default()
    };
    Guest::guarded(&module, &options).call(0, 0)
}

/// Each function calls the next one twice: 2^40 calls.
#[test]
fn a_budget_ends_work_without_loops_and_recursion() {
    for at_start in ["nop", "(loop)"] {
        let mut functions = String::from("(func $f0)");
        for function in 1..=40 {
            let next = function - 1;
            let call = format!("(call $f{next})");
            functions += &format!("(func $f{function} {at_start} {call} {call})");
        }
        let end = ends(&functions, "(call $f40)");
        assert_eq!(end, End::ExceedsLimit, "{at_start}");
        assert_eq!(ends(&functions, "(call $f10)"), End::Returns(5));
    }
}

/// The host is asked each time.
#[test]
fn growing_memory_costs_a_call_of_the_host() {
    let grow = |times: i32| {
        let body = format!(
            "(loop $again
              (drop (memory.grow (i32.const 1)))
              (local.set 0 (i32.add (local.get 0) (i32.const 1)))
              (br_if $again (i32.ne (local.get 0) (i32.const {times}))))"
        );
        ends("", &body)
    };
    assert_eq!(grow(50), End::Returns(5));
    assert_eq!(grow(200), End::ExceedsLimit);
}
