//! The call graph: which functions can call themselves, and what a call costs.

use wasmparser::Operator;

use crate::GuardError;
use crate::module::{Module, index};
use crate::path::Path;

/// A function whose longest path is longer than this charges it itself. The path of
/// a shorter one is charged by its callers, as if it were inlined.
const LONGEST_INLINE: u64 = 200;

/// Charged for a call of an import: a call of the host takes about as long as this
/// many instructions.
const IMPORT: u64 = 8_000;

/// Cost and effects of calling a function.
#[derive(Clone, Copy, Default)]
pub(crate) struct Call {
    /// Instructions that the caller charges.
    pub(crate) cost: u64,
    /// The callee, or what it calls, changes the count of instructions.
    pub(crate) charges: bool,
    /// The function can call itself, perhaps through others.
    pub(crate) recursive: bool,
    /// The function charges its path when it returns.
    pub(crate) charges_path: bool,
    /// The function has a loop.
    pub(crate) loops: bool,
}

/// All calls of a module.
pub(crate) struct Calls {
    functions: Vec<Call>,
    /// Of `call_indirect`, for each type.
    types: Vec<Call>,
}

impl Calls {
    pub(crate) fn new(module: &Module<'_>) -> Result<Self, GuardError> {
        let graph = Graph::new(module)?;
        let mut calls = Self {
            functions: vec![Call::default(); module.functions.len()],
            types: vec![Call::default(); module.types.len()],
        };
        for import in &mut calls.functions[..module.imports.len()] {
            import.cost = IMPORT;
        }
        for component in graph.components() {
            let recursive = match component[..] {
                [one] => graph.edges[one].contains(&one),
                _ => true,
            };
            for &node in &component {
                calls.node_mut(node).recursive = recursive;
            }
            for &node in &component {
                let call = calls.summary(module, &graph, node)?;
                *calls.node_mut(node) = call;
            }
        }
        Ok(calls)
    }

    pub(crate) fn function(&self, function: u32) -> Call {
        self.functions[index(function)]
    }

    /// The call that an operator makes.
    pub(crate) fn of(&self, operator: &Operator<'_>) -> Call {
        match operator {
            Operator::Call { function_index } => self.functions[index(*function_index)],
            Operator::CallIndirect { type_index, .. } => self.types[index(*type_index)],
            // It calls the host, even if memory does not grow in the end.
            Operator::MemoryGrow { .. } => Call {
                cost: IMPORT,
                ..Call::default()
            },
            _ => Call::default(),
        }
    }

    fn node_mut(&mut self, node: usize) -> &mut Call {
        let functions = self.functions.len();
        match node.checked_sub(functions) {
            None => &mut self.functions[node],
            Some(ty) => &mut self.types[ty],
        }
    }

    /// Summarises a node, whose callees are summarised before, unless they are
    /// recursive with it.
    fn summary(&self, module: &Module<'_>, graph: &Graph, node: usize) -> Result<Call, GuardError> {
        let imports = module.imports.len();
        if let Some(ty) = node.checked_sub(self.functions.len()) {
            let mut call = self.types[ty];
            for &target in &graph.edges[node] {
                let target = self.functions[target];
                call.cost = call.cost.max(target.cost);
                call.charges |= target.charges || target.recursive;
            }
            return Ok(call);
        }
        let mut call = self.functions[node];
        let Some(body) = node.checked_sub(imports).map(|own| &module.bodies[own]) else {
            return Ok(call);
        };
        let mut path = Path::new();
        for operator in body.get_operators_reader()? {
            let operator = operator?;
            let callee = self.of(&operator);
            call.charges |= callee.charges || callee.recursive || is_bulk(&operator);
            call.loops |= matches!(operator, Operator::Loop { .. });
            path.advance(&operator, callee.cost)?;
        }
        call.cost = path.whole();
        call.charges_path = call.recursive || call.loops || call.cost > LONGEST_INLINE;
        if call.charges_path {
            call.cost = 0;
            call.charges = true;
        }
        Ok(call)
    }
}

/// Takes time that grows with an operand.
pub(crate) fn is_bulk(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::MemoryFill { .. } | Operator::MemoryCopy { .. } | Operator::MemoryInit { .. }
    )
}

/// Functions, and after them a node for the indirect calls of each type: it leads to
/// all functions of that type that a table may hold.
struct Graph {
    edges: Vec<Vec<usize>>,
}

impl Graph {
    fn new(module: &Module<'_>) -> Result<Self, GuardError> {
        let functions = module.functions.len();
        let mut edges = vec![Vec::new(); functions + module.types.len()];
        for (body, edges) in module.bodies.iter().zip(&mut edges[module.imports.len()..]) {
            for operator in body.get_operators_reader()? {
                match operator? {
                    Operator::Call { function_index } => edges.push(index(function_index)),
                    Operator::CallIndirect { type_index, .. } => {
                        edges.push(functions + index(type_index));
                    }
                    _ => {}
                }
            }
            edges.sort_unstable();
            edges.dedup();
        }
        // Two indices may stand for the same type.
        for (ty, edges) in module.types.iter().zip(&mut edges[functions..]) {
            let targets = module.referenced.iter();
            let targets = targets.filter(|function| module.function_type(**function) == ty);
            edges.extend(targets.map(|function| index(*function)));
        }
        Ok(Self { edges })
    }

    /// The strongly connected components, callees before callers: Tarjan's algorithm,
    /// with a stack of its own because call chains can be long.
    fn components(&self) -> Vec<Vec<usize>> {
        const NEW: u32 = u32::MAX;
        let mut components = Vec::new();
        let mut order = vec![NEW; self.edges.len()];
        let mut lowest = order.clone();
        let mut is_open = vec![false; self.edges.len()];
        let mut open = Vec::new();
        let mut next = 0;
        for root in 0..self.edges.len() {
            if order[root] != NEW {
                continue;
            }
            let mut visits = vec![(root, 0)];
            while let Some((node, edge)) = visits.pop() {
                if edge == 0 {
                    order[node] = next;
                    lowest[node] = next;
                    next += 1;
                    open.push(node);
                    is_open[node] = true;
                }
                if let Some(&target) = self.edges[node].get(edge) {
                    visits.push((node, edge + 1));
                    if order[target] == NEW {
                        visits.push((target, 0));
                    } else if is_open[target] {
                        lowest[node] = lowest[node].min(order[target]);
                    }
                    continue;
                }
                if let Some(&(caller, _)) = visits.last() {
                    lowest[caller] = lowest[caller].min(lowest[node]);
                }
                if lowest[node] == order[node] {
                    let start = open.iter().rposition(|other| *other == node);
                    let component = open.split_off(start.unwrap_or(0));
                    for &member in &component {
                        is_open[member] = false;
                    }
                    components.push(component);
                }
            }
        }
        components
    }
}
