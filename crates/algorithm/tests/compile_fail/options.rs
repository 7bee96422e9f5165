use functional_scaffold_algorithm::algorithm;

#[algorithm(name = "Word_Count")]
fn misnamed(text: String) -> usize {
    text.len()
}

#[algorithm(names = "word-count")]
fn mistyped(text: String) -> usize {
    text.len()
}

#[algorithm(version = 2)]
fn unquoted(text: String) -> usize {
    text.len()
}

#[algorithm(budget = 0)]
fn without_a_single_instruction(text: String) -> usize {
    text.len()
}

#[algorithm(budget = -1)]
fn with_a_negative_budget(text: String) -> usize {
    text.len()
}

#[algorithm(budget = "10 s")]
fn with_a_budget_of_time(text: String) -> usize {
    text.len()
}

#[algorithm(budget = 1.5e9)]
fn with_half_an_instruction(text: String) -> usize {
    text.len()
}

#[algorithm(budget = 18_446_744_073_709_551_616)]
fn with_a_budget_above_64_bits(text: String) -> usize {
    text.len()
}

fn main() {}
