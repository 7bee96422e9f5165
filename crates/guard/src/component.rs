//! Finds the module of a component that implements `run`, and replaces it. The rest
//! of the component stays as it is, byte for byte.

use std::ops::Range;

use wasm_encoder::Encode;
use wasmparser::{BinaryReader, Chunk, Encoding, Parser, Payload};

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
    let sections = module_sections(component, 0)?;
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
        let reset = adapter::reset_import(&modules[main], module)?
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

/// Maximum nesting of components: each level takes stack here.
const MOST_NESTED: u32 = 100;

/// The id of a section that holds a core module.
const MODULE_SECTION: u8 = 1;

/// A section of a component that holds a core module.
struct ModuleSection {
    start: usize,
    module: Range<usize>,
}

/// The modules of a component. Their ranges are inside it.
fn module_sections(component: &[u8], nested: u32) -> Result<Vec<ModuleSection>, GuardError> {
    if !Parser::is_component(component) {
        return Err(GuardError::NotAComponent);
    }
    if nested > MOST_NESTED {
        let reason = format!("it nests more than {MOST_NESTED} components");
        return Err(GuardError::Unsupported(reason));
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
                let module = contents(component, end, &unchecked_range)?;
                end = module.end;
                sections.push(ModuleSection { start, module });
            }
            Payload::ComponentSection {
                unchecked_range, ..
            } => {
                let inner = contents(component, end, &unchecked_range)?;
                end = inner.end;
                if !module_sections(&component[inner], nested + 1)?.is_empty() {
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

/// Returns the range of a section's contents. The component may be cut off, which the
/// parser does not check.
fn contents(
    component: &[u8],
    start: usize,
    unchecked: &Range<u64>,
) -> Result<Range<usize>, GuardError> {
    let length = usize::try_from(unchecked.end - unchecked.start).unwrap_or(usize::MAX);
    let contents = BinaryReader::new(&component[start..], 0).read_bytes(length)?;
    Ok(start..start + contents.len())
}
