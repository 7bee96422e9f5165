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
    assert_eq!(guest.call(0, 0), End::Returns(2010));
    assert_eq!(guest.call(1, 0), End::Crashes);
    assert_eq!(guest.call(1, 0), End::Crashes);
    assert_eq!(guest.call(0, 0), End::Returns(2010));
}

/// Stores, loads, grows and crashes, without checks.
const WILD: &str = r#"
    (module
      (memory (export "memory") 1)
      (func (export "run") (param $what i32) (param $operand i32) (result i32)
        (block $load
          (block $grow
            (block $store
              (block $grow_and_crash
                (br_table $grow_and_crash $store $grow $load (local.get $what)))
              (drop (memory.grow (local.get $operand)))
              unreachable)
            (i32.store (local.get $operand) (i32.const 7))
            (return (i32.const 0)))
          (return (memory.grow (local.get $operand))))
        (i32.load (local.get $operand)))
      (func (export "post") (param i32)))
"#;

/// An earlier call has grown the memory that far, so the store does not trap.
#[test]
fn new_pages_are_zero_after_a_wild_store() {
    const GROW_AND_CRASH: i32 = 0;
    const STORE: i32 = 1;
    const GROW: i32 = 2;
    const LOAD: i32 = 3;
    const WILD_ADDRESS: i32 = 50 << 16;
    let mut guest = Guest::guarded(WILD, &Options::default());
    assert_eq!(guest.call(GROW_AND_CRASH, 100), End::Crashes);
    assert_eq!(guest.call(STORE, WILD_ADDRESS), End::Returns(0));
    assert_eq!(guest.call(GROW, 40), End::Returns(1));
    assert_eq!(guest.call(GROW, 20), End::Returns(41));
    assert_eq!(guest.call(LOAD, WILD_ADDRESS), End::Returns(0));
    // Pages that are in use stay as they are.
    assert_eq!(guest.call(STORE, WILD_ADDRESS), End::Returns(0));
    assert_eq!(guest.call(GROW, 60), End::Returns(61));
    assert_eq!(guest.call(LOAD, WILD_ADDRESS), End::Returns(7));
}

/// No data is there, but a variable is.
#[test]
fn the_error_leaves_no_trace_in_memory() {
    let module = r#"
        (module
          (memory (export "memory") 1)
          (func $start (i32.store8 (i32.const 16) (i32.const 42)))
          (start $start)
          (func (export "run") (param $crash i32) (param i32) (result i32)
            (if (local.get $crash) (then unreachable))
            (i32.load8_u (i32.const 16)))
          (func (export "post") (param i32)))
    "#;
    let mut guest = Guest::guarded(module, &Options::default());
    for _ in 0..2 {
        assert_eq!(guest.call(1, 0), End::Crashes);
        assert_eq!(guest.call(0, 0), End::Returns(42));
    }
}
