use functional_scaffold_algorithm::algorithm;

#[algorithm]
struct NotAFunction;

#[algorithm]
async fn asynchronous(text: String) -> usize {
    text.len()
}

#[algorithm]
unsafe fn dangerous(text: String) -> usize {
    text.len()
}

#[algorithm]
fn generic<T: ToString>(input: T) -> String {
    input.to_string()
}

#[algorithm]
fn implicitly_generic(input: impl ToString) -> String {
    input.to_string()
}

#[algorithm]
fn without_input() -> usize {
    0
}

#[algorithm]
fn with_several_inputs(first: u64, second: u64) -> u64 {
    first + second
}

#[algorithm]
fn borrowing(words: Vec<&str>) -> usize {
    words.len()
}

#[algorithm]
fn borrowing_by_lifetime(text: std::borrow::Cow<'_, str>) -> usize {
    text.len()
}

fn main() {}
