//! The longest path through a function, in instructions. It runs through each loop
//! once: further iterations are charged where they branch back.

use wasmparser::Operator;

use crate::GuardError;
use crate::module::{index, narrow};

/// Charged for an iteration besides its instructions: a loop that does nothing takes
/// as long as one with some instructions.
const ITERATION: u64 = 5;

/// Follows the operators of a function, and knows before each one how many
/// instructions the longest path to it executes.
pub(crate) struct Path {
    /// `None` where no path leads: after an unconditional branch.
    length: Option<u64>,
    /// The open blocks, the function's body first.
    blocks: Vec<Block>,
    /// The longest path to a `return`.
    returned: Option<u64>,
}

struct Block {
    kind: Kind,
    /// The longest path to its start.
    start: Option<u64>,
    /// The longest path that branches to its end.
    end: Option<u64>,
}

#[derive(PartialEq)]
enum Kind {
    Block,
    Loop,
    /// Without an `else` so far.
    If,
}

impl Path {
    pub(crate) fn new() -> Self {
        let mut path = Self {
            length: Some(0),
            blocks: Vec::new(),
            returned: None,
        };
        path.open(Kind::Block);
        path
    }

    /// How many blocks are open, the function's body included.
    pub(crate) fn depth(&self) -> u32 {
        narrow(self.blocks.len())
    }

    /// The longest path to here.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// After the last operator: the longest path through the function.
    pub(crate) fn whole(&self) -> u64 {
        self.length.max(self.returned).unwrap_or(0)
    }

    /// The cost of an iteration that ends with this operator, if it can branch back
    /// to a loop.
    pub(crate) fn iteration(&self, operator: &Operator<'_>) -> Result<Option<u64>, GuardError> {
        let mut cost = None;
        for depth in targets(operator)? {
            if let Some(Block {
                kind: Kind::Loop,
                start: Some(start),
                ..
            }) = self.blocks.get(self.position(depth))
                && let Some(length) = self.length
            {
                cost = cost.max(Some(length - start + ITERATION));
            }
        }
        Ok(cost)
    }

    /// Moves past an operator. `callee` is the cost of what it calls.
    pub(crate) fn advance(
        &mut self,
        operator: &Operator<'_>,
        callee: u64,
    ) -> Result<(), GuardError> {
        match operator {
            Operator::Block { .. } => self.open(Kind::Block),
            Operator::Loop { .. } => self.open(Kind::Loop),
            Operator::If { .. } => {
                self.add(1);
                self.open(Kind::If);
            }
            Operator::Else => {
                if let Some(block) = self.blocks.last_mut() {
                    block.kind = Kind::Block;
                    block.end = block.end.max(self.length);
                    self.length = block.start;
                }
            }
            Operator::End => {
                if let Some(block) = self.blocks.pop() {
                    self.length = self.length.max(block.end);
                    if block.kind == Kind::If {
                        self.length = self.length.max(block.start);
                    }
                }
            }
            _ => {
                self.add(callee.saturating_add(1));
                for depth in targets(operator)? {
                    let position = self.position(depth);
                    let block = self.blocks.get_mut(position);
                    if let Some(block) = block.filter(|block| block.kind != Kind::Loop) {
                        block.end = block.end.max(self.length);
                    }
                }
                if let Operator::Return = operator {
                    self.returned = self.returned.max(self.length);
                }
                if let Operator::Br { .. }
                | Operator::BrTable { .. }
                | Operator::Return
                | Operator::Unreachable = operator
                {
                    self.length = None;
                }
            }
        }
        Ok(())
    }

    fn open(&mut self, kind: Kind) {
        let start = self.length;
        self.blocks.push(Block {
            kind,
            start,
            end: None,
        });
    }

    fn add(&mut self, instructions: u64) {
        self.length = self
            .length
            .map(|length| length.saturating_add(instructions));
    }

    /// Returns the index of a label's block. The operators are valid, so there is one.
    fn position(&self, depth: u32) -> usize {
        self.blocks.len().saturating_sub(index(depth) + 1)
    }
}

/// The labels that an operator can branch to.
fn targets(operator: &Operator<'_>) -> Result<Vec<u32>, GuardError> {
    Ok(match operator {
        Operator::Br { relative_depth } | Operator::BrIf { relative_depth } => {
            vec![*relative_depth]
        }
        Operator::BrTable { targets } => {
            let mut all = targets.targets().collect::<Result<Vec<_>, _>>()?;
            all.push(targets.default());
            all
        }
        _ => Vec::new(),
    })
}
