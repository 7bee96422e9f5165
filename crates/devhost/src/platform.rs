//! What a component instance holds and can call of the host.
//!
//! It owns the data of an instance, the linker with everything a component
//! may import (WASI 0.2 and 0.3, `spin:variables`, `spin:redis`), and the
//! variables' side of that. It does not create instances: `instance` does.

use std::sync::Arc;

use wasmtime::component::{Accessor, HasData, Linker, ResourceTable};
use wasmtime::{Engine, Result};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::allowed_hosts::AllowedHosts;
use crate::outbound_http::OutboundHttp;
use crate::variables::{VariableError, Variables};

mod bindings {
    wasmtime::component::bindgen!({
        world: "spin-platform",
        path: "wit",
        imports: { default: async },
        with: { "spin:redis/redis.connection": ::redis::aio::MultiplexedConnection },
    });
}

pub(crate) use bindings::spin::{redis, variables};

/// The data of one component instance.
pub(crate) struct InstanceData {
    pub(crate) settings: Arc<ComponentSettings>,
    pub(crate) wasi: WasiCtx,
    pub(crate) table: ResourceTable,
    pub(crate) http: WasiHttpCtx,
    pub(crate) outbound_http: OutboundHttp,
    /// How many Redis connections the instance holds.
    pub(crate) redis_connections: usize,
}

/// What all instances of a component have in common.
pub(crate) struct ComponentSettings {
    pub(crate) id: String,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) allowed_hosts: AllowedHosts,
    pub(crate) variables: Arc<Variables>,
    /// Whether what the component prints is dropped.
    pub(crate) quiet: bool,
}

impl ComponentSettings {
    /// Tells the user which address was denied and what would allow it.
    pub(crate) fn report_denied_host(&self, address: &str, scheme: &str) {
        let Some(host) = AllowedHosts::suggest(address, scheme) else {
            return;
        };
        eprintln!(
            "Component {} tried to reach {host}, which its allowed_outbound_hosts do not \
             include. To allow it, add \"{host}\" there.",
            self.id
        );
    }
}

/// Makes a linker with everything a component may import.
///
/// # Errors
///
/// None in practice: the names do not clash.
pub(crate) fn linker(engine: &Engine) -> Result<Linker<InstanceData>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    variables::variables::add_to_linker::<_, Platform>(&mut linker, |data| data)?;
    redis::redis::add_to_linker::<_, Platform>(&mut linker, |data| data)?;
    Ok(linker)
}

/// Gives Spin's interfaces the whole of an instance's data.
pub(crate) struct Platform;

impl HasData for Platform {
    type Data<'a> = &'a mut InstanceData;
}

impl WasiView for InstanceData {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for InstanceData {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.outbound_http,
        }
    }
}

impl variables::variables::Host for InstanceData {}

impl<T: Send> variables::variables::HostWithStore<T> for Platform {
    async fn get(
        accessor: &Accessor<T, Self>,
        name: String,
    ) -> std::result::Result<String, variables::variables::Error> {
        let settings = accessor.with(|mut access| Arc::clone(&access.get().settings));
        let value = settings.variables.get(&settings.id, &name);
        Ok(value?)
    }
}

impl From<VariableError> for variables::variables::Error {
    fn from(error: VariableError) -> Self {
        match error {
            VariableError::InvalidName(message) => Self::InvalidName(message),
            VariableError::Undefined(message) => Self::Undefined(message),
            VariableError::Provider(message) => Self::Provider(message),
            VariableError::InvalidTemplate(_) => Self::Other(error.to_string()),
        }
    }
}
