//! Rewrites the code of a function: what traps throws, what can repeat is counted,
//! and memory has a logical size. All other instructions are copied.

use wasm_encoder::{BlockType, Function, InstructionSink, ValType};
use wasmparser::{FunctionBody, Operator};

use crate::GuardError;
use crate::calls::{self, Call, Calls};
use crate::module::{Additions, Module, narrow, val_type};
use crate::path::Path;

/// How a guarded call ends early: the payload of the exception, and the case of the
/// contract's error.
pub(crate) const CRASHED: i32 = 2;
pub(crate) const LIMIT_EXCEEDED: i32 = 3;

/// How many locals a function may have, parameters included, as in all engines.
const MOST_LOCALS: u32 = 50_000;

/// Bulk operations handle 16 bytes in the time of an instruction, or more.
const BULK_SHIFT: i64 = 4;

/// Functions and globals that the guarded functions use.
pub(crate) struct Guarded<'m, 'a> {
    pub(crate) module: &'m Module<'a>,
    pub(crate) calls: Calls,
    /// The tag of the guard's exception.
    pub(crate) tag: u32,
    /// Global: the logical size of memory, in pages.
    pub(crate) pages: u32,
    /// Function: grows the memory.
    pub(crate) grow: u32,
    /// Global: the instructions that are left, if they are counted.
    pub(crate) budget: Option<u32>,
    /// Global: the bytes of native stack that are left for functions that can call
    /// themselves.
    pub(crate) stack: u32,
    /// The shadow stack, if the module has one at the bottom of its memory.
    pub(crate) shadow_stack: Option<ShadowStack>,
}

/// The stack in memory of compiled code, which grows down to address 0.
#[derive(Clone, Copy)]
pub(crate) struct ShadowStack {
    /// Global.
    pub(crate) pointer: u32,
    /// The lowest address for functions that can call themselves.
    pub(crate) lowest: i32,
}

impl Guarded<'_, '_> {
    /// Ends the call of `run`.
    pub(crate) fn throw(&self, sink: &mut InstructionSink<'_>, end: i32) {
        sink.i32_const(end).throw(self.tag);
    }

    /// Rewrites a function of the module.
    pub(crate) fn rewrite(
        &self,
        additions: &mut Additions<'_, '_>,
        function: u32,
        body: &FunctionBody<'_>,
    ) -> Result<Function, GuardError> {
        Rewriter::new(self, additions, function, body)?.rewrite(body)
    }
}

struct Rewriter<'g, 'm, 'a> {
    guarded: &'g Guarded<'m, 'a>,
    call: Call,
    /// The block that holds the function's own body, if something follows it.
    body_block: Option<BlockType>,
    /// Local: the instructions that are left. In a function without loops it only
    /// holds the value for a moment.
    left: u32,
    /// Local: the length of a bulk operation.
    length: u32,
    /// An estimate of the function's native frame, in bytes.
    frame: i32,
    code: Function,
}

impl<'g, 'm, 'a> Rewriter<'g, 'm, 'a> {
    fn new(
        guarded: &'g Guarded<'m, 'a>,
        additions: &mut Additions<'_, '_>,
        function: u32,
        body: &FunctionBody<'_>,
    ) -> Result<Self, GuardError> {
        let ty = guarded.module.function_type(function);
        let mut locals = Vec::new();
        let mut count = narrow(ty.params().len());
        // The caller passes a parameter on its stack, and the function keeps a copy.
        let mut slots: u32 = ty.params().iter().map(|ty| 2 * self::slots(*ty)).sum();
        for run in body.get_locals_reader()? {
            let (length, ty) = run?;
            locals.push((length, val_type(ty)?));
            let sum = count.checked_add(length);
            let sum = sum.filter(|sum| *sum <= MOST_LOCALS);
            count = sum.ok_or_else(|| {
                GuardError::Unsupported(format!("function {function} has too many locals"))
            })?;
            slots += length * self::slots(ty);
        }
        locals.push((1, ValType::I64));
        locals.push((1, ValType::I32));

        let call = guarded.calls.function(function);
        let counts = guarded.budget.is_some() && call.charges;
        let body_block = (call.recursive || counts).then(|| match ty.results() {
            [] => Ok::<_, GuardError>(BlockType::Empty),
            [one] => Ok(BlockType::Result(val_type(*one)?)),
            more => {
                let block = wasmparser::FuncType::new([], more.iter().copied());
                Ok(BlockType::FunctionType(additions.ty(&block)))
            }
        });
        Ok(Self {
            guarded,
            call,
            body_block: body_block.transpose()?,
            left: count,
            length: count + 1,
            frame: frame(slots),
            code: Function::new(locals),
        })
    }

    fn rewrite(mut self, body: &FunctionBody<'_>) -> Result<Function, GuardError> {
        if let Some(body_block) = self.body_block {
            // Branches out of the outer block throw.
            self.sink().block(BlockType::Empty).block(body_block);
            self.enter();
        }
        let bytes = body.as_bytes();
        let mut path = Path::new();
        let mut operators = body.get_operators_reader()?;
        let mut start = operators.original_position();
        while !operators.eof() {
            let operator = operators.read()?;
            let end = operators.original_position();
            let offset = |position| usize::try_from(position - body.range().start).ok();
            let range = offset(start).zip(offset(end));
            let raw = range.and_then(|(start, end)| bytes.get(start..end));
            self.operator(&operator, &path, raw.unwrap_or_default())?;
            path.advance(&operator, self.guarded.calls.of(&operator).cost)?;
            if path.depth() == 0 && self.body_block.is_some() {
                self.leave(path.length().unwrap_or(0), 0);
                self.sink().return_().end();
                self.guarded
                    .throw(&mut self.code.instructions(), LIMIT_EXCEEDED);
                self.sink().end();
            }
            start = end;
        }
        Ok(self.code)
    }

    /// Writes an operator of the function's own, given as bytes, too, or what takes
    /// its place.
    fn operator(
        &mut self,
        operator: &Operator<'_>,
        path: &Path,
        raw: &[u8],
    ) -> Result<(), GuardError> {
        let guarded = self.guarded;
        match operator {
            Operator::Unreachable => {
                guarded.throw(&mut self.sink(), CRASHED);
                return Ok(());
            }
            Operator::Call { function_index } if guarded.module.exits(*function_index) => {
                guarded.throw(&mut self.sink(), CRASHED);
                return Ok(());
            }
            Operator::MemorySize { .. } => {
                self.sink().global_get(guarded.pages);
                return Ok(());
            }
            Operator::MemoryGrow { .. } => {
                self.sink().call(guarded.grow);
                return Ok(());
            }
            Operator::Return if self.body_block.is_some() => {
                self.leave(path.length().map_or(0, |length| length + 1), path.depth());
            }
            _ => {}
        }
        let Some(budget) = guarded.budget.filter(|_| self.call.charges) else {
            self.code.raw(raw.iter().copied());
            self.check_shadow_stack(operator, path.depth());
            return Ok(());
        };
        if let Some(cost) = path.iteration(operator)? {
            self.get_left(budget);
            self.sink().i64_const(constant(cost)).i64_sub();
            self.store_and_check(path.depth());
        }
        if calls::is_bulk(operator) {
            self.charge_length(budget);
        }
        let callee = guarded.calls.of(operator);
        let synchronises = self.call.loops && callee.charges;
        if synchronises {
            self.get_local_left();
            self.sink().global_set(budget);
        }
        self.code.raw(raw.iter().copied());
        if synchronises {
            let left = self.left;
            self.sink().global_get(budget).local_set(left);
        }
        self.check_shadow_stack(operator, path.depth());
        Ok(())
    }

    fn sink(&mut self) -> InstructionSink<'_> {
        self.code.instructions()
    }

    /// At the start of the function.
    fn enter(&mut self) {
        let (stack, frame, value) = (self.guarded.stack, self.frame, self.length);
        if self.call.recursive {
            let mut sink = self.sink();
            sink.global_get(stack)
                .i32_const(frame)
                .i32_sub()
                .local_tee(value)
                .global_set(stack);
            sink.local_get(value).i32_const(0).i32_lt_s().br_if(1);
        }
        let left = self.left;
        if let Some(budget) = self.guarded.budget.filter(|_| self.call.loops) {
            self.sink().global_get(budget).local_set(left);
        }
    }

    /// Emits the accounting at a return, at the end of a path of this length.
    fn leave(&mut self, length: u64, depth: u32) {
        if let Some(budget) = self.guarded.budget.filter(|_| self.call.charges_path) {
            self.get_left(budget);
            self.sink().i64_const(constant(length)).i64_sub();
            // Without loops, too: functions that call the next one twice each are an
            // endless amount of work.
            self.store_and_check(depth);
            self.get_local_left();
            self.sink().global_set(budget);
        }
        if self.call.recursive {
            let (stack, frame) = (self.guarded.stack, self.frame);
            self.sink()
                .global_get(stack)
                .i32_const(frame)
                .i32_add()
                .global_set(stack);
        }
    }

    /// Pushes the instructions that are left.
    fn get_left(&mut self, budget: u32) {
        match self.call.loops {
            true => self.get_local_left(),
            false => {
                self.sink().global_get(budget);
            }
        }
    }

    fn get_local_left(&mut self) {
        let left = self.left;
        self.sink().local_get(left);
    }

    /// Keeps the number on the stack as what is left, and throws if it is negative.
    fn store_and_check(&mut self, depth: u32) {
        let left = self.left;
        self.sink()
            .local_tee(left)
            .i64_const(0)
            .i64_lt_s()
            .br_if(depth);
    }

    /// Charges a bulk operation, whose length is on the stack. The next branch back to
    /// a loop checks what is left: one operation takes less than a second.
    fn charge_length(&mut self, budget: u32) {
        let (left, length) = (self.left, self.length);
        self.sink().local_tee(length);
        self.get_left(budget);
        let mut sink = self.sink();
        sink.local_get(length)
            .i64_extend_i32_u()
            .i64_const(BULK_SHIFT)
            .i64_shr_u()
            .i64_sub();
        if self.call.loops {
            self.sink().local_set(left);
        } else {
            self.sink().global_set(budget);
        }
    }

    /// After a change of the shadow stack's pointer: throws if that is below its end.
    fn check_shadow_stack(&mut self, operator: &Operator<'_>, depth: u32) {
        if let Operator::GlobalSet { global_index } = operator
            && let Some(ShadowStack { pointer, lowest }) = self.guarded.shadow_stack
            && *global_index == pointer
            && self.call.recursive
        {
            self.sink()
                .global_get(pointer)
                .i32_const(lowest)
                .i32_lt_s()
                .br_if(depth);
        }
    }
}

/// A cost as a signed number. No budget is larger.
fn constant(cost: u64) -> i64 {
    i64::try_from(cost).unwrap_or(i64::MAX)
}

/// How many slots of 8 bytes a value takes.
fn slots(ty: wasmparser::ValType) -> u32 {
    match ty {
        wasmparser::ValType::V128 => 2,
        _ => 1,
    }
}

/// An estimate of a function's native frame, in bytes: its slots, and some more for the saved registers and for values on the operand stack.
fn frame(slots: u32) -> i32 {
    i32::try_from(8 * (u64::from(slots) + 12)).unwrap_or(i32::MAX)
}
