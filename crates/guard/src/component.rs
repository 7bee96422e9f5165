//! Finds the module of a component that implements `run`, and replaces it. The rest
//! of the component stays as it is, byte for byte.

use std::ops::Range;

use wasm_encoder::Encode;
use wasmparser::{Chunk, Encoding, Parser, Payload};

use crate::module::Module;
use crate::{GuardError, Options, adapter, instrument};

/// The core exports of the contract's `run`, and of what releases its result.
const RUN: &str = "functional-scaffold:algorithm/algorithm@0.1.0#run";
const POST_RETURN: &str = "cabi_post_functional-scaffold:algorithm/algorithm@0.1.0#run";

/// Guards an algorithm component. The result is the same for the same input.
///
/// # Errors
///
/// The bytes are no component, do not implement the contract, are guarded already, or
/// are something that a reset would not restore: a component of several modules with
/// state, a module that changes its tables, that has threads, exceptions of its own,
/// and more.
///
/// # Examples
///
/// ```no_run
/// use functional_scaffold_guard::{Options, guard};
///
/// let component = std::fs::read("app.wasm")?;
/// let guarded = guard(&component, &Options::default())?;
/// std::fs::write("app.guarded.wasm", guarded)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn guard(component: &[u8], options: &Options) -> Result<Vec<u8>, GuardError> {
    let sections = module_sections(component)?;
    let mut modules = Vec::new();
    for section in &sections {
        modules.push(Module::parse(&component[section.module.clone()])?);
    }
    let implements_run = |module: &Module<'_>| module.exported_function(RUN).is_some();
    let main = modules.iter().position(implements_run);
    let main = main.ok_or_else(|| GuardError::NoRun(RUN.to_owned()))?;

    let mut reset_adapter = None;
    let mut replaced = Vec::new();
    for (position, module) in modules.iter().enumerate() {
        if position == main || !adapter::has_state(module) {
            continue;
        }
        let reset = adapter::reset_import(&modules[main], module)
            .filter(|_| reset_adapter.is_none())
            .ok_or_else(|| {
                GuardError::SeveralModules(format!("module {position} of {}", modules.len()))
            })?;
        reset_adapter = Some(reset);
        replaced.push((position, adapter::instrument(module)?));
    }
    let main_module = &modules[main];
    let guarded = instrument::instrument(main_module, RUN, POST_RETURN, reset_adapter, options)?;
    replaced.push((main, guarded));
    replaced.sort_unstable();

    let mut output = Vec::new();
    let mut copied = 0;
    for (position, module) in replaced {
        let section = &sections[position];
        output.extend_from_slice(&component[copied..section.start]);
        output.push(MODULE_SECTION);
        module.encode(&mut output);
        copied = section.module.end;
    }
    output.extend_from_slice(&component[copied..]);
    Ok(output)
}

/// The id of a section that holds a core module.
const MODULE_SECTION: u8 = 1;

/// A section of a component that holds a core module.
struct ModuleSection {
    start: usize,
    module: Range<usize>,
}

fn module_sections(component: &[u8]) -> Result<Vec<ModuleSection>, GuardError> {
    if !Parser::is_component(component) {
        return Err(GuardError::NotAComponent);
    }
    let mut sections = Vec::new();
    let mut parser = Parser::new(0);
    let mut start = 0;
    while start < component.len() {
        let Chunk::Parsed { consumed, payload } = parser.parse(&component[start..], true)? else {
            break;
        };
        let mut end = start + consumed;
        match payload {
            Payload::Version {
                encoding: Encoding::Module,
                ..
            } => {
                return Err(GuardError::NotAComponent);
            }
            Payload::ModuleSection {
                unchecked_range, ..
            } => {
                let length = unchecked_range.end - unchecked_range.start;
                let module = end..end + usize::try_from(length).unwrap_or(usize::MAX);
                end = module.end;
                sections.push(ModuleSection { start, module });
            }
            Payload::ComponentSection {
                unchecked_range, ..
            } => {
                let length = unchecked_range.end - unchecked_range.start;
                let nested = end..end + usize::try_from(length).unwrap_or(usize::MAX);
                end = nested.end;
                if !module_sections(&component[nested])?.is_empty() {
                    let name = "a nested component has modules".to_owned();
                    return Err(GuardError::SeveralModules(name));
                }
            }
            _ => {}
        }
        start = end;
    }
    Ok(sections)
}
