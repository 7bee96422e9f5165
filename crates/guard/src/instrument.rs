//! Guards a core module: adds the guard's own functions, and rewrites the module's.

use wasm_encoder::{
    BlockType, Catch, CodeSection, ConstExpr, Function, InstructionSink, MemArg, MemArgTarget,
    ValType,
};
use wasmparser::{Data, DataKind, ExternalKind, FuncType, Operator, ValType as Type};

use crate::calls::Calls;
use crate::module::{Additions, MARK, Module, narrow};
use crate::rewrite::{Guarded, ShadowStack};
use crate::{Budget, DEFAULT_BUDGET, GuardError, Options};

/// The custom section in which an algorithm brings its own budget.
const OWN_BUDGET: &str = "functional-scaffold-budget";

/// The proposals, by wasmparser's names, whose instructions a module may use. The rest
/// is refused: exceptions of its own, threads, tail calls, garbage collection.
const PROPOSALS: [&str; 8] = [
    "mvp",
    "bulk_memory",
    "reference_types",
    "relaxed_simd",
    "saturating_float_to_int",
    "sign_extension",
    "simd",
    "wide_arithmetic",
];

/// The pages of a 32-bit address space.
const MOST_PAGES: u32 = 65536;
const PAGE_BITS: u32 = 16;

/// The size of `result<string, error>` in memory, and its alignment here.
const AREA: u32 = 16;

/// Native stack for functions that can call themselves, in bytes of estimated frames.
/// wasmtime gives a call 512 KiB. The rest is for the service, which calls the
/// algorithm, and for functions that cannot call themselves.
const STACK: i32 = 384 << 10;

/// The part of the shadow stack that is kept for functions that cannot call
/// themselves, which do not check it.
const SHADOW_STACK_RESERVE: i32 = 16;

/// Guards a core module: what [`guard`](crate::guard) does to the module of a
/// component that implements `run`.
///
/// `run` is the name of the export, and `post_return` that of the export which the
/// host calls when it has read a result.
///
/// # Errors
///
/// The module cannot be guarded.
pub fn guard_module(
    module: &[u8],
    run: &str,
    post_return: &str,
    options: &Options,
) -> Result<Vec<u8>, GuardError> {
    instrument(&Module::parse(module)?, run, post_return, None, options)
}

/// Guards a parsed module. `reset_adapter` is an import to call when the module is
/// reset.
pub(crate) fn instrument(
    module: &Module<'_>,
    run: &str,
    post_return: &str,
    reset_adapter: Option<u32>,
    options: &Options,
) -> Result<Vec<u8>, GuardError> {
    let initial_pages = check(module)?;
    let own_run = module.exported_function(run);
    let own_run = own_run.ok_or_else(|| GuardError::NoRun(run.to_owned()))?;
    let run_type = module.function_type(own_run).clone();
    if run_type.results() != [Type::I32] {
        return Err(unsupported(format!("{run} returns no pointer")));
    }
    let own_post_return = module.exported_function(post_return);
    let budget = budget(module, options)?;
    let shadow_stack = shadow_stack(module)?;
    let area = return_area(module, initial_pages)?;
    // Without it the error stays until the next call of `run`, and the host may call
    // `cabi_realloc` before. Only the end of the shadow stack is dead that long.
    if own_post_return.is_none() && (shadow_stack.is_none() || area != AREA) {
        return Err(unsupported(format!("it does not export {post_return}")));
    }

    let mut additions = Additions::new(module);
    let nothing = FuncType::new([], []);
    let wrapper = additions.declare("guard.run", &run_type);
    let reset = additions.declare("guard.reset", &nothing);
    let release = additions.declare("guard.release", &nothing);
    let grow = additions.declare(
        "guard.memory.grow",
        &FuncType::new([Type::I32], [Type::I32]),
    );
    let tag = additions.tag(&FuncType::new([Type::I32], []));
    let mut global =
        |name, initial| additions.global(name, ValType::I32, &ConstExpr::i32_const(initial));
    let state = State {
        pages: global("guard.memory.size", initial_pages.cast_signed()),
        initial_pages,
        ended: global("guard.ended", 0),
        area: area.cast_signed(),
        stack: global("guard.stack", STACK),
        covered: additions.global("guard.covered", ValType::I64, &ConstExpr::i64_const(0)),
        budget: budget.is_some().then(|| {
            additions.global(
                "guard.budget",
                ValType::I64,
                &ConstExpr::i64_const(i64::MAX),
            )
        }),
    };
    let guarded = Guarded {
        module,
        calls: Calls::new(module)?,
        tag,
        pages: state.pages,
        grow,
        budget: state.budget,
        stack: state.stack,
        shadow_stack,
    };

    let mut bodies = CodeSection::new();
    let first = narrow(module.imports.len());
    for (function, body) in (first..).zip(&module.bodies) {
        bodies.function(&guarded.rewrite(&mut additions, function, body)?);
    }
    let mut wrapper_code = Function::new([(1, ValType::I32)]);
    let mut sink = wrapper_code.instructions();
    if own_post_return.is_none() {
        sink.call(release);
    }
    let parameters = narrow(run_type.params().len());
    state.run(&mut sink, parameters, own_run, reset, tag, budget);
    additions.define(&wrapper_code);
    let reset_code = state.reset(module, &mut additions, reset_adapter)?;
    additions.define(&reset_code);
    additions.define(&state.release());
    additions.define(&state.grow(most_pages(module, initial_pages, options)?));
    additions.replace_export(run, wrapper);
    if let Some(own) = own_post_return {
        let ty = module.function_type(own);
        let wrapper = additions.declare("guard.post_return", ty);
        additions.define(&state.post_return(narrow(ty.params().len()), own, release));
        additions.replace_export(post_return, wrapper);
    }
    additions.custom_section(MARK, mark(budget, options));
    additions.write(&bodies)
}

/// The guard's own state in the module: globals, unless stated otherwise.
struct State {
    /// The logical size of memory.
    pages: u32,
    /// A number of pages.
    initial_pages: u32,
    /// The last call of `run` ended in an error of the guard, which the host has not
    /// released.
    ended: u32,
    /// The address of that error.
    area: i32,
    /// The 8 bytes that were there before.
    covered: u32,
    /// The bytes that are left of the native stack.
    stack: u32,
    /// The instructions that are left. Outside `run` they are not limited, because
    /// nothing would catch the exception.
    budget: Option<u32>,
}

impl State {
    /// Calls `run`, and turns the guard's exception into an error.
    fn run(
        &self,
        sink: &mut InstructionSink<'_>,
        parameters: u32,
        own_run: u32,
        reset: u32,
        tag: u32,
        budget: Option<i64>,
    ) {
        let end = parameters;
        if let Some((global, budget)) = self.budget.zip(budget) {
            sink.i64_const(budget).global_set(global);
        }
        let pointer = BlockType::Result(ValType::I32);
        sink.block(pointer)
            .try_table(pointer, [Catch::One { tag, label: 0 }]);
        for parameter in 0..parameters {
            sink.local_get(parameter);
        }
        sink.call(own_run).end();
        self.lift_budget(sink);
        sink.return_().end();

        sink.local_set(end).call(reset);
        sink.i32_const(self.area)
            .i64_load(at(0))
            .global_set(self.covered);
        sink.i32_const(self.area).i32_const(1).i32_store8(at(0));
        sink.i32_const(self.area).local_get(end).i32_store8(at(4));
        sink.i32_const(1).global_set(self.ended);
        sink.i32_const(self.area).end();
    }

    /// Brings the module back to where it was after its instantiation.
    fn reset(
        &self,
        module: &Module<'_>,
        additions: &mut Additions<'_, '_>,
        adapter: Option<u32>,
    ) -> Result<Function, GuardError> {
        let mut code = Function::new([(3, ValType::I32)]);
        let mut sink = code.instructions();
        self.lift_budget(&mut sink);
        sink.i32_const(STACK).global_set(self.stack);
        if let Some(adapter) = adapter {
            sink.i32_const(0).call(adapter);
        }
        // `grow` zeroes the rest when it is used again.
        let (page, address, end) = (0, 1, 2);
        let pages = self.initial_pages.cast_signed();
        sink.i32_const(pages).local_set(end);
        zero_memory(&mut sink, page, address, end);
        sink.i32_const(pages).global_set(self.pages);
        for segment in &module.data {
            // The module's own segment is dropped once it is copied.
            if let Some((start, end)) = range(segment)?.filter(|(start, end)| start < end) {
                let copy = additions.passive_data(segment.data);
                let length = (end - start).cast_signed();
                sink.i32_const(start.cast_signed())
                    .i32_const(0)
                    .i32_const(length);
                sink.memory_init(0, copy);
            }
        }
        module.reset_globals(&mut code)?;
        let mut sink = code.instructions();
        // A component calls `_initialize` when it instantiates the module.
        let initialise = [module.start, module.exported_function("_initialize")];
        for function in initialise.into_iter().flatten() {
            sink.call(function);
        }
        sink.end();
        Ok(code)
    }

    /// Forgets the last call's error, so that the module is as new.
    fn release(&self) -> Function {
        let mut code = Function::new([]);
        let mut sink = code.instructions();
        sink.global_get(self.ended).if_(BlockType::Empty);
        sink.i32_const(0).global_set(self.ended);
        sink.i32_const(self.area)
            .global_get(self.covered)
            .i64_store(at(0));
        sink.end().end();
        code
    }

    /// Releases the last call's error, or calls the module's own function.
    fn post_return(&self, parameters: u32, own: u32, release: u32) -> Function {
        let mut code = Function::new([]);
        let mut sink = code.instructions();
        sink.global_get(self.ended).if_(BlockType::Empty);
        sink.call(release).return_().end();
        for parameter in 0..parameters {
            sink.local_get(parameter);
        }
        sink.call(own).end();
        code
    }

    /// `memory.grow` on the logical size.
    fn grow(&self, most_pages: u32) -> Function {
        let mut code = Function::new([(1, ValType::I64), (3, ValType::I32)]);
        let (by, size, page, address, end) = (0, 1, 2, 3, 4);
        let refuse = |sink: &mut InstructionSink<'_>| {
            sink.if_(BlockType::Empty).i32_const(-1).return_().end();
        };
        let mut sink = code.instructions();
        sink.global_get(self.pages).i64_extend_i32_u();
        sink.local_get(by)
            .i64_extend_i32_u()
            .i64_add()
            .local_tee(size);
        sink.i64_const(i64::from(most_pages)).i64_gt_u();
        refuse(&mut sink);
        // Memory that an earlier call grew is still there, up to `end`.
        sink.local_get(size)
            .memory_size(0)
            .local_tee(end)
            .i64_extend_i32_u()
            .i64_gt_u();
        sink.if_(BlockType::Empty);
        sink.local_get(size)
            .i32_wrap_i64()
            .local_get(end)
            .i32_sub()
            .memory_grow(0);
        sink.i32_const(-1).i32_eq();
        refuse(&mut sink);
        sink.else_()
            .local_get(size)
            .i32_wrap_i64()
            .local_set(end)
            .end();
        // It holds what that call left, or a wild pointer has written since.
        sink.global_get(self.pages).local_set(page);
        zero_memory(&mut sink, page, address, end);
        sink.global_get(self.pages);
        sink.local_get(size)
            .i32_wrap_i64()
            .global_set(self.pages)
            .end();
        code
    }

    fn lift_budget(&self, sink: &mut InstructionSink<'_>) {
        if let Some(budget) = self.budget {
            sink.i64_const(i64::MAX).global_set(budget);
        }
    }
}

/// Zeroes the memory from a page to another, which are in two locals, with a third one.
/// Of the 4 GiB that a call may have allocated it has seldom written much, and a host
/// page that is only read costs the host no memory.
fn zero_memory(sink: &mut InstructionSink<'_>, page: u32, address: u32, end: u32) {
    const HOST_PAGE_BITS: u32 = 12;
    const STRIDE: u8 = 64;
    for local in [page, end] {
        let bits = (PAGE_BITS - HOST_PAGE_BITS).cast_signed();
        sink.local_get(local)
            .i32_const(bits)
            .i32_shl()
            .local_set(local);
    }
    sink.block(BlockType::Empty).loop_(BlockType::Empty);
    sink.local_get(page).local_get(end).i32_ge_u().br_if(1);
    let start = |sink: &mut InstructionSink<'_>| {
        let bits = HOST_PAGE_BITS.cast_signed();
        sink.local_get(page).i32_const(bits).i32_shl();
    };
    start(sink);
    sink.local_set(address).loop_(BlockType::Empty);
    sink.local_get(address).i64_load(at(0));
    for offset in (8..STRIDE).step_by(8).map(u64::from) {
        sink.local_get(address).i64_load(at(offset)).i64_or();
    }
    sink.i64_eqz().if_(BlockType::Empty);
    sink.local_get(address)
        .i32_const(i32::from(STRIDE))
        .i32_add()
        .local_tee(address)
        .i32_const((1 << HOST_PAGE_BITS) - 1)
        .i32_and()
        .br_if(1)
        .else_();
    start(sink);
    sink.i32_const(0)
        .i32_const(1 << HOST_PAGE_BITS)
        .memory_fill(0)
        .end()
        .end();
    sink.local_get(page)
        .i32_const(1)
        .i32_add()
        .local_set(page)
        .br(0)
        .end()
        .end();
}

fn at(offset: u64) -> MemArg {
    MemArg {
        offset,
        align: 0,
        target: MemArgTarget::default(),
        ordering: None,
    }
}

/// Refuses what a reset would not restore. Returns the pages of the initial memory.
fn check(module: &Module<'_>) -> Result<u32, GuardError> {
    if module.imports_table || module.imports_mutable_global {
        return Err(unsupported("it imports a table or a mutable global"));
    }
    let mut exports = module.exports.iter();
    if let Some(table) = exports.find(|export| export.kind == ExternalKind::Table) {
        return Err(unsupported(format!("it exports a table: {}", table.name)));
    }
    if module.has_tags {
        return Err(unsupported("it has exceptions of its own"));
    }
    // Only calls that name it throw. The others would return: the reset of the adapter
    // takes its place.
    if module.reachable().any(|function| module.exits(function)) {
        return Err(unsupported("it exports `exit`, or has it in a table"));
    }
    for body in &module.bodies {
        for operator in body.get_operators_reader()? {
            check_operator(module, &operator?)?;
        }
    }
    let [memory] = module.memories[..] else {
        return Err(unsupported("it does not have one memory of its own"));
    };
    if module.imports_memory || memory.memory64 || memory.shared || memory.page_size_log2.is_some()
    {
        return Err(unsupported(
            "its memory is imported, shared, or not of 32 bits",
        ));
    }
    u32::try_from(memory.initial)
        .map_err(|error| unsupported(format!("its memory is too large: {error}")))
}

fn check_operator(module: &Module<'_>, operator: &Operator<'_>) -> Result<(), GuardError> {
    let proposal = proposal(operator);
    if !PROPOSALS.contains(&proposal) {
        return Err(unsupported(format!("it uses {proposal}: {operator:?}")));
    }
    match operator {
        Operator::Call { function_index } if !module.has_function(*function_index) => Err(
            unsupported(format!("there is no function {function_index}")),
        ),
        Operator::CallIndirect { type_index, .. } if !module.has_type(*type_index) => {
            Err(unsupported(format!("there is no type {type_index}")))
        }
        Operator::TableSet { .. }
        | Operator::TableGrow { .. }
        | Operator::TableFill { .. }
        | Operator::TableCopy { .. }
        | Operator::TableInit { .. } => {
            Err(unsupported(format!("it changes a table: {operator:?}")))
        }
        Operator::ElemDrop { .. } | Operator::DataDrop { .. } => {
            Err(unsupported(format!("it drops a segment: {operator:?}")))
        }
        _ => Ok(()),
    }
}

macro_rules! define_proposal {
    ($(@$proposal:ident $operator:ident $({ $($field:ident: $type:ty),* })? => $($rest:tt $list:tt)?)*) => {
        /// The proposal that an operator comes from.
        fn proposal(operator: &Operator<'_>) -> &'static str {
            match operator {
                $(Operator::$operator $({ $($field: _),* })? => stringify!($proposal),)*
                _ => "an unknown proposal",
            }
        }
    };
}

wasmparser::for_each_operator!(define_proposal);

fn unsupported(reason: impl Into<String>) -> GuardError {
    GuardError::Unsupported(reason.into())
}

/// How far memory may grow, in pages.
fn most_pages(module: &Module<'_>, initial: u32, options: &Options) -> Result<u32, GuardError> {
    let own = module.memories.first().and_then(|memory| memory.maximum);
    let own = own.map_or(MOST_PAGES, |pages| {
        u32::try_from(pages).unwrap_or(MOST_PAGES)
    });
    let Some(bytes) = options.max_memory else {
        return Ok(own);
    };
    let pages = u32::try_from(bytes >> PAGE_BITS).unwrap_or(MOST_PAGES);
    if pages < initial {
        let initial = u64::from(initial) << PAGE_BITS;
        return Err(GuardError::MaxMemory {
            max_memory: bytes,
            initial,
        });
    }
    Ok(own.min(pages))
}

/// The budget of a call.
fn budget(module: &Module<'_>, options: &Options) -> Result<Option<i64>, GuardError> {
    let instructions = match (options.budget, module.custom_section(OWN_BUDGET)) {
        (Budget::Unlimited, _) => return Ok(None),
        (Budget::Instructions(instructions), _) => instructions,
        (Budget::Default, None) => DEFAULT_BUDGET,
        (Budget::Default, Some(section)) => match section.try_into() {
            Ok(bytes) => u64::from_le_bytes(bytes),
            Err(_) => return Err(GuardError::OwnBudget(section.len())),
        },
    };
    Ok(Some(i64::try_from(instructions).unwrap_or(i64::MAX)))
}

/// The first and the last address of a data segment, or `None` of a passive one.
fn range(segment: &Data<'_>) -> Result<Option<(u32, u32)>, GuardError> {
    let DataKind::Active { offset_expr, .. } = &segment.kind else {
        return Ok(None);
    };
    let mut operators = offset_expr.get_operators_reader();
    let (start, end) = (operators.read()?, operators.read()?);
    let (Operator::I32Const { value }, Operator::End) = (start, end) else {
        return Err(unsupported("the address of its data is computed"));
    };
    let start = value.cast_unsigned();
    let end = start.checked_add(narrow(segment.data.len()));
    let end = end.ok_or_else(|| unsupported("its data is larger than its memory"))?;
    Ok(Some((start, end)))
}

/// An address for the guard's errors that no data covers. The first ones are at the end
/// of the shadow stack, or below all data. Others may be variables or the heap, so what
/// an error covers is put back.
fn return_area(module: &Module<'_>, initial_pages: u32) -> Result<u32, GuardError> {
    let mut ranges = Vec::new();
    for segment in &module.data {
        ranges.extend(range(segment)?);
    }
    ranges.sort_unstable();
    let mut area = AREA;
    for (start, end) in ranges {
        if start < area + AREA && area < end {
            area = end.next_multiple_of(AREA);
        }
    }
    let size = u64::from(initial_pages) << PAGE_BITS;
    match u64::from(area) + u64::from(AREA) <= size {
        true => Ok(area),
        false => Err(unsupported("its data fills its memory")),
    }
}

/// Finds the shadow stack by the linker's conventions: its pointer is the first
/// global, and it ends where the data begins.
fn shadow_stack(module: &Module<'_>) -> Result<Option<ShadowStack>, GuardError> {
    let Some(pointer) = module.globals.first() else {
        return Ok(None);
    };
    let initial = match pointer.init_expr.get_operators_reader().read()? {
        Operator::I32Const { value } if pointer.ty.mutable => value,
        _ => return Ok(None),
    };
    let mut lowest_data = None;
    for segment in &module.data {
        // A passive one has no address.
        if let Some((start, _)) = range(segment)? {
            lowest_data = Some(lowest_data.map_or(start, |lowest: u32| lowest.min(start)));
        }
    }
    let is_stack = initial >= 1024 && lowest_data == Some(initial.cast_unsigned());
    Ok(is_stack.then_some(ShadowStack {
        pointer: module.imported_globals,
        lowest: initial / SHADOW_STACK_RESERVE,
    }))
}

/// Returns the text of the custom section that describes the guard and its settings.
fn mark(budget: Option<i64>, options: &Options) -> Vec<u8> {
    let text = |number: Option<String>| number.unwrap_or_else(|| "none".to_owned());
    let budget = text(budget.map(|budget| budget.to_string()));
    let max_memory = text(options.max_memory.map(|bytes| bytes.to_string()));
    let version = env!("CARGO_PKG_VERSION");
    format!("version {version}, budget {budget}, max-memory {max_memory}").into_bytes()
}
