"""Write an algorithm as a Python function; Functional Scaffold serves it over HTTP.

A module of an algorithm has one function with the decorator `algorithm`:

    from functional_scaffold import algorithm

    @algorithm
    def word_count(text: str) -> int:
        \"\"\"Counts the words of a text.\"\"\"
        return len(text.split())

`python3 -m functional_scaffold.build` builds its component. The function stays an
ordinary function, which tests call without anything else installed.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

__all__ = ["InvalidInput", "algorithm"]

Function = TypeVar("Function", bound=Callable[..., Any])


class InvalidInput(Exception):
    """The input is wrong. The response is 422 with this message."""


@dataclass
class Registration:
    """The function of the algorithm, with what the decorator says about it."""

    function: Callable[[Any], Any]
    name: str | None
    version: str | None
    summary: str | None


registration: Registration | None = None


@overload
def algorithm(function: Function, /) -> Function: ...


@overload
def algorithm(
    *, name: str | None = None, version: str | None = None, summary: str | None = None
) -> Callable[[Function], Function]: ...


def algorithm(function=None, /, *, name=None, version=None, summary=None):
    """Declares the function that is the algorithm. It returns the function itself.

    The function has one parameter with a type annotation: a built-in type, a
    dataclass, a TypedDict, or any other type that mashumaro decodes. The JSON Schema
    of the input is derived from it, and an input that does not match is refused
    (422). The result is anything that `json.dumps` takes, and dataclasses.

    `InvalidInput` is the caller's fault (422). Any other exception is a failure
    (500).

    `name` and `version` are those of pyproject.toml unless given. `summary` is the
    first line of the docstring, else the description in pyproject.toml.
    """

    def register(function):
        global registration
        parameters = inspect.signature(function).parameters.values()
        if len(parameters) != 1 or any(p.annotation is p.empty for p in parameters):
            raise TypeError(f"{function.__name__} must have one parameter, with a type annotation")
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"{function.__name__} is async, but an execution waits for nothing")
        if registration is not None:
            first = registration.function.__name__
            raise TypeError(f"{function.__name__} is a second algorithm beside {first}")
        registration = Registration(function, name, version, summary)
        return function

    return register if function is None else register(function)
