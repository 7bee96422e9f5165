"""The component around an algorithm: implements wit/algorithm.wit.

componentize-py imports this module when it builds the component, and keeps the state
of the interpreter after that. So the algorithm's module, its schema and its decoder
are loaded once, at build time.
"""

import dataclasses
import enum
import importlib
import inspect
import json
import re
import sys
import tomllib
import traceback
import typing
from pathlib import Path

import fastjsonschema
import functional_scaffold
from componentize_py_types import Err
from functional_scaffold import InvalidInput
from functional_scaffold.modules import KeptModules
from mashumaro.codecs import BasicDecoder
from mashumaro.jsonschema import build_json_schema
from wit_world import exports
from wit_world.exports.algorithm import Description, Error_Failed, Error_InvalidInput


def load():
    """Imports the algorithm's module. It has the name of the project, unless
    pyproject.toml names another one.
    """
    files = (Path(folder, "pyproject.toml") for folder in sys.path)
    file = next(file for file in files if file.is_file())
    settings = tomllib.loads(file.read_text())
    project = settings["project"]
    own = settings.get("tool", {}).get("functional-scaffold", {})
    module = own.get("module", project["name"].replace("-", "_"))
    importlib.import_module(module)
    registration = functional_scaffold.registration
    if registration is None:
        raise TypeError(f"no function in {module}.py has the decorator @algorithm")
    return project, registration


def describe(project, registration, schema):
    name = registration.name or project["name"]
    if not re.fullmatch("[a-z][a-z0-9-]{0,63}", name):
        raise ValueError(f"the name {name!r} does not match [a-z][a-z0-9-]{{0,63}}")
    docstring = inspect.getdoc(registration.function) or project.get("description", "")
    return Description(
        name=name,
        version=registration.version or project["version"],
        summary=registration.summary or docstring.partition("\n")[0],
        input_schema=json.dumps(schema),
    )


def for_validator(schema):
    """fastjsonschema knows draft 7, where `prefixItems` is a list of `items`."""
    match schema:
        case dict():
            renamed = {"prefixItems": "items"}
            return {
                renamed.get(key, key) if isinstance(value, list) else key: for_validator(value)
                for key, value in schema.items()
            }
        case list():
            return [for_validator(item) for item in schema]
    return schema


PROJECT, ALGORITHM = load()
TYPE = next(iter(typing.get_type_hints(ALGORITHM.function, include_extras=True).values()))
SCHEMA = build_json_schema(TYPE).to_dict()
DESCRIPTION = describe(PROJECT, ALGORITHM, SCHEMA)
VALIDATE = fastjsonschema.compile(for_validator(SCHEMA), use_default=False)
DECODE = BasicDecoder(TYPE).decode
sys.meta_path.append(KeptModules(folder for folder in sys.path if Path(folder).is_dir()))


class Algorithm(exports.Algorithm):
    def describe(self):
        return DESCRIPTION

    def run(self, input):
        try:
            return encode(ALGORITHM.function(decode(input)))
        except InvalidInput as error:
            raise Err(Error_InvalidInput(one_line(error))) from None
        # An uncaught exception, sys.exit() among them, would end the instance.
        except BaseException as error:
            log("".join(traceback.format_exception(error)))
            raise Err(Error_Failed(one_line(*traceback.format_exception_only(error)))) from None


def decode(text):
    try:
        value = json.loads(text)
        # A lone surrogate is no text: it would fail wherever it is encoded.
        if r"\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidInput(one_line(error)) from error
    try:
        VALIDATE(value)
    except fastjsonschema.JsonSchemaValueException as error:
        path = error.name.removeprefix("data").removeprefix(".")
        message = error.message.removeprefix(error.name).lstrip()
        where = f"{path}: " if path else ""
        value = shorten(json.dumps(error.value, ensure_ascii=False))
        raise InvalidInput(f"{where}{message}: {value}") from error
    try:
        return DECODE(value)
    except Exception as error:
        raise InvalidInput(one_line(error)) from error


def encode(result):
    try:
        text = json.dumps(result, allow_nan=False, ensure_ascii=False, default=plain)
        text.encode()
        return text
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"the result is not JSON: {one_line(error)}") from error


def plain(value):
    """What JSON has for a value that it does not have."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    raise TypeError(f"{type(value).__name__} {shorten(repr(value))}")


def log(text):
    """Writes lines to the host's log. A message can hold a client's text: with a prefix,
    no line of it passes for one of the service."""
    for line in text.splitlines():
        print(f"{DESCRIPTION.name}: {line}", file=sys.stderr)


def shorten(text):
    return text if len(text) <= 100 else f"{text[:100]}…"


def one_line(error):
    text = " ".join(str(error).split())
    return text.encode(errors="replace").decode()
