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

fn main() {}
