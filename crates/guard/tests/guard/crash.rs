//! What traps on purpose is an error of the call, and leaves nothing behind.

use functional_scaffold_guard::Options;

use crate::guest::{End, Guest};

/// Counts its calls in memory, a global and new memory, and crashes on request.
const COUNTER: &str = r#"
    (module
      (memory (export "memory") 1)
      (global $calls (mut i32) (i32.const 7))
      (data (i32.const 64) "\01\02\03\04")
      (func (export "run") (param $crash i32) (param i32) (result i32)
        (drop (memory.grow (i32.const 1)))
        (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (i32.store (i32.const 64) (i32.add (i32.load (i32.const 64)) (i32.const 1)))
        (i32.store (i32.const 65532) (i32.const -1))
        (i32.store
          (i32.sub (i32.shl (memory.size) (i32.const 16)) (i32.const 4)) (i32.const -1))
        (if (local.get $crash) (then unreachable))
        (i32.add
          (i32.mul (memory.size) (i32.const 1000))
          (i32.add (global.get $calls) (i32.load8_u (i32.const 64)))))
      (func (export "post") (param i32)))
"#;

#[test]
fn a_crash_is_an_error_and_the_next_call_finds_a_new_module() {
    let mut guest = Guest::guarded(COUNTER, &Options::default());
    let fresh = guest.memory().to_vec();
    assert_eq!(guest.call(0, 0), End::Returns(2010));
    assert_eq!(guest.call(0, 0), End::Returns(3012));
    assert_eq!(guest.call(1, 0), End::Crashes);
    assert_eq!(guest.memory()[..fresh.len()], fresh);
    assert!(guest.memory()[fresh.len()..].iter().all(|byte| *byte == 0));
    assert_eq!(guest.call(0, 0), End::Returns(2010));
    assert_eq!(guest.call(1, 0), End::Crashes);
    assert_eq!(guest.call(1, 0), End::Crashes);
    assert_eq!(guest.call(0, 0), End::Returns(2010));
}
