//! The imports of components: WASI 0.2 and 0.3, `spin:variables` and `spin:redis`,
//! and the data of an instance that they work on.

use std::sync::Arc;

use wasmtime::component::{Accessor, HasData, Linker, ResourceTable};
use wasmtime::{Engine, Result, StoreLimits};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::component::ComponentSettings;
use crate::outbound_http::OutboundHttp;
use crate::variables::VariableError;

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
    pub(crate) limits: StoreLimits,
    pub(crate) wasi: WasiCtx,
    pub(crate) table: ResourceTable,
    pub(crate) http: WasiHttpCtx,
    pub(crate) outbound_http: OutboundHttp,
    /// Open Redis connections.
    pub(crate) redis_connections: usize,
}

/// Makes a linker with everything that a component can import.
///
/// # Errors
///
/// Two interfaces have one name, which does not happen.
pub(crate) fn linker(engine: &Engine) -> Result<Linker<InstanceData>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    variables::variables::add_to_linker::<_, Platform>(&mut linker, |data| data)?;
    redis::redis::add_to_linker::<_, Platform>(&mut linker, |data| data)?;
    Ok(linker)
}

/// Gives Spin's interfaces access to all data of an instance.
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
