//! What the guard refuses, and what it leaves as it is.

use functional_scaffold_guard::{GuardError, Options, guard, guard_module};
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

const EXIT: &str = r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#;

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
        (
            &format!("{EXIT} {memory} (table funcref (elem $exit))"),
            "`exit`",
        ),
        (
            &format!(r#"{EXIT} {memory} (export "exit" (func $exit))"#),
            "`exit`",
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

/// Its error would lie in what may be live memory until the next call.
#[test]
fn a_module_without_post_return_needs_a_shadow_stack() {
    let options = Options::default();
    let without = |more: &str| {
        let module = module(&format!(r#"{more} (memory (export "memory") 1)"#));
        let module = wat::parse_str(module).expect("it is a module");
        guard_module(&module, "run", "none", &options)
    };
    let stack = r#"(global (mut i32) (i32.const 4096)) (data (i32.const 4096) "a")"#;
    without(stack).expect("it can be guarded");
    let error = without("").expect_err("it has none").to_string();
    assert!(error.contains("does not export none"), "{error}");
}

/// Returns the error with which the guard refuses these bytes.
fn refused(component: &[u8]) -> GuardError {
    guard(component, &Options::default()).expect_err("it is refused")
}

#[test]
fn a_component_that_is_cut_off_is_refused() {
    for part in ["(core module)", "(component (core module))"] {
        let component = wat::parse_str(format!("(component {part})")).expect("it is one");
        for length in 0..component.len() {
            refused(&component[..length]);
        }
    }
}

#[test]
fn deep_nesting_is_refused() {
    let nested = |depth: usize| {
        let header = b"\0asm\x0d\0\x01\0";
        let mut component = header.to_vec();
        for _ in 0..depth {
            let mut outer = header.to_vec();
            // The id of a component's section, and its length, padded to 5 bytes.
            outer.push(4);
            let mut length = component.len();
            for _ in 0..4 {
                outer.push(0x80 | u8::try_from(length & 0x7f).expect("7 bits"));
                length >>= 7;
            }
            outer.push(u8::try_from(length).expect("it is short"));
            outer.append(&mut component);
            component = outer;
        }
        component
    };
    assert!(matches!(refused(&nested(100)), GuardError::NoRun(_)));
    assert!(matches!(refused(&nested(101)), GuardError::Unsupported(_)));
    assert!(matches!(
        refused(&nested(50_000)),
        GuardError::Unsupported(_)
    ));
}

/// wit-component's adapters keep their state in globals. One that would need more than
/// new globals is refused.
#[test]
fn an_adapter_that_cannot_be_reset_is_refused() {
    let component = |more: &str| {
        let module = r#"
            (core module
              (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
              (memory (export "memory") 1)
              (func (export "functional-scaffold:algorithm/algorithm@0.1.0#run")
                (param i32 i32) (result i32) (i32.const 8))
              (func (export "cabi_post_functional-scaffold:algorithm/algorithm@0.1.0#run")
                (param i32)))
        "#;
        let component = format!(
            r#"
            (component
              {module}
              (core module
                (import "env" "memory" (memory 0))
                (global (mut i32) (i32.const 0))
                (func (export "proc_exit") (param i32))
                {more}))
            "#
        );
        wat::parse_str(component).expect("it is a component")
    };
    guard(&component(""), &Options::default()).expect("it can be guarded");
    for more in [
        "(func $start) (start $start)",
        "(func (drop (memory.grow (i32.const 1))))",
        "(func (drop (memory.size)))",
    ] {
        let error = refused(&component(more));
        assert!(matches!(error, GuardError::SeveralModules(_)), "{more}");
    }
}

/// 4,294,967,295 items, as none can have: the least that overflows.
const ENDLESS: &[u8] = b"\xff\xff\xff\xff\x0f";

#[test]
fn endless_locals_are_refused() {
    let module = module(r#"(memory (export "memory") 1) (func $many (local i64))"#);
    let module = wat::parse_str(module).expect("it is a module");
    // The body: 4 bytes, one run of locals, of one i64, and the end.
    let body = module
        .windows(5)
        .position(|bytes| bytes == b"\x04\x01\x01\x7e\x0b");
    let body = body.expect("it has the function");
    let code = module[..body]
        .iter()
        .rposition(|id| *id == 10)
        .expect("it has code");
    let mut hostile = module[..body].to_vec();
    hostile[code + 1] += 4;
    hostile.extend_from_slice(b"\x08\x01");
    hostile.extend_from_slice(ENDLESS);
    hostile.extend_from_slice(&module[body + 3..]);
    let error = guarded(&hostile, &Options::default()).expect_err("it has too many locals");
    assert!(error.to_string().contains("too many locals"), "{error}");
}

#[test]
fn malformed_names_are_copied() {
    let module = r#"
        (module
          (memory (export "memory") 1)
          (func (export "run") (param i32 i32) (result i32) (i32.const 5))
          (func (export "post") (param i32))
          (@custom "name" "\01\05\ff\ff\ff\ff\0f"))
    "#;
    let guarded = guarded(module.as_bytes(), &Options::default()).expect("it can be guarded");
    assert!(guarded.windows(ENDLESS.len()).any(|bytes| bytes == ENDLESS));
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
