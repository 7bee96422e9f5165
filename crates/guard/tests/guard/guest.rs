//! Runs core modules that export `run: (i32, i32) -> i32`, `post: (i32)` and their
//! memory.

use std::sync::LazyLock;

use functional_scaffold_guard::{GuardError, Options, guard_module};
use wasmtime::{Config, Engine, Instance, Memory, Module, Store, TypedFunc};

/// How a call ends.
#[derive(Debug, PartialEq)]
pub(crate) enum End {
    Returns(i32),
    Crashes,
    ExceedsLimit,
    /// What the guard does not catch.
    Traps,
}

pub(crate) struct Guest {
    store: Store<()>,
    run: TypedFunc<(i32, i32), i32>,
    post: TypedFunc<i32, ()>,
    memory: Memory,
}

static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let config = Config::new();
    Engine::new(&config).expect("wasmtime runs here")
});

/// Guards a module, given as text or binary.
pub(crate) fn guarded(module: &[u8], options: &Options) -> Result<Vec<u8>, GuardError> {
    let module = wat::parse_bytes(module).expect("it is a module");
    guard_module(&module, "run", "post", options)
}

impl Guest {
    pub(crate) fn new(module: &[u8]) -> Self {
        let module = Module::new(&ENGINE, module).expect("it is valid");
        let mut store = Store::new(&ENGINE, ());
        let instance = Instance::new(&mut store, &module, &[]).expect("it starts");
        Self {
            run: instance
                .get_typed_func(&mut store, "run")
                .expect("it has run"),
            post: instance
                .get_typed_func(&mut store, "post")
                .expect("it has post"),
            memory: instance
                .get_memory(&mut store, "memory")
                .expect("it has memory"),
            store,
        }
    }

    /// Guards a module, and instantiates the result.
    pub(crate) fn guarded(module: &str, options: &Options) -> Self {
        let guarded = guarded(module.as_bytes(), options).expect("it can be guarded");
        Self::new(&guarded)
    }

    /// Calls `run` as a host does: reads the result, and releases it.
    pub(crate) fn call(&mut self, a: i32, b: i32) -> End {
        let Ok(result) = self.run.call(&mut self.store, (a, b)) else {
            return End::Traps;
        };
        let end = self.error_at(result);
        self.post
            .call(&mut self.store, result)
            .expect("post returns");
        end.unwrap_or(End::Returns(result))
    }

    /// The guard's error at an address.
    fn error_at(&self, address: i32) -> Option<End> {
        let start = usize::try_from(address.cast_unsigned()).ok()?;
        let memory = self.memory.data(&self.store);
        match memory.get(start..start + 16)? {
            [1, 0, 0, 0, 2, rest @ ..] if rest == [0; 11] => Some(End::Crashes),
            [1, 0, 0, 0, 3, rest @ ..] if rest == [0; 11] => Some(End::ExceedsLimit),
            _ => None,
        }
    }

    pub(crate) fn memory(&self) -> &[u8] {
        self.memory.data(&self.store)
    }
}
