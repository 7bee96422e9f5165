from collections import Counter
from dataclasses import dataclass

from functional_scaffold import algorithm


@dataclass
class Input:
    text: str
    top: int = 10


@dataclass
class Output:
    words: int
    most_common: list[tuple[str, int]]


@algorithm
def word_count(input: Input) -> Output:
    """Counts the words of a text, and how often the most common ones occur."""
    counts = Counter(input.text.lower().split())
    return Output(counts.total(), counts.most_common()[: input.top])
