"""Methods by name. A method is known as soon as its file stands in this folder and registers a class."""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from math import isfinite
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from blemish.errors import UsageError
from blemish.methods._contract import Method

PRESETS = ("fast", "full", "paper")
_METHODS: dict[str, type[Method]] = {}


def register(method: type[Any]) -> type[Any]:
    _METHODS[method.name] = method
    return method


def method_names() -> list[str]:
    import blemish.methods as folder

    for module in pkgutil.iter_modules(folder.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"blemish.methods.{module.name}")
    return sorted(_METHODS)


def method_class(name: str) -> type[Method]:
    if name not in method_names():
        raise UsageError(f"There is no method {name!r}: choose among {', '.join(method_names())}.")
    return _METHODS[name]


def create(name: str, preset: str = "fast", options: Mapping[str, Any] | None = None) -> Method:
    """The method with its preset's settings, and the given options in their place."""
    method = method_class(name)
    if preset not in method.presets:
        known = ", ".join(method.presets)
        raise UsageError(f"The method {name} has no preset {preset!r}: choose among {known}.")
    known_options = [field.name for field in fields(method.Config)]
    if unknown := sorted(set(options or {}) - set(known_options)):
        raise UsageError(
            f"The method {name} has no option {unknown[0]!r}: it has {', '.join(known_options) or 'none'}."
        )
    kinds = get_type_hints(method.Config)
    for option, value in (options or {}).items():
        if not fits(value, kinds[option]):
            known = ", ".join(map(str, get_args(kinds[option])))
            raise UsageError(f"The option {option} of {name} cannot be {value!r}: it takes {known}.")
        if isinstance(value, float) and not isfinite(value):
            raise UsageError(f"The option {option} of {name} is {value}: give a finite number.")
    return method(method.Config(**{**method.presets[preset], **(options or {})}))


def fits(value: Any, kind: Any) -> bool:
    """Whether a word is among those that an option knows; numbers are the method's business."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return any(fits(value, each) for each in get_args(kind))
    return not (kind in (int, float) and isinstance(value, str))
