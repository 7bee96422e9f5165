//! The wasmtime engine, with Spin's settings, and the compilation of components.

use std::path::Path;

use anyhow::{Context, Result};
use wasmtime::component::{Component, Linker};
use wasmtime::{Cache, Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};
use wasmtime_wasi_http::p3::bindings::ServicePre;

use crate::dependencies::{self, Dependency, Middleware};
use crate::execution_limit;
use crate::manifest::{App, HttpTrigger, MiddlewareSource};
use crate::platform::InstanceData;

/// Instance slots of the pool. Spin's default, as all limits of the pool.
const MAX_INSTANCES: u32 = 1000;

/// Makes an engine and starts to advance its epoch.
///
/// # Errors
///
/// wasmtime's cache is misconfigured, or the machine cannot run wasmtime.
pub(crate) fn new_engine(use_cache: bool) -> Result<Engine> {
    let mut config = Config::new();
    config.wasm_component_model_async(true);
    config.epoch_interruption(true);
    if use_cache {
        config.cache(Some(Cache::from_file(None)?));
    }
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool()));
    let engine = Engine::new(&config).or_else(|error| {
        // The pool reserves terabytes of address space. Some machines and
        // containers do not grant that.
        eprintln!("Instances start slower, without a pool of slots: {error}");
        config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
        Engine::new(&config)
    })?;
    execution_limit::start_ticking(&engine);
    Ok(engine)
}

fn pool() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(MAX_INSTANCES)
        .total_memories(MAX_INSTANCES)
        .total_tables(2 * MAX_INSTANCES)
        .total_stacks(MAX_INSTANCES)
        .total_core_instances(4 * MAX_INSTANCES)
        .table_elements(100_000)
        .max_component_instance_size(10 << 20)
        .max_core_instance_size(10 << 20)
        .max_core_instances_per_component(200)
        .max_tables_per_component(64)
        .max_memories_per_component(32)
        .max_tables_per_module(2)
        .max_memories_per_module(2)
        .max_memory_size(4 << 30)
        .linear_memory_keep_resident(2 << 20)
        .table_keep_resident(1 << 19);
    pool
}

/// Composes, compiles and links the component of a trigger.
///
/// # Errors
///
/// A file cannot be read, a dependency or middleware does not fit, the dev host does
/// not have an import, or the component is no WASI 0.3 HTTP service.
pub(crate) fn load_service(
    linker: &Linker<InstanceData>,
    app: &App,
    trigger: &HttpTrigger,
) -> Result<ServicePre<InstanceData>> {
    let read = |path: &Path| {
        let path = app.folder.join(path);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let id = &trigger.component;
    let component = &app.manifest.component[id];
    let mut parts = Vec::new();
    for (name, dependency) in &component.dependencies {
        parts.push(Dependency {
            name: name.clone(),
            export: dependency.export.clone(),
            wasm: read(&dependency.path)?,
        });
    }
    let mut wrappers = Vec::new();
    for middleware in &trigger.dependencies.middleware {
        let file = match &middleware.source {
            MiddlewareSource::File(path) => path,
            MiddlewareSource::Component(id) => &app.manifest.component[id].source,
        };
        wrappers.push(Middleware {
            file: file.clone(),
            inherit: middleware.inherit.clone(),
            wasm: read(file).context("middleware")?,
        });
    }
    let wasm = dependencies::compose(id, read(&component.source)?, parts)?;
    let wasm = dependencies::wrap(id, wasm, wrappers)?;
    let component = Component::new(linker.engine(), &wasm)?;
    // Cloned, because denied imports are those of one component.
    let mut linker = linker.clone();
    dependencies::define_denied_imports(&mut linker, &component)?;
    let instance = linker
        .instantiate_pre(&component)
        .map_err(anyhow::Error::from)
        .context("an import is missing in the dev host")?;
    ServicePre::new(instance)
        .map_err(anyhow::Error::from)
        .context("no wasi:http/service of WASI 0.3.0")
}
