from dataclasses import dataclass

from functional_scaffold import InvalidInput, algorithm


@dataclass
class Input:
    numbers: list[float]


@dataclass
class Output:
    mean: float


@algorithm
def mean(input: Input) -> Output:
    """Computes the mean of numbers."""
    if not input.numbers:
        raise InvalidInput("numbers: at least one is needed")
    return Output(sum(input.numbers) / len(input.numbers))
