//! A budget ends what would not end.

use functional_scaffold_guard::{Budget, Options};

use crate::guest::{End, Guest};

/// Loops in several ways, and counts the iterations in memory.
const LOOPS: &str = r#"
    (module
      (memory (export "memory") 1)
      (func (export "run") (param $how i32) (param $times i32) (result i32)
        (local $i i32)
        (block $nested
          (block $plain
            (br_table $plain $nested (local.get $how)))
          (loop $again
            (i32.store (i32.const 64) (i32.add (i32.load (i32.const 64)) (i32.const 1)))
            (br_if $again (i32.ne (local.get $times)
              (local.tee $i (i32.add (local.get $i) (i32.const 1))))))
          (return (local.get $i)))
        (loop $outer
          (local.set $i (i32.const 0))
          (loop $inner
            (br_if $inner (i32.lt_u (i32.const 10)
              (local.tee $i (i32.add (local.get $i) (i32.const 1))))))
          (br $outer))
        (unreachable))
      (func (export "post") (param i32)))
"#;

fn options(instructions: u64) -> Options {
    let budget = Budget::Instructions(instructions);
    Options {
        budget,
        ..Options::default()
    }
}

#[test]
fn a_budget_ends_loops_and_each_call_has_it_anew() {
    let mut guest = Guest::guarded(LOOPS, &options(100_000));
    for _ in 0..3 {
        assert_eq!(guest.call(0, -1), End::ExceedsLimit);
        assert_eq!(guest.call(1, 0), End::ExceedsLimit);
        assert_eq!(guest.call(0, 1000), End::Returns(1000));
    }
}
