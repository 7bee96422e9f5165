//! What a dependency gets when it asks for a capability it was not given.
//!
//! It owns the answers to the imports that `compose` renamed: nothing where
//! nothing can be told (an empty environment, no folders), an error where one
//! can, and a trap otherwise; the same as Spin's deny adapter, derived from
//! the functions' types.

use wasmtime::component::types::{Case, ComponentFunc, ComponentItem, Type};
use wasmtime::component::{Component, Linker, LinkerInstance, ResourceType, Val};
use wasmtime::{Result, format_err};

use crate::compose::is_denied;

/// Stands for resources that nobody can ever hold.
struct Unavailable;

/// Defines the denied imports of a composed component.
///
/// # Errors
///
/// A name is defined already.
pub(crate) fn add_to_linker<T: 'static>(
    linker: &mut Linker<T>,
    component: &Component,
) -> Result<()> {
    let engine = linker.engine().clone();
    let mut known_resources = Vec::new();
    for (name, item) in component.component_type().imports(&engine) {
        let ComponentItem::ComponentInstance(instance) = item.ty else {
            continue;
        };
        let mut denied = match is_denied(name) {
            true => Some(linker.instance(name)?),
            false => None,
        };
        for (export, item) in instance.exports(&engine) {
            // An interface that uses a resource of another one shows it again,
            // and only the first is to be defined.
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
) -> Result<()> {
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

/// The interface that the dependency imported, without its version.
fn original_name(import: &str) -> &str {
    let (_, name) = import.split_once('-').unwrap_or_default();
    name.split_once('@').map_or(name, |(name, _version)| name)
}

fn deny(
    message: &str,
    function: &ComponentFunc,
    arguments: &[Val],
    results: &mut [Val],
) -> Result<()> {
    let name = match arguments.first() {
        Some(Val::String(name)) => name,
        _ => "",
    };
    for (result, ty) in results.iter_mut().zip(function.results()) {
        *result = denial(message, name, &ty).ok_or_else(|| format_err!("{message}"))?;
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
            // A variable is undefined by its name.
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

/// A case without a payload has `Some(None)`, one that no text fits `None`.
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
