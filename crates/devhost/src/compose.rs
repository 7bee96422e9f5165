//! Component dependencies: one wasm out of a component and what it imports.
//!
//! It owns which import a dependency satisfies and which of the dependency's
//! own imports are cut off from the host. Where Spin plugs those with a
//! component that denies everything, they are renamed here, to
//! `denied<n>-…`, and `denied` answers them. It does not run anything.

use anyhow::{Context, Result, bail, ensure};
use wac_graph::types::{ItemKind, Package, SubtypeChecker, WorldId};
use wac_graph::{CompositionGraph, EncodeOptions, NodeId};

/// The interfaces that Spin's deny adapter plugs, up to their minor version:
/// hosts, environment, files, stores, databases, models and variables. Clocks,
/// random numbers and stdio are not among them, nor is `wasi:sockets/types`
/// of WASI 0.3.
const DENIED: &[&str] = &[
    "fermyon:spin/",
    "spin:",
    "wasi:cli/environment@0.",
    "wasi:config/store@0.",
    "wasi:filesystem/preopens@0.",
    "wasi:http/client@0.",
    "wasi:http/outgoing-handler@0.",
    "wasi:keyvalue/store@0.",
    "wasi:sockets/ip-name-lookup@0.",
    "wasi:sockets/tcp-create-socket@0.",
    "wasi:sockets/udp-create-socket@0.",
];

/// A dependency with its wasm.
pub(crate) struct Part {
    /// As the manifest has it: `package:name`, `package:name/interface`, each
    /// with or without `@version`, or a plain name.
    pub(crate) name: String,
    pub(crate) export: Option<String>,
    pub(crate) wasm: Vec<u8>,
}

/// Joins a component with its dependencies; it may import what it did before,
/// less what they satisfy.
///
/// # Errors
///
/// A wasm is no component, a dependency satisfies no import or one that
/// another satisfies, or the types do not fit.
pub(crate) fn compose(id: &str, wasm: Vec<u8>, parts: Vec<Part>) -> Result<Vec<u8>> {
    if parts.is_empty() {
        return Ok(wasm);
    }
    let mut graph = CompositionGraph::new();
    let (world, root) = add_package(&mut graph, id, wasm)?;
    let mut satisfied: Vec<(String, String)> = Vec::new();
    for (index, part) in parts.into_iter().enumerate() {
        let imports: Vec<String> = graph.types()[world]
            .imports
            .keys()
            .filter(|import| satisfies(&part.name, import))
            .cloned()
            .collect();
        ensure!(
            !imports.is_empty(),
            "dependency '{}' doesn't match any imports of component '{id}'",
            part.name
        );
        for import in &imports {
            if let Some((_, other)) = satisfied.iter().find(|(name, _)| name == import) {
                bail!(
                    "component '{id}': import '{import}' is satisfied by dependencies '{other}' \
                     and '{}'",
                    part.name
                );
            }
            satisfied.push((import.clone(), part.name.clone()));
        }
        // Each dependency has a package name of its own: one wasm may be
        // used twice.
        let name = format!("dependency:part{index}");
        let (part_world, node) = add_package(&mut graph, &name, part.wasm)
            .with_context(|| format!("dependency '{}'", part.name))?;
        deny_imports(&mut graph, index, part_world, node)?;
        for import in imports {
            let export = part.export.as_deref().unwrap_or(&import);
            connect(
                &mut graph,
                (world, root, &import),
                (part_world, node, export),
            )
            .with_context(|| format!("dependency '{}' of component '{id}'", part.name))?;
        }
    }
    let exports: Vec<String> = graph.types()[world].exports.keys().cloned().collect();
    for name in exports {
        let export = graph.alias_instance_export(root, &name)?;
        graph.export(export, &name)?;
    }
    graph
        .encode(EncodeOptions::default())
        .with_context(|| format!("cannot compose component '{id}'"))
}

/// Whether an import's name stands for a denied interface.
pub(crate) fn is_denied(import: &str) -> bool {
    import.starts_with("denied")
}

fn add_package(
    graph: &mut CompositionGraph,
    name: &str,
    wasm: Vec<u8>,
) -> Result<(WorldId, NodeId)> {
    let package = Package::from_bytes(name, None, wasm, graph.types_mut())?;
    let world = package.ty();
    let package = graph.register_package(package)?;
    Ok((world, graph.instantiate(package)))
}

fn deny_imports(
    graph: &mut CompositionGraph,
    index: usize,
    world: WorldId,
    node: NodeId,
) -> Result<()> {
    let denied: Vec<_> = graph.types()[world]
        .imports
        .iter()
        .filter(|(name, _)| DENIED.iter().any(|denied| name.starts_with(denied)))
        .filter_map(|(name, kind)| match kind {
            ItemKind::Instance(interface) => Some((name.clone(), *interface)),
            _ => None,
        })
        .collect();
    for (name, interface) in denied {
        // Dependencies may import different parts of one interface, so its
        // denied form is another one for each.
        let denied_name = format!("denied{index}-{name}");
        // wac-graph takes interfaces of one id for the same import, whatever
        // their names: without an id of its own, this would be the host's.
        let mut interface = graph.types()[interface].clone();
        interface.id = Some(denied_name.clone());
        let interface = graph.types_mut().add_interface(interface);
        let import = graph.import(denied_name, ItemKind::Instance(interface))?;
        graph.set_instantiation_argument(node, &name, import)?;
    }
    Ok(())
}

fn connect(
    graph: &mut CompositionGraph,
    (world, node, import): (WorldId, NodeId, &str),
    (part_world, part_node, export): (WorldId, NodeId, &str),
) -> Result<()> {
    let types = graph.types();
    let import_type = types[world].imports[import];
    let export_type = *types[part_world]
        .exports
        .get(export)
        .with_context(|| format!("doesn't export '{export}' to satisfy import '{import}'"))?;
    SubtypeChecker::new(&mut Default::default())
        .is_subtype(export_type, types, import_type, types)
        .with_context(|| format!("export '{export}' is not compatible with import '{import}'"))?;
    let export = graph.alias_instance_export(part_node, export)?;
    graph.set_instantiation_argument(node, import, export)?;
    Ok(())
}

/// Whether a dependency's name in the manifest covers an import: the package
/// must be the same, interface and version where they are given.
fn satisfies(dependency: &str, import: &str) -> bool {
    fn split(name: &str) -> (&str, Option<&str>, Option<&str>) {
        let (name, version) = match name.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (name, None),
        };
        match name.split_once('/') {
            Some((package, interface)) => (package, Some(interface), version),
            None => (name, None, version),
        }
    }
    if !dependency.contains([':', '/']) {
        return dependency == import;
    }
    let (package, interface, version) = split(dependency);
    let (import_package, import_interface, import_version) = split(import);
    package == import_package
        && (interface.is_none() || interface == import_interface)
        && (version.is_none() || version == import_version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependency_names_cover_imports() {
        for (dependency, import, expected) in [
            ("foo:bar/baz@0.1.0", "foo:bar/baz@0.1.0", true),
            ("foo:bar/baz", "foo:bar/baz@0.1.0", true),
            ("foo:bar", "foo:bar/baz@0.1.0", true),
            ("foo:bar", "foo:bar/baz", true),
            ("foo:bar@0.1.0", "foo:bar/baz@0.1.0", true),
            ("foo-bar", "foo-bar", true),
            ("foo:bar/baz@0.1.0", "foo:bar/baz@0.1.1", false),
            ("foo:bar/baz@0.1.0", "foo:bar/baz", false),
            ("foo:bar/baz", "foo:bar/bub@0.1.0", false),
            ("foo:bar", "foo:bub/bib", false),
            ("foo-bar", "foo:bar/foo-bar", false),
        ] {
            assert_eq!(
                satisfies(dependency, import),
                expected,
                "{dependency} and {import}"
            );
        }
    }

    const ENVIRONMENT: &str = r#"
        (import "wasi:cli/environment@0.2.6" (instance $environment
            (export "initial-cwd" (func (result (option string))))))
        (import "wasi:cli/exit@0.2.6" (instance $exit
            (export "exit" (func (param "status" (result))))))
    "#;

    fn component(body: &str) -> Vec<u8> {
        wat::parse_str(format!("(component {ENVIRONMENT} {body})")).expect("text is well-formed")
    }

    fn main_component() -> Vec<u8> {
        component(
            r#"(import "test:algorithm/algorithm@0.1.0" (instance $algorithm
                   (export "run" (func (result (option string))))))
               (export "cwd" (func $environment "initial-cwd"))
               (export "run" (func $algorithm "run"))"#,
        )
    }

    fn algorithm(function: &str) -> Part {
        Part {
            name: "test:algorithm/algorithm@0.1.0".to_owned(),
            export: None,
            wasm: component(&format!(
                r#"(instance $algorithm (export "{function}"
                       (func $environment "initial-cwd")))
                   (export "test:algorithm/algorithm@0.1.0" (instance $algorithm))"#
            )),
        }
    }

    #[test]
    fn dependencies_are_cut_off_from_the_host() {
        let composed =
            compose("main", main_component(), vec![algorithm("run")]).expect("dependency fits");
        let mut graph = CompositionGraph::new();
        let (world, _) = add_package(&mut graph, "test:composed", composed)
            .expect("composed component is valid");
        let world = &graph.types()[world];
        let mut imports: Vec<_> = world.imports.keys().map(String::as_str).collect();
        imports.sort_unstable();
        let expected = [
            "denied0-wasi:cli/environment@0.2.6",
            "wasi:cli/environment@0.2.6",
            "wasi:cli/exit@0.2.6",
        ];
        assert_eq!(imports, expected);
        assert!(world.exports.contains_key("cwd") && world.exports.contains_key("run"));
    }

    #[test]
    fn dependencies_that_do_not_fit_are_refused() {
        let other = || Part {
            name: "test:other".to_owned(),
            ..algorithm("run")
        };
        let package = || Part {
            name: "test:algorithm".to_owned(),
            ..algorithm("run")
        };
        for (parts, expected) in [
            (vec![other()], "doesn't match any imports"),
            (vec![algorithm("walk")], "is not compatible"),
            (
                vec![algorithm("run"), package()],
                "satisfied by dependencies",
            ),
        ] {
            let error = compose("main", main_component(), parts).expect_err(expected);
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
    }

    #[test]
    fn capabilities_are_denied_and_the_rest_is_not() {
        for (import, expected) in [
            ("wasi:cli/environment@0.2.6", true),
            ("wasi:cli/environment@0.3.0", true),
            ("wasi:filesystem/preopens@0.2.12", true),
            ("wasi:http/client@0.3.0", true),
            ("spin:redis/redis@3.0.0", true),
            ("spin:variables/variables@3.0.0", true),
            ("fermyon:spin/llm@2.0.0", true),
            ("wasi:cli/exit@0.2.6", false),
            ("wasi:cli/stderr@0.2.6", false),
            ("wasi:clocks/monotonic-clock@0.2.6", false),
            ("wasi:random/random@0.2.6", false),
            ("wasi:http/types@0.3.0", false),
        ] {
            let denied = DENIED.iter().any(|denied| import.starts_with(denied));
            assert_eq!(denied, expected, "{import}");
        }
    }
}
