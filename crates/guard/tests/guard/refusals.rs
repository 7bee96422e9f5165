//! What the guard refuses, and what it leaves as it is.

use functional_scaffold_guard::{GuardError, Options};
use wasmparser::{KnownCustom, Name, Parser, Payload};

use crate::guest::{End, Guest, guarded};

/// A module that exports what is needed, with more in it.
fn module(more: &str) -> String {
    format!(
        r#"
        (module $named
          {more}
          (func $run (export "run") (param i32 i32) (result i32) (i32.const 5))
          (func $post (export "post") (param i32)))
        "#
    )
}

#[test]
fn what_a_reset_would_not_restore_is_refused_by_name() {
    let memory = r#"(memory (export "memory") 1)"#;
    for (more, reason) in [
        ("", "one memory"),
        (r#"(memory (export "memory") 1) (memory 1)"#, "one memory"),
        (r#"(import "a" "b" (memory 1))"#, "one memory"),
        (r#"(memory (export "memory") i64 1)"#, "32 bits"),
        (r#"(memory (export "memory") 1 1 shared)"#, "shared"),
        (&format!("{memory} (tag)"), "exceptions"),
        (
            &format!(r#"(import "a" "b" (global (mut i32))) {memory}"#),
            "mutable global",
        ),
        (
            &format!(r#"(import "a" "b" (table 1 funcref)) {memory}"#),
            "table",
        ),
        (
            &format!(r#"{memory} (table (export "t") 1 funcref)"#),
            "exports a table: t",
        ),
        (
            &format!("{memory} (table 1 funcref) (func (table.set (i32.const 0) (ref.null func)))"),
            "changes a table",
        ),
        (
            &format!(r#"{memory} (data $d "a") (func (data.drop $d))"#),
            "drops a segment",
        ),
        (&format!("{memory} (func $f (return_call $f))"), "tail_call"),
        (
            &format!("{memory} (func (drop (struct.new $s))) (type $s (struct))"),
            "garbage",
        ),
        (
            &format!("{memory} (func (drop (i32.atomic.load (i32.const 0))))"),
            "threads",
        ),
    ] {
        let error = guarded(module(more).as_bytes(), &Options::default());
        let error = error.expect_err(more).to_string();
        assert!(error.contains(reason), "{more}: {error}");
    }
}

#[test]
fn a_module_without_run_is_refused() {
    let module = r#"(module (memory 1))"#;
    let error = guarded(module.as_bytes(), &Options::default()).expect_err("there is no run");
    assert!(matches!(error, GuardError::NoRun(name) if name == "run"));
}

#[test]
fn guarding_twice_is_refused() {
    let options = Options::default();
    let module = module(r#"(memory (export "memory") 1)"#);
    let once = guarded(module.as_bytes(), &options).expect("it can be guarded");
    let twice = guarded(&once, &options).expect_err("it is guarded");
    assert!(matches!(twice, GuardError::AlreadyGuarded));
}

#[test]
fn names_and_custom_sections_survive() {
    let module = module(
        r#"(memory (export "memory") 1) (global $own (mut i32) (i32.const 0))
           (@custom "mine" "data")"#,
    );
    let guarded = guarded(module.as_bytes(), &Options::default()).expect("it can be guarded");
    let (mut functions, mut globals, mut mine) = (Vec::new(), Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(&guarded) {
        let Payload::CustomSection(section) = payload.expect("it is valid") else {
            continue;
        };
        if section.name() == "mine" {
            mine.extend_from_slice(section.data());
        }
        let KnownCustom::Name(names) = section.as_known() else {
            continue;
        };
        for name in names {
            match name.expect("it is valid") {
                Name::Function(map) => functions.extend(map.map(|name| name.expect("valid").name)),
                Name::Global(map) => globals.extend(map.map(|name| name.expect("valid").name)),
                _ => {}
            }
        }
    }
    assert_eq!(mine, b"data");
    assert_eq!(functions[..3], ["run", "post", "guard.run"]);
    assert_eq!(globals[..2], ["own", "guard.memory.size"]);
}

#[test]
fn memory_is_capped() {
    let module = r#"
        (module
          (memory (export "memory") 1 100)
          (func (export "run") (param i32 i32) (result i32) (memory.grow (local.get 0)))
          (func (export "post") (param i32)))
    "#;
    let most = |max_memory| Options {
        max_memory,
        ..Options::default()
    };
    let mut own = Guest::guarded(module, &most(None));
    assert_eq!(own.call(100, 0), End::Returns(-1));
    assert_eq!(own.call(99, 0), End::Returns(1));
    let mut capped = Guest::guarded(module, &most(Some(10 << 16)));
    assert_eq!(capped.call(10, 0), End::Returns(-1));
    assert_eq!(capped.call(4, 0), End::Returns(1));
    assert_eq!(capped.call(-1, 0), End::Returns(-1));
    assert_eq!(capped.call(5, 0), End::Returns(5));
    let error = guarded(module.as_bytes(), &most(Some(1000))).expect_err("it begins with more");
    assert!(matches!(
        error,
        GuardError::MaxMemory {
            max_memory: 1000,
            initial: 65536
        }
    ));
}
