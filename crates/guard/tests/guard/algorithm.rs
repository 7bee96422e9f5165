//! An algorithm component on wasmtime, with the imports that it has on a host. The
//! example `measure` uses it as well.

use anyhow::{Context as _, Result};
use wasmtime::component::{Component, Func, Linker, ResourceTable, Val};
use wasmtime::{Engine, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView, p2};

const CONTRACT: &str = "functional-scaffold:algorithm/algorithm@0.1.0";

pub(crate) struct Host {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

pub(crate) struct Algorithm {
    pub(crate) store: Store<Host>,
    run: Func,
}

impl Algorithm {
    pub(crate) fn new(engine: &Engine, wasm: &[u8]) -> Result<Self> {
        let component = Component::new(engine, wasm)?;
        let mut linker = Linker::new(engine);
        p2::add_to_linker_sync(&mut linker)?;
        let host = Host {
            wasi: WasiCtx::builder().build(),
            table: ResourceTable::new(),
        };
        let mut store = Store::new(engine, host);
        // Fails where the engine counts no instructions.
        store.set_fuel(u64::MAX).ok();
        let instance = linker.instantiate(&mut store, &component)?;
        let contract = instance.get_export_index(&mut store, None, CONTRACT);
        let run = instance.get_export_index(&mut store, contract.as_ref(), "run");
        let run = run.and_then(|run| instance.get_func(&mut store, run));
        let run = run.context("it does not export run")?;
        Ok(Self { store, run })
    }

    /// Calls `run`.
    pub(crate) fn call(&mut self, input: &str) -> Result<Val> {
        let mut results = [Val::Bool(false)];
        let input = [Val::String(input.into())];
        self.run.call(&mut self.store, &input, &mut results)?;
        let [result] = results;
        Ok(result)
    }
}
