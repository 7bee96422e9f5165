//! Endless recursion is an error of the call, and deep recursion is none.

use std::fmt::Write;

use functional_scaffold_guard::{Budget, Options};

use crate::guest::{End, Guest};

/// A module whose `run` calls `$recurse` with its first argument, and whose shadow
/// stack is at the bottom of its memory.
fn module(functions: &str) -> String {
    format!(
        r#"
        (module
          (memory (export "memory") 17)
          (global $stack_pointer (mut i32) (i32.const 1048576))
          (data (i32.const 1048576) "data")
          {functions}
          (func (export "run") (param i32 i32) (result i32)
            (call $recurse (local.get 0)))
          (func (export "post") (param i32)))
        "#
    )
}

const SIMPLE: &str = r#"
    (func $recurse (param i32) (result i32)
      (if (result i32) (local.get 0)
        (then (i32.add (i32.const 1)
          (call $recurse (i32.sub (local.get 0) (i32.const 1)))))
        (else (i32.const 0))))
"#;

const MUTUAL: &str = r#"
    (func $recurse (param i32) (result i32)
      (if (result i32) (local.get 0)
        (then (i32.add (i32.const 1) (call $other (local.get 0))))
        (else (i32.const 0))))
    (func $other (param i32) (result i32)
      (call $recurse (i32.sub (local.get 0) (i32.const 1))))
"#;

const INDIRECT: &str = r#"
    (type $method (func (param i32) (result i32)))
    (table funcref (elem $recurse))
    (func $recurse (param i32) (result i32)
      (if (result i32) (local.get 0)
        (then (i32.add (i32.const 1)
          (call_indirect (type $method)
            (i32.sub (local.get 0) (i32.const 1)) (i32.const 0))))
        (else (i32.const 0))))
"#;

/// Keeps 1 KiB of the shadow stack in each call.
const SHADOW: &str = r#"
    (func $recurse (param i32) (result i32)
      (local $frame i32)
      (global.set $stack_pointer
        (local.tee $frame (i32.sub (global.get $stack_pointer) (i32.const 1024))))
      (i32.store (local.get $frame) (local.get 0))
      (if (local.get 0)
        (then (drop (call $recurse (i32.sub (local.get 0) (i32.const 1))))))
      (global.set $stack_pointer (i32.add (local.get $frame) (i32.const 1024)))
      (i32.load (local.get $frame)))
"#;

/// Has this many locals, all of which live across the call.
fn with_locals(count: usize, ty: &str, make: &str, take: &str) -> String {
    let mut code = String::new();
    let _ = write!(code, "(func $recurse (param i32) (result i32)");
    for local in 0..count {
        let _ = write!(code, "(local $l{local} {ty})");
    }
    for local in 0..count {
        let value = format!("(i32.mul (local.get 0) (i32.const {local}))");
        let _ = write!(code, "(local.set $l{local} ({make} {value}))");
    }
    code.push_str("(if (local.get 0) (then (local.set 0 (i32.add (i32.const 1)");
    code.push_str("(call $recurse (i32.sub (local.get 0) (i32.const 1)))))))");
    for local in 0..count {
        let _ = write!(
            code,
            "(i32.store (i32.const 64) ({take} (local.get $l{local})))"
        );
    }
    code.push_str("(local.get 0))");
    code
}

/// Has this many parameters, all of which live across the call.
fn with_parameters(count: usize, ty: &str, make: &str, take: &str) -> String {
    let each = |code: &dyn Fn(usize) -> String| (0..count).map(code).collect::<String>();
    let parameters = each(&|local| format!("(param $p{local} {ty})"));
    let zeros = each(&|_| format!("({make} (i32.const 0))"));
    let own = each(&|local| format!("(local.get $p{local})"));
    let uses = each(&|local| format!("(i32.store (i32.const 64) ({take} (local.get $p{local})))"));
    format!(
        "(func $recurse (param i32) (result i32) (call $deep (local.get 0) {zeros}))
         (func $deep (param $depth i32) {parameters} (result i32)
           (local $result i32)
           (if (local.get $depth)
             (then (local.set $result (i32.add (i32.const 1)
               (call $deep (i32.sub (local.get $depth) (i32.const 1)) {own})))))
           {uses}
           (local.get $result))"
    )
}

fn guest(functions: &str) -> Guest {
    let options = Options {
        budget: Budget::Unlimited,
        ..Options::default()
    };
    Guest::guarded(&module(functions), &options)
}

#[test]
fn endless_recursion_is_an_error() {
    for functions in [
        SIMPLE,
        MUTUAL,
        INDIRECT,
        SHADOW,
        &with_locals(30, "i64", "i64.extend_i32_s", "i32.wrap_i64"),
        &with_locals(300, "i64", "i64.extend_i32_s", "i32.wrap_i64"),
        &with_locals(100, "v128", "i32x4.splat", "i32x4.extract_lane 1"),
        &with_parameters(10, "i64", "i64.extend_i32_s", "i32.wrap_i64"),
        &with_parameters(200, "i64", "i64.extend_i32_s", "i32.wrap_i64"),
        &with_parameters(100, "v128", "i32x4.splat", "i32x4.extract_lane 1"),
    ] {
        let mut guest = guest(functions);
        for _ in 0..3 {
            assert_eq!(guest.call(-1, 0), End::ExceedsLimit, "{functions:.60}");
            assert_eq!(guest.call(10, 0), End::Returns(10), "{functions:.60}");
        }
    }
}

#[test]
fn deep_recursion_is_no_error() {
    for functions in [SIMPLE, MUTUAL, INDIRECT] {
        assert_eq!(guest(functions).call(1_500, 0), End::Returns(1_500));
    }
    let locals = with_locals(30, "i64", "i64.extend_i32_s", "i32.wrap_i64");
    assert_eq!(guest(&locals).call(1_000, 0), End::Returns(1_000));
    assert_eq!(guest(SHADOW).call(900, 0), End::Returns(900));
}

/// The function that calls itself is in a table only by the table's initial value.
#[test]
fn recursion_through_the_initial_value_of_a_table_is_seen() {
    let functions = INDIRECT.replace(
        "(table funcref (elem $recurse))",
        "(table 1 funcref (ref.func $recurse))",
    );
    let mut guest = guest(&functions);
    assert_eq!(guest.call(-1, 0), End::ExceedsLimit);
    assert_eq!(guest.call(10, 0), End::Returns(10));
}

/// A segment without an address says nothing about where the data begins.
#[test]
fn passive_data_does_not_hide_the_shadow_stack() {
    let functions = format!(r#"{SHADOW} (data "passive")"#);
    let mut guest = guest(&functions);
    assert_eq!(guest.call(-1, 0), End::ExceedsLimit);
    assert_eq!(guest.call(900, 0), End::Returns(900));
}
