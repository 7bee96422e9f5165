//! Random modules: guarded and unguarded do the same until one crashes, and after a
//! crash the guarded one does what a new one does.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, fs};

use functional_scaffold_guard::{GuardError, Options, guard_module};
use wasmtime::Trap;

use crate::guest::{End, Guest};

/// The seed of the first module, and how many. The variable
/// `GUARD_RANDOM_MODULES=first,count` chooses others.
const MODULES: (u64, u64) = (0, 400);

const CALLS: i32 = 5;

/// Counts the outcomes of the modules of a run.
#[derive(Debug, Default)]
struct Tally {
    refused: BTreeMap<String, u64>,
    returned: u64,
    crashed: u64,
    other_traps: u64,
    deep_recursions: u64,
}

#[test]
fn random_modules_behave_as_without_guard_until_they_crash() {
    let (first, count) = env::var("GUARD_RANDOM_MODULES").map_or(MODULES, |range| {
        let numbers: Vec<u64> = range
            .split(',')
            .filter_map(|part| part.parse().ok())
            .collect();
        (numbers[0], numbers[1])
    });
    let mut tally = Tally::default();
    let mut stream = modules(first, count);
    for seed in first..first + count {
        let mut length = [0; 4];
        stream.read_exact(&mut length).expect("a module follows");
        let length = usize::try_from(u32::from_le_bytes(length)).expect("64 bits");
        let mut module = vec![0; length];
        stream.read_exact(&mut module).expect("a module follows");
        check(seed, &module, &mut tally);
    }
    eprintln!("{count} modules: {tally:?}");
    assert!(tally.refused.values().sum::<u64>() < count / 5, "{tally:?}");
    assert!(tally.returned > count / 2, "{tally:?}");
    assert!(tally.crashed > count / 10, "{tally:?}");
    assert!(tally.deep_recursions <= count / 50, "{tally:?}");
}

/// Builds and runs the package that writes random modules.
fn modules(first: u64, count: u64) -> impl Read {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("random-modules");
    let target = package.join("../../../target/random-modules");
    fs::create_dir_all(&target).expect("target is writable");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["run", "--quiet", "--manifest-path"])
        .arg(package.join("Cargo.toml"));
    cargo.arg("--target-dir").arg(&target);
    cargo.args(["--", &first.to_string(), &count.to_string()]);
    let child = cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let output = child.expect("cargo starts").stdout;
    output.expect("its output is piped")
}

fn check(seed: u64, module: &[u8], tally: &mut Tally) {
    let guarded = match guard_module(module, "run", "post", &Options::default()) {
        Ok(guarded) => guarded,
        Err(GuardError::Unsupported(reason)) => {
            // The rest names the operator.
            let reason = reason.split(':').next().unwrap_or_default();
            *tally.refused.entry(reason.to_owned()).or_default() += 1;
            return;
        }
        Err(error) => panic!("{seed}: {error}"),
    };
    // A module that does not start does not start with the guard either.
    let Ok(mut plain) = Guest::try_new(module) else {
        assert!(Guest::try_new(&guarded).is_err(), "{seed} starts");
        return tally.other_traps += 1;
    };
    let mut guarded = Guest::new(&guarded);
    let mut argument = 1_i32;
    for _ in 0..CALLS {
        argument = argument.wrapping_mul(0x0019_660D).wrapping_add(0x3C6E_F35F);
        let arguments = (argument, argument >> 16);
        let expected = plain.run(arguments);
        let end = guarded.run(arguments);
        match (&expected, &end) {
            // The guard allows less of the stack, and what exceeds it is an error.
            (Ok(_) | Err(Trap::StackOverflow), Ok(result))
                if guarded.error_at(*result) == Some(End::ExceedsLimit) =>
            {
                tally.deep_recursions += 1;
                return;
            }
            (Ok(expected), Ok(result)) => {
                assert_eq!(result, expected, "{seed}");
                compare(seed, &mut plain, &mut guarded);
                let released = plain.post(*expected).is_ok();
                assert_eq!(guarded.post(*result).is_ok(), released, "{seed}");
                tally.returned += 1;
                if !released {
                    return;
                }
            }
            (Err(Trap::UnreachableCodeReached), Ok(result)) => {
                assert_eq!(guarded.error_at(*result), Some(End::Crashes), "{seed}");
                guarded.post(*result).expect("it releases the error");
                plain = Guest::try_new(module).expect("it started before");
                tally.crashed += 1;
            }
            _ => {
                assert!(expected.is_err(), "{seed}: {expected:?} {end:?}");
                tally.other_traps += 1;
                return;
            }
        }
        compare(seed, &mut plain, &mut guarded);
    }
}

/// Compares only memory within its size: the rest is zeroed when memory grows.
fn compare(seed: u64, plain: &mut Guest, guarded: &mut Guest) {
    let memory = plain.memory();
    let used = &guarded.memory()[..memory.len()];
    assert!(used == memory, "{seed}: memory differs");
    for name in ["a", "b", "c"] {
        assert_eq!(guarded.global(name), plain.global(name), "{seed}: {name}");
    }
}
