//! Removes the names in a component, which only debuggers read: the linker strips those
//! of the program, and leaves those of the adapter and of the component's own parts, 3 %
//! of the service.
//!
//! By hand, because xtask is compiled before a user's first command does anything. The
//! formats: [modules](https://webassembly.github.io/spec/core/binary/modules.html#sections),
//! [components](https://github.com/WebAssembly/component-model/blob/main/design/mvp/Binary.md).

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

const HEADER_BYTES: usize = 8;
/// The end of a component's header; a module has version 1 and layer 0.
const COMPONENT: [u8; 4] = [0x0d, 0, 1, 0];
const CUSTOM_SECTION: u8 = 0;
/// Sections of a component that hold a module and a component.
const NESTED: [u8; 2] = [1, 4];
const NAMES: [&[u8]; 2] = [b"name", b"component-name"];

/// Replaces a component's file. Cargo keeps another link to the one that it wrote.
pub(crate) fn remove(file: &Path) -> Result<()> {
    let about = || format!("cannot strip {}", file.display());
    let wasm = fs::read(file).with_context(about)?;
    let stripped = without_names(&wasm).context("it is malformed");
    let temporary = file.with_extension("stripped");
    fs::write(&temporary, stripped.with_context(about)?).with_context(about)?;
    fs::rename(temporary, file).with_context(about)
}

/// The module or component without names, or `None` if it is malformed.
fn without_names(wasm: &[u8]) -> Option<Vec<u8>> {
    let (header, mut rest) = wasm.split_at_checked(HEADER_BYTES)?;
    let is_component = header.ends_with(&COMPONENT);
    let mut stripped = header.to_vec();
    while let Some((&id, section)) = rest.split_first() {
        let (content, next) = split_sized(section)?;
        rest = next;
        let content = match id {
            CUSTOM_SECTION if NAMES.contains(&split_sized(content)?.0) => continue,
            _ if is_component && NESTED.contains(&id) => Cow::from(without_names(content)?),
            _ => Cow::from(content),
        };
        stripped.push(id);
        push_size(&mut stripped, content.len());
        stripped.extend_from_slice(&content);
    }
    Some(stripped)
}

/// Splits what follows its size (LEB128) from the rest.
fn split_sized(mut bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut size, mut shift) = (0_usize, 0);
    loop {
        let (&byte, rest) = bytes.split_first()?;
        bytes = rest;
        size |= usize::from(byte & 0x7f).checked_shl(shift)?;
        shift += 7;
        if byte & 0x80 == 0 {
            return bytes.split_at_checked(size);
        }
    }
}

fn push_size(bytes: &mut Vec<u8>, mut size: usize) {
    loop {
        let low = size.to_le_bytes()[0] & 0x7f;
        size >>= 7;
        if size == 0 {
            return bytes.push(low);
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(id: u8, content: &[u8]) -> Vec<u8> {
        let mut section = vec![id];
        push_size(&mut section, content.len());
        [section, content.to_vec()].concat()
    }

    fn custom(name: &str, content: &[u8]) -> Vec<u8> {
        let mut named = Vec::new();
        push_size(&mut named, name.len());
        section(0, &[&named, name.as_bytes(), content].concat())
    }

    /// A component with a module and a component in it.
    fn component(names: bool) -> Vec<u8> {
        let module = b"\0asm\x01\0\0\0".to_vec();
        let header = b"\0asm\x0d\0\x01\0".to_vec();
        let name = |name| match names {
            true => custom(name, &[7; 300]),
            false => Vec::new(),
        };
        // In a module, section 1 has types and section 4 tables.
        let types = section(1, &[0; 200]);
        let module = [
            module,
            types,
            name("name"),
            section(4, &[0]),
            custom("x", b"name"),
        ];
        let inner = [header.clone(), name("component-name"), section(7, &[1])];
        let parts = [
            header,
            section(1, &module.concat()),
            section(4, &inner.concat()),
        ];
        [
            parts.concat(),
            name("component-name"),
            custom("producers", b""),
        ]
        .concat()
    }

    #[test]
    fn names_are_removed_at_every_depth_and_nothing_else() {
        assert_eq!(without_names(&component(true)), Some(component(false)));
        assert_eq!(without_names(&component(false)), Some(component(false)));
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let whole = component(true);
        assert_eq!(without_names(&whole[..7]), None);
        assert_eq!(without_names(&whole[..whole.len() - 1]), None);
        assert_eq!(without_names(&[&whole[..], &[0, 0x80]].concat()), None);
    }
}
