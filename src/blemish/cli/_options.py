"""A method's own settings as options: named, typed and told by its Config."""

import ast
import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from importlib import import_module
from textwrap import dedent
from types import ModuleType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from blemish.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from blemish.methods import Method

__all__ = ["MethodOption", "options_of", "parse_options", "parse_size", "registry"]

SMALLEST_SIDE = 32
KINDS = {int: "INTEGER", float: "NUMBER", bool: "true|false", str: "TEXT"}
TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class MethodOption:
    name: str
    type: Any
    default: Any
    told: str

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def types(self) -> tuple[Any, ...]:
        """More than one where a number may also be a word, as in float | Literal["auto"]."""
        return get_args(self.type) if get_origin(self.type) in (Union, UnionType) else (self.type,)

    @property
    def kind(self) -> str:
        return "|".join(
            "|".join(map(str, get_args(each))) if get_origin(each) is Literal else KINDS.get(each, "A,B,…")
            for each in self.types
        )

    def show(self, value: Any) -> str:
        return (",".join(value) or "empty") if isinstance(value, tuple) else str(value)

    def parse(self, text: str) -> Any:
        for each in self.types:
            with suppress(KeyError, ValueError):
                if get_origin(each) is Literal:
                    return {str(choice): choice for choice in get_args(each)}[text]
                if each is bool:
                    return TRUTH[text.lower()]
                if get_origin(each) is tuple:
                    return tuple(part.strip() for part in text.split(",") if part.strip())
                return each(text)
        raise UsageError(f"{self.flag} takes {self.kind}, not {text!r}.")


def registry() -> ModuleType:
    try:
        return import_module("blemish.methods")
    except ImportError as error:
        raise MissingExtraError("torch", "train", "Fitting, or telling about methods,") from error


def options_of(method: type["Method"]) -> list[MethodOption]:
    told: dict[str, str] = {}
    for base in reversed(method.Config.__mro__[:-1]):
        told |= docstrings(base)
    types = get_type_hints(method.Config)
    return [
        MethodOption(field.name, types[field.name], field.default, told.get(field.name, ""))
        for field in fields(method.Config)
        if field.default is not MISSING
    ]


def docstrings(config: type) -> dict[str, str]:
    """The string under each field."""
    [tree] = ast.parse(dedent(inspect.getsource(config))).body
    assert isinstance(tree, ast.ClassDef)
    told = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match below:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    told[field.target.id] = " ".join(text.split())
    return told


def parse_options(given: Sequence[str], method: str) -> Mapping[str, Any]:
    """Of `NAME=VALUE` and `METHOD.NAME=VALUE` those that concern the method."""
    known = {option.name: option for option in options_of(registry().method_class(method))}
    parsed = {}
    for item in given:
        target, equals, value = item.partition("=")
        owner, _, name = target.rpartition(".")
        if not equals:
            raise UsageError(f"--set {item} sets nothing: write NAME=VALUE or METHOD.NAME=VALUE.")
        if owner in ("", method):
            name = name.replace("-", "_")
            if name not in known:
                raise UsageError(f"The method {method} has no option {name!r}: it has {', '.join(known)}.")
            parsed[name] = known[name].parse(value)
    return parsed


def parse_size(text: str) -> int | tuple[int, int]:
    """`256`, or `224x640`: height, width."""
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise UsageError(f"--size is {text!r}: give 256, or height and width as 224x640.")
    numbers = [int(side) for side in sides]
    if min(numbers) < SMALLEST_SIDE:
        raise UsageError(f"--size is {text!r}: give at least {SMALLEST_SIDE} pixels a side.")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])
