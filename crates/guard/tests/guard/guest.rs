//! Runs core modules that export `run: (i32, i32) -> i32`, `post: (i32)` and their
//! memory.

use std::sync::LazyLock;

use functional_scaffold_guard::{GuardError, Options, guard_module};
use wasmtime::{Engine, Instance, Memory, Module, Store, Trap, TypedFunc, Val};

/// How a call ends.
#[derive(Debug, PartialEq)]
pub(crate) enum End {
    Returns(i32),
    Crashes,
    ExceedsLimit,
    /// A trap that the guard does not catch.
    Traps,
}

pub(crate) struct Guest {
    store: Store<()>,
    instance: Instance,
    run: TypedFunc<(i32, i32), i32>,
    post: TypedFunc<i32, ()>,
    memory: Memory,
}

static ENGINE: LazyLock<Engine> = LazyLock::new(Engine::default);

/// Stands for an exception that nothing catches.
const UNCAUGHT: Trap = Trap::UncaughtException;

/// Guards a module, given as text or binary.
pub(crate) fn guarded(module: &[u8], options: &Options) -> Result<Vec<u8>, GuardError> {
    let module = wat::parse_bytes(module).expect("it is a module");
    guard_module(&module, "run", "post", options)
}

impl Guest {
    pub(crate) fn new(module: &[u8]) -> Self {
        Self::try_new(module).expect("it is valid and starts")
    }

    pub(crate) fn try_new(module: &[u8]) -> wasmtime::Result<Self> {
        let module = Module::new(&ENGINE, module).expect("it is valid");
        let mut store = Store::new(&ENGINE, ());
        let instance = Instance::new(&mut store, &module, &[])?;
        let memory = instance.get_memory(&mut store, "memory");
        Ok(Self {
            run: instance.get_typed_func(&mut store, "run")?,
            post: instance.get_typed_func(&mut store, "post")?,
            memory: memory.expect("it exports its memory"),
            instance,
            store,
        })
    }

    /// Guards a module, and instantiates the result.
    pub(crate) fn guarded(module: &str, options: &Options) -> Self {
        let guarded = guarded(module.as_bytes(), options).expect("it can be guarded");
        Self::new(&guarded)
    }

    /// Calls `run` as a host does: reads the result, and releases it.
    pub(crate) fn call(&mut self, a: i32, b: i32) -> End {
        let Ok(result) = self.run((a, b)) else {
            return End::Traps;
        };
        let end = self.error_at(result);
        self.post(result).expect("post returns");
        end.unwrap_or(End::Returns(result))
    }

    pub(crate) fn run(&mut self, arguments: (i32, i32)) -> Result<i32, Trap> {
        let result = self.run.call(&mut self.store, arguments);
        result.map_err(|error| error.downcast().unwrap_or(UNCAUGHT))
    }

    pub(crate) fn post(&mut self, result: i32) -> Result<(), Trap> {
        let result = self.post.call(&mut self.store, result);
        result.map_err(|error| error.downcast().unwrap_or(UNCAUGHT))
    }

    /// The guard's error at an address.
    pub(crate) fn error_at(&self, address: i32) -> Option<End> {
        let start = usize::try_from(address.cast_unsigned()).ok()?;
        match self.memory().get(start..start.checked_add(16)?)? {
            [1, 0, 0, 0, 2, rest @ ..] if rest == [0; 11] => Some(End::Crashes),
            [1, 0, 0, 0, 3, rest @ ..] if rest == [0; 11] => Some(End::ExceedsLimit),
            _ => None,
        }
    }

    pub(crate) fn memory(&self) -> &[u8] {
        self.memory.data(&self.store)
    }

    /// An exported global, as bits.
    pub(crate) fn global(&mut self, name: &str) -> u64 {
        let global = self.instance.get_global(&mut self.store, name);
        match global.expect("it is exported").get(&mut self.store) {
            Val::I32(value) => u64::from(value.cast_unsigned()),
            Val::I64(value) => value.cast_unsigned(),
            Val::F64(bits) => bits,
            other => panic!("{name} is {other:?}"),
        }
    }
}
