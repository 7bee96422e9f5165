//! Component dependencies and middleware: composes a component with the components it
//! imports, and with those that wrap its handler. Denies them the capabilities that
//! they do not inherit.
//!
//! Spin plugs the denied imports of such a component with another, its deny adapter. Here the composition renames them to `denied<part>-…`, and the linker
//! defines functions under these names that return the adapter's results.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use wac_graph::types::{ItemKind, Package, SubtypeChecker, WorldId};
use wac_graph::{CompositionGraph, EncodeOptions, NodeId};
use wasmtime::component::types::{Case, ComponentFunc, ComponentItem, Type};
use wasmtime::component::{Component, Linker, LinkerInstance, ResourceType, Val};

use crate::capabilities::Inherit;

/// The interface of an HTTP component, which middleware imports and exports.
const HANDLER: &str = "wasi:http/handler@0.3.0";

const DENIED_PREFIX: &str = "denied";

/// A dependency, read from its file. It inherits nothing.
pub(crate) struct Dependency {
    /// As in the manifest: `package:name`, `package:name/interface`, each with or
    /// without `@version`, or a plain name.
    pub(crate) name: String,
    pub(crate) export: Option<String>,
    pub(crate) wasm: Vec<u8>,
}

/// Middleware, read from its file.
pub(crate) struct Middleware {
    pub(crate) file: PathBuf,
    pub(crate) inherit: Inherit,
    pub(crate) wasm: Vec<u8>,
}

/// Composes a component with its dependencies. The result imports what the
/// component imports and no dependency satisfies, and the dependencies' denied
/// imports.
///
/// # Errors
///
/// A wasm is no component, a dependency satisfies no import or the same import
/// as another one, or the types do not fit.
pub(crate) fn compose(id: &str, wasm: Vec<u8>, dependencies: Vec<Dependency>) -> Result<Vec<u8>> {
    if dependencies.is_empty() {
        return Ok(wasm);
    }
    let mut graph = CompositionGraph::new();
    let (world, root) = add_package(&mut graph, id, wasm)?;
    // Import and the dependency that satisfies it.
    let mut satisfied: Vec<(String, String)> = Vec::new();
    for (index, dependency) in dependencies.into_iter().enumerate() {
        let imports: Vec<String> = graph.types()[world]
            .imports
            .keys()
            .filter(|import| satisfies(&dependency.name, import))
            .cloned()
            .collect();
        ensure!(
            !imports.is_empty(),
            "dependency '{}' doesn't match any imports of component '{id}'",
            dependency.name
        );
        for import in &imports {
            if let Some((_, other)) = satisfied.iter().find(|(name, _)| name == import) {
                bail!(
                    "component '{id}': import '{import}' is satisfied by dependencies '{other}' \
                     and '{}'",
                    dependency.name
                );
            }
            satisfied.push((import.clone(), dependency.name.clone()));
        }
        // Not named after the dependency: one wasm may be used twice.
        let name = format!("dependency:part{index}");
        let (dependency_world, node) = add_package(&mut graph, &name, dependency.wasm)
            .with_context(|| format!("dependency '{}'", dependency.name))?;
        let part = index.to_string();
        rename_denied_imports(
            &mut graph,
            &part,
            dependency_world,
            node,
            &Inherit::default(),
        )?;
        for import in imports {
            let export = dependency.export.as_deref().unwrap_or(&import);
            connect(
                &mut graph,
                (world, root, &import),
                (dependency_world, node, export),
            )
            .with_context(|| format!("dependency '{}' of component '{id}'", dependency.name))?;
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

/// Composes a component with its middleware, the outermost first: each one's import of
/// a handler is the next one's export, and the last one's is the component's.
///
/// # Errors
///
/// A wasm is no component, or does not import or export the handler.
pub(crate) fn wrap(id: &str, wasm: Vec<u8>, middleware: Vec<Middleware>) -> Result<Vec<u8>> {
    if middleware.is_empty() {
        return Ok(wasm);
    }
    let mut graph = CompositionGraph::new();
    let (world, node) = add_package(&mut graph, id, wasm)?;
    ensure!(
        graph.types()[world].exports.contains_key(HANDLER),
        "cannot have middleware: it does not export {HANDLER}"
    );
    let mut inner = (world, node);
    for (index, middleware) in middleware.into_iter().enumerate().rev() {
        let file = middleware.file.display();
        let part = format!("middleware{index}");
        let (world, node) = add_package(&mut graph, &part, middleware.wasm)
            .with_context(|| format!("middleware {file}"))?;
        let types = &graph.types()[world];
        for (verb, interfaces) in [("import", &types.imports), ("export", &types.exports)] {
            ensure!(
                interfaces.contains_key(HANDLER),
                "middleware {file} does not {verb} {HANDLER}"
            );
        }
        rename_denied_imports(&mut graph, &part, world, node, &middleware.inherit)?;
        connect(
            &mut graph,
            (world, node, HANDLER),
            (inner.0, inner.1, HANDLER),
        )
        .with_context(|| format!("middleware {file}"))?;
        inner = (world, node);
    }
    let handler = graph.alias_instance_export(inner.1, HANDLER)?;
    graph.export(handler, HANDLER)?;
    let composed = graph.encode(EncodeOptions::default());
    composed.context("cannot compose it with its middleware")
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

/// `part` tells the components of a composition apart.
fn rename_denied_imports(
    graph: &mut CompositionGraph,
    part: &str,
    world: WorldId,
    node: NodeId,
    inherit: &Inherit,
) -> Result<()> {
    let denied: Vec<_> = graph.types()[world]
        .imports
        .iter()
        .filter(|(name, _)| inherit.denies(name))
        .filter_map(|(name, kind)| match kind {
            ItemKind::Instance(interface) => Some((name.clone(), *interface)),
            _ => None,
        })
        .collect();
    for (name, interface) in denied {
        // Numbered, because dependencies can import different functions of one
        // interface.
        let denied_name = format!("{DENIED_PREFIX}{part}-{name}");
        // wac-graph merges imports whose interfaces have the same id, whatever
        // their names: with its old id this would be the host's interface.
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
    (dependency_world, dependency, export): (WorldId, NodeId, &str),
) -> Result<()> {
    let types = graph.types();
    let import_type = types[world].imports[import];
    let export_type = *types[dependency_world]
        .exports
        .get(export)
        .with_context(|| format!("doesn't export '{export}' to satisfy import '{import}'"))?;
    SubtypeChecker::new(&mut Default::default())
        .is_subtype(export_type, types, import_type, types)
        .with_context(|| format!("export '{export}' is not compatible with import '{import}'"))?;
    let export = graph.alias_instance_export(dependency, export)?;
    graph.set_instantiation_argument(node, import, export)?;
    Ok(())
}

/// Returns whether a dependency's name in the manifest covers an import: the
/// packages must be equal, and the interfaces and versions if the name has them.
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

/// The type of denied resources. None is ever created.
struct Unavailable;

/// Defines the denied imports of a composed component as Spin's deny adapter
/// does: they return an empty list or `none` (no environment, no folders), an
/// error if the function can return one, and trap otherwise.
///
/// # Errors
///
/// A name is already defined.
pub(crate) fn define_denied_imports<T: 'static>(
    linker: &mut Linker<T>,
    component: &Component,
) -> wasmtime::Result<()> {
    let engine = linker.engine().clone();
    let mut known_resources = Vec::new();
    for (name, item) in component.component_type().imports(&engine) {
        let ComponentItem::ComponentInstance(instance) = item.ty else {
            continue;
        };
        let mut denied = match name.starts_with(DENIED_PREFIX) {
            true => Some(linker.instance(name)?),
            false => None,
        };
        for (export, item) in instance.exports(&engine) {
            // An interface also exports the resources it uses of others. Each
            // must be defined once, where it comes first.
            if let ComponentItem::Resource(resource) = item.ty {
                if known_resources.contains(&resource) {
                    continue;
                }
                known_resources.push(resource);
            }
            if let Some(denied) = &mut denied {
                define(denied, name, export, item.ty)?;
            }
        }
    }
    Ok(())
}

fn define<T: 'static>(
    interface: &mut LinkerInstance<'_, T>,
    interface_name: &str,
    name: &str,
    item: ComponentItem,
) -> wasmtime::Result<()> {
    match item {
        ComponentItem::Resource(_) => {
            let resource = ResourceType::host::<Unavailable>();
            interface.resource(name, resource, |_, _| Ok(()))
        }
        ComponentItem::ComponentFunc(function) => {
            let message = format!("{:?} is not permitted", original_name(interface_name));
            if function.async_() {
                interface.func_new_concurrent(name, move |_, function, arguments, results| {
                    let result = deny(&message, &function, arguments, results);
                    Box::pin(async { result })
                })
            } else {
                interface.func_new(name, move |_, function, arguments, results| {
                    deny(&message, &function, arguments, results)
                })
            }
        }
        _ => Ok(()),
    }
}

/// Returns the name of the interface before it was renamed, without its version.
fn original_name(import: &str) -> &str {
    let (_, name) = import.split_once('-').unwrap_or_default();
    name.split_once('@').map_or(name, |(name, _version)| name)
}

fn deny(
    message: &str,
    function: &ComponentFunc,
    arguments: &[Val],
    results: &mut [Val],
) -> wasmtime::Result<()> {
    let name = match arguments.first() {
        Some(Val::String(name)) => name,
        _ => "",
    };
    for (result, ty) in results.iter_mut().zip(function.results()) {
        *result = denial(message, name, &ty).ok_or_else(|| wasmtime::format_err!("{message}"))?;
    }
    Ok(())
}

fn denial(message: &str, name: &str, ty: &Type) -> Option<Val> {
    match ty {
        Type::List(_) => Some(Val::List(Vec::new())),
        Type::Option(_) => Some(Val::Option(None)),
        Type::Result(result) => {
            let error = error(message, name, &result.err()?)?;
            Some(Val::Result(Err(Some(Box::new(error)))))
        }
        _ => None,
    }
}

fn error(message: &str, name: &str, ty: &Type) -> Option<Val> {
    const CASES: [&str; 4] = ["access-denied", "undefined", "other", "internal-error"];
    match ty {
        Type::Enum(error) => {
            let case = CASES
                .iter()
                .find(|case| error.names().any(|name| name == **case))?;
            Some(Val::Enum((*case).to_owned()))
        }
        Type::Variant(error) => {
            let cases: Vec<_> = error.cases().collect();
            let case = CASES
                .iter()
                .find_map(|name| cases.iter().find(|case| case.name == *name))?;
            // `undefined` is of `spin:variables`, and carries the name.
            let text = if case.name == "undefined" {
                name
            } else {
                message
            };
            payload(text, case).map(|payload| Val::Variant(case.name.to_owned(), payload))
        }
        _ => None,
    }
}

/// Returns `Some(None)` for a case without a payload, and `None` if its payload
/// is no text.
fn payload(text: &str, case: &Case<'_>) -> Option<Option<Box<Val>>> {
    let text = Val::String(text.to_owned());
    match &case.ty {
        None => Some(None),
        Some(Type::String) => Some(Some(Box::new(text))),
        Some(Type::Option(option)) if matches!(option.ty(), Type::String) => {
            Some(Some(Box::new(Val::Option(Some(Box::new(text))))))
        }
        Some(_) => None,
    }
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

    fn algorithm(function: &str) -> Dependency {
        Dependency {
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
    fn denied_imports_of_dependencies_are_renamed() {
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
        let other = || Dependency {
            name: "test:other".to_owned(),
            ..algorithm("run")
        };
        let package = || Dependency {
            name: "test:algorithm".to_owned(),
            ..algorithm("run")
        };
        for (dependencies, expected) in [
            (vec![other()], "doesn't match any imports"),
            (vec![algorithm("walk")], "is not compatible"),
            (
                vec![algorithm("run"), package()],
                "satisfied by dependencies",
            ),
        ] {
            let error = compose("main", main_component(), dependencies).expect_err(expected);
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
    }

    /// Imports and exports a handler, as told, which needs no more than a name here.
    fn handler(imports: bool, exports: bool) -> Vec<u8> {
        let import = format!(
            r#"(import "{HANDLER}" (instance $handler (export "handle" (func (result (option string))))))"#
        );
        let own = r#"(instance $handler (export "handle" (func $environment "initial-cwd")))"#;
        let export = format!(r#"(export "{HANDLER}" (instance $handler))"#);
        let handler = if imports { &import } else { own };
        component(&format!("{handler} {}", if exports { &export } else { "" }))
    }

    fn middleware(imports: bool, exports: bool, inherit: &str) -> Middleware {
        #[derive(serde::Deserialize)]
        struct Table {
            inherit: Inherit,
        }
        let table: Table = toml::from_str(&format!("inherit = {inherit}")).expect("it is valid");
        Middleware {
            file: "a.wasm".into(),
            inherit: table.inherit,
            wasm: handler(imports, exports),
        }
    }

    #[test]
    fn middleware_keeps_the_imports_that_it_inherits() {
        for (inherit, expected) in [
            ("true", &["wasi:cli/environment@0.2.6"][..]),
            ("[\"environment\"]", &["wasi:cli/environment@0.2.6"]),
            (
                "[\"variables\", \"allowed_outbound_hosts\"]",
                &[
                    "deniedmiddleware0-wasi:cli/environment@0.2.6",
                    "deniedmiddleware1-wasi:cli/environment@0.2.6",
                    "wasi:cli/environment@0.2.6",
                ],
            ),
        ] {
            let wrappers = [(); 2].map(|()| middleware(true, true, inherit));
            let composed = wrap("main", handler(false, true), wrappers.into());
            let mut graph = CompositionGraph::new();
            let composed = composed.expect("middleware fits");
            let (world, _) = add_package(&mut graph, "test:composed", composed)
                .expect("composed component is valid");
            let world = &graph.types()[world];
            let mut imports: Vec<_> = world.imports.keys().map(String::as_str).collect();
            imports.sort_unstable();
            assert_eq!(imports, [expected, &["wasi:cli/exit@0.2.6"]].concat());
            let exports: Vec<_> = world.exports.keys().map(String::as_str).collect();
            assert_eq!(exports, [HANDLER]);
        }
    }

    #[test]
    fn middleware_that_does_not_fit_is_refused() {
        for (main, imports, exports, expected) in [
            (
                handler(false, true),
                false,
                true,
                "middleware a.wasm does not import wasi:http/handler@0.3.0",
            ),
            (
                handler(false, true),
                true,
                false,
                "middleware a.wasm does not export wasi:http/handler@0.3.0",
            ),
            (
                handler(false, false),
                true,
                true,
                "cannot have middleware: it does not export wasi:http/handler@0.3.0",
            ),
        ] {
            let wrapper = middleware(imports, exports, "true");
            let error = wrap("main", main, vec![wrapper]).expect_err(expected);
            assert_eq!(format!("{error:#}"), expected);
        }
    }

    const SOCKETS: &str = r#"
        (import "wasi:sockets/types@0.3.0" (instance $sockets
            (type $codes (variant (case "access-denied") (case "other" (option string))))
            (export "error-code" (type $code (eq $codes)))
            (type $families (enum "ipv4" "ipv6"))
            (export "ip-address-family" (type $family (eq $families)))
            (export "tcp-socket" (type $socket (sub resource)))
            (export "[static]tcp-socket.create" (func (param "address-family" $family)
                (result (result (own $socket) (error $code)))))))
        (alias export $sockets "[static]tcp-socket.create" (func $create))
    "#;

    #[test]
    fn dependencies_cannot_create_sockets_of_wasi_0_3() {
        let wasm = |text: &str| wat::parse_str(text).expect("text is well-formed");
        let main = wasm(
            r#"(component
                   (import "test:algorithm/algorithm@0.1.0" (instance $algorithm
                       (export "run" (func (result u32)))))
                   (export "run" (func $algorithm "run")))"#,
        );
        // Returns whether there was an error.
        let algorithm = wasm(&format!(
            r#"(component
                {SOCKETS}
                (core module $libc
                    (memory (export "memory") 1)
                    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                        i32.const 1024))
                (core instance $libc (instantiate $libc))
                (core func $create (canon lower (func $create) (memory (core memory $libc "memory"))
                    (realloc (core func $libc "realloc"))))
                (core module $main
                    (import "" "memory" (memory 1))
                    (import "" "create" (func $create (param i32 i32)))
                    (func (export "run") (result i32)
                        (call $create (i32.const 0) (i32.const 16))
                        (i32.load8_u (i32.const 16))))
                (core instance $main (instantiate $main (with "" (instance
                    (export "memory" (memory $libc "memory"))
                    (export "create" (func $create))))))
                (func $run (result u32) (canon lift (core func $main "run")))
                (instance $algorithm (export "run" (func $run)))
                (export "test:algorithm/algorithm@0.1.0" (instance $algorithm)))"#
        ));
        let dependency = Dependency {
            name: "test:algorithm".to_owned(),
            export: None,
            wasm: algorithm,
        };
        let composed = compose("main", main, vec![dependency]).expect("dependency fits");
        let engine = wasmtime::Engine::default();
        let component = Component::new(&engine, composed).expect("component is valid");
        let mut linker = Linker::<()>::new(&engine);
        define_denied_imports(&mut linker, &component).expect("nothing else has the names");
        let mut store = wasmtime::Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &component);
        let instance = instance.expect("every other import is denied");
        let run = instance.get_typed_func::<(), (u32,)>(&mut store, "run");
        let run = run.expect("it is exported");
        assert_eq!(run.call(&mut store, ()).expect("no trap"), (1,));
    }
}
