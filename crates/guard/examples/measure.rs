//! Measures what the guard costs an algorithm:
//!
//! ```sh
//! cargo run --release -p functional-scaffold-guard --example measure -- \
//!     target/wasm32-wasip2/release/prime_check.wasm '{"number": 17}'
//! ```
//!
//! Prints the median time of a call without guard, with it, and with a budget, called
//! in turns, and how many instructions the call executes and is charged.

use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result};
use functional_scaffold_guard::{Budget, Options, guard};
use wasmtime::{Config, Engine};

#[path = "../tests/guard/algorithm.rs"]
mod algorithm;

use algorithm::Algorithm;

/// Total time for each variant.
const DURATION: Duration = Duration::from_secs(4);
/// Time of one turn of a variant.
const TURN: Duration = Duration::from_millis(20);

fn guarded(component: &[u8], budget: Budget) -> Result<Vec<u8>> {
    let options = Options {
        budget,
        ..Options::default()
    };
    Ok(guard(component, &options)?)
}

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let file = arguments.next().context("which component?")?;
    let input = arguments.next().context("which input?")?;
    let component = fs::read(&file)?;

    let engine = Engine::default();
    let variants = [
        ("without guard", component.clone()),
        ("guard", guarded(&component, Budget::Unlimited)?),
        (
            "guard and budget",
            guarded(&component, Budget::Instructions(u64::MAX))?,
        ),
    ];
    let mut algorithms = Vec::new();
    for (name, wasm) in &variants {
        algorithms.push((*name, Algorithm::new(&engine, wasm)?, Vec::new()));
    }
    let began = Instant::now();
    while began.elapsed() < DURATION * 3 {
        for (_, algorithm, times) in &mut algorithms {
            let turn = Instant::now();
            while turn.elapsed() < TURN {
                let call = Instant::now();
                algorithm.call(&input)?;
                times.push(call.elapsed());
            }
        }
    }
    let mut plain = None;
    for (name, _, times) in &mut algorithms {
        times.sort_unstable();
        let [lowest, median] = [10, 2].map(|part| times[times.len() / part].as_secs_f64());
        let (plain_lowest, plain_median) = *plain.get_or_insert((lowest, median));
        println!(
            "{name}: {:.0} ns, ratio {:.3} (at the 10th percentile: {:.0} ns, {:.3})",
            median * 1e9,
            median / plain_median,
            lowest * 1e9,
            lowest / plain_lowest,
        );
    }

    let mut config = Config::new();
    config.consume_fuel(true);
    let mut counted = Algorithm::new(&Engine::new(&config)?, &component)?;
    counted.call(&input)?;
    let before = counted.store.get_fuel()?;
    let result = counted.call(&input)?;
    println!(
        "executed: {} instructions",
        before - counted.store.get_fuel()?
    );
    let (mut too_low, mut enough) = (0, 1 << 40);
    while enough - too_low > 1 + enough / 1000 {
        let budget = too_low + (enough - too_low) / 2;
        let wasm = guarded(&component, Budget::Instructions(budget))?;
        let mut algorithm = Algorithm::new(&engine, &wasm)?;
        if algorithm.call(&input)? == result {
            enough = budget;
        } else {
            too_low = budget;
        }
    }
    println!("charged: {enough} instructions");
    Ok(())
}
