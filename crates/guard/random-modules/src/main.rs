//! Writes random core modules to stdout, each after its length in 4 bytes,
//! little-endian. Arguments: the first seed, and the number of modules.

use std::env;
use std::io::{self, BufWriter, Write};

use anyhow::{Context, Result};
use arbitrary::Unstructured;
use wasm_smith::{Config, Module};

/// The exports of each module. It imports nothing.
const EXPORTS: &str = r#"
    (module
      (memory (export "memory") 1)
      (global (export "a") (mut i32) (i32.const 0))
      (global (export "b") (mut i64) (i64.const 0))
      (global (export "c") (mut f64) (f64.const 0))
      (func (export "run") (param i32 i32) (result i32) unreachable)
      (func (export "post") (param i32) unreachable))
"#;

/// How much of its randomness a module takes, in bytes.
const ENTROPY: usize = 4096;

/// Loop iterations and calls until a module traps.
const FUEL: u32 = 1000;

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let mut number = || -> Result<u64> {
        Ok(arguments
            .next()
            .context("two numbers are needed")?
            .parse()?)
    };
    let (first, count) = (number()?, number()?);
    let exports = wat::parse_str(EXPORTS)?;
    let mut output = BufWriter::new(io::stdout().lock());
    for seed in first..first + count {
        let module = module(&exports, seed)?;
        output.write_all(&u32::try_from(module.len())?.to_le_bytes())?;
        output.write_all(&module)?;
    }
    output.flush()?;
    Ok(())
}

fn module(exports: &[u8], seed: u64) -> Result<Vec<u8>> {
    let entropy = entropy(seed);
    let mut random = Unstructured::new(&entropy);
    let config = Config {
        // Dropped segments and changed tables are refused.
        bulk_memory_enabled: seed % 8 == 0,
        canonicalize_nans: true,
        exceptions_enabled: false,
        exports: Some(exports.to_vec()),
        // Data at computed addresses is refused.
        extended_const_enabled: false,
        gc_enabled: false,
        max_imports: 0,
        max_memory32_bytes: 4 << 20,
        // Besides the exported one.
        max_memories: 0,
        max_tags: 0,
        memory64_enabled: false,
        reference_types_enabled: false,
        relaxed_simd_enabled: false,
        tail_call_enabled: false,
        threads_enabled: false,
        wide_arithmetic_enabled: false,
        ..Config::default()
    };
    let mut module = Module::new(config, &mut random)?;
    module.ensure_termination(FUEL)?;
    Ok(module.to_bytes())
}

/// Pseudorandom bytes: xorshift64*.
fn entropy(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(ENTROPY);
    while bytes.len() < ENTROPY {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend(state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes
}
