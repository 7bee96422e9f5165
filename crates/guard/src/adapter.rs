//! The other modules of a component. wit-component's shim and fixups only pass calls
//! on. Its adapter for WASI 0.1 keeps state in the memory of the main module, and
//! addresses of it in globals, which must not outlive a reset.
//!
//! The main module cannot call a function that the adapter gets, because nothing
//! links the two. It does not need the adapter's `proc_exit` any more, since it throws
//! instead: so that function becomes the reset.

use wasm_encoder::{CodeSection, Function};
use wasmparser::{FuncType, Operator, ValType};

use crate::GuardError;
use crate::module::{Additions, Module, narrow};

const WASI: &str = "wasi_snapshot_preview1";
const EXIT: &str = "proc_exit";

/// A call could leave something behind in the module.
pub(crate) fn has_state(module: &Module<'_>) -> bool {
    !module.memories.is_empty() || module.imports_memory || module.has_mutable_globals()
}

/// The import of the main module that becomes the reset of the adapter, if the other
/// module is one.
pub(crate) fn reset_import(
    main: &Module<'_>,
    module: &Module<'_>,
) -> Result<Option<u32>, GuardError> {
    let is_adapter = module.memories.is_empty()
        && module.imports_memory
        && !module.imports_mutable_global
        && !module.imports_table
        && module.tables == 0
        && module.data.is_empty()
        // The reset would have to run it again.
        && module.start.is_none()
        && !sizes_memory(module)?;
    let mut wasi = main.imports.iter().filter(|import| import.module == WASI);
    let has_all = wasi.all(|import| module.exported_function(import.name).is_some());
    let exit =
        |import: &crate::module::ImportedFunction<'_>| import.module == WASI && import.name == EXIT;
    let Some(position) = main.imports.iter().position(exit) else {
        return Ok(None);
    };
    let exit_type = FuncType::new([ValType::I32], []);
    let import = narrow(position);
    let fits = *main.function_type(import) == exit_type;
    Ok((is_adapter && has_all && fits).then_some(import))
}

/// The module grows its memory or asks for its size: not the logical one, which only the
/// main module knows.
fn sizes_memory(module: &Module<'_>) -> Result<bool, GuardError> {
    for body in &module.bodies {
        for operator in body.get_operators_reader()? {
            if let Operator::MemoryGrow { .. } | Operator::MemorySize { .. } = operator? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Lets the adapter's `proc_exit` reset its globals.
pub(crate) fn instrument(module: &Module<'_>) -> Result<Vec<u8>, GuardError> {
    let mut additions = Additions::new(module);
    let reset = additions.declare("guard.reset", &FuncType::new([ValType::I32], []));
    let mut code = Function::new([]);
    module.reset_globals(&mut code)?;
    code.instructions().end();
    additions.define(&code);
    additions.replace_export(EXIT, reset);
    let mut bodies = CodeSection::new();
    for body in &module.bodies {
        bodies.raw(body.as_bytes());
    }
    additions.write(&bodies)
}
