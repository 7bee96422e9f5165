use functional_scaffold_algorithm::{Error, algorithm};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Deserialize, JsonSchema)]
struct Input {
    numbers: Vec<f64>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Output {
    mean: f64,
}

/// Computes the mean of numbers.
#[algorithm(budget = 20_000_000_000)] // instructions of a call, about 10 s
fn mean(Input { numbers }: Input) -> Result<Output, Error> {
    if numbers.is_empty() {
        return Err(Error::invalid_input("numbers: at least one is needed"));
    }
    let sum: f64 = numbers.iter().sum();
    let mean = sum / numbers.len() as f64;
    Ok(Output { mean })
}

#[test]
fn the_mean_of_one_two_and_six_is_three() {
    let numbers = vec![1.0, 2.0, 6.0];
    let output = mean(Input { numbers }).expect("there are numbers");
    assert_eq!(output, Output { mean: 3.0 });
}
