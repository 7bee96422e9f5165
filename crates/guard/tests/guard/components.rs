//! Real algorithm components, which `cargo xtask build` made, with the imports that
//! they have on a host.

use std::path::Path;
use std::sync::LazyLock;
use std::{env, fs};

use functional_scaffold_guard::{Budget, GuardError, Options, guard};
use wasmtime::component::Val;
use wasmtime::{Config, Engine};

use crate::algorithm::Algorithm;

static ENGINE: LazyLock<Engine> =
    LazyLock::new(|| Engine::new(&Config::new()).expect("wasmtime runs here"));

/// An instance of an algorithm component.
struct Instance(Algorithm);

impl Instance {
    fn new(wasm: &[u8]) -> Self {
        Self(Algorithm::new(&ENGINE, wasm).expect("it starts"))
    }

    /// Calls `run`: the result, or the case of the error, or a trap.
    fn call(&mut self, input: &str) -> Result<String, String> {
        let result = match self.0.call(input) {
            Ok(result) => result,
            Err(trap) => return Err(format!("trap: {:?}", trap.root_cause())),
        };
        match &result {
            Val::Result(Ok(Some(value))) => match &**value {
                Val::String(output) => Ok(output.clone()),
                other => panic!("no string: {other:?}"),
            },
            Val::Result(Err(Some(error))) => match &**error {
                Val::Variant(case, _) => Err(case.clone()),
                other => panic!("no variant: {other:?}"),
            },
            other => panic!("no result: {other:?}"),
        }
    }
}

/// The bytes of a component that is built.
fn built(name: &str) -> Vec<u8> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = env::var_os("GUARD_TEST_COMPONENTS").map_or_else(
        || repository.join("target/wasm32-wasip2/release"),
        Into::into,
    );
    let file = folder.join(name);
    let why = "run `cargo xtask build` first";
    fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}; {why}", file.display()))
}

fn guarded(name: &str, budget: Budget) -> Instance {
    let options = Options {
        budget,
        ..Options::default()
    };
    Instance::new(&guard(&built(name), &options).expect("it can be guarded"))
}

#[test]
fn every_misdeed_of_rogue_is_an_error_of_its_call() {
    let mut rogue = guarded("rogue.wasm", Budget::Instructions(100_000_000));
    let crashed = Err("crashed".to_owned());
    let limit = Err("limit-exceeded".to_owned());
    for (misdeed, expected) in [
        ("panic", &crashed),
        ("index", &crashed),
        ("divide", &crashed),
        ("panic-in-drop", &crashed),
        ("poison", &crashed),
        ("exit", &crashed),
        ("trap", &crashed),
        ("allocate", &crashed),
        ("recurse", &limit),
        ("loop", &limit),
        ("clock", &limit),
        ("flood", &limit),
        ("claim-crash", &crashed),
        ("claim-limit", &limit),
    ] {
        for _ in 0..3 {
            assert_eq!(rogue.call(misdeed), *expected, "{misdeed}");
        }
        if !misdeed.starts_with("claim") {
            assert_eq!(rogue.call("calls"), Ok("1".to_owned()), "after {misdeed}");
        }
        assert_eq!(rogue.call("talk 20").map(|text| text.len()), Ok(20));
    }
}

#[test]
fn an_honest_algorithm_gives_the_same_results() {
    let mut plain = Instance::new(&built("prime_check.wasm"));
    let mut guarded = guarded("prime_check.wasm", Budget::Default);
    for input in [
        r#"{"number": 17}"#,
        r#"{"number": 0}"#,
        r#"{"number": "18446744073709551557"}"#,
        r#"{"number": "18446743979220271189"}"#,
        r#"{"number": 9007199254740993}"#,
        r#"{"number": -1}"#,
        r#"{"nonsense": true}"#,
        "not JSON",
    ] {
        assert_eq!(guarded.call(input), plain.call(input), "{input}");
    }
}

#[test]
fn what_cannot_be_guarded_is_refused() {
    let options = Options::default();
    let rogue = guard(&built("rogue.wasm"), &options).expect("it can be guarded");
    let refused = |component: &[u8]| guard(component, &options).expect_err("it is refused");
    assert!(matches!(refused(&rogue), GuardError::AlreadyGuarded));
    let service = built("functional_scaffold.wasm");
    assert!(matches!(refused(&service), GuardError::NoRun(_)));
    assert!(matches!(refused(b"(component)"), GuardError::NotAComponent));
}

#[test]
fn the_result_is_the_same_for_the_same_input() {
    let component = built("prime_check.wasm");
    let once = guard(&component, &Options::default()).expect("it can be guarded");
    let again = guard(&component, &Options::default()).expect("it can be guarded");
    assert!(once == again);
}
