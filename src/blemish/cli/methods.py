import inspect
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from blemish.cli._options import options_of, registry
from blemish.cli._places import check_file
from blemish.cli._terminal import JsonFile, table, write_json


def methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A method.")] = None,
    *,
    json_file: JsonFile = None,
) -> None:
    """List the methods, or tell of one its paper, its options and what its presets change."""
    check_file(json_file)
    known = registry()
    told = [describe(known.method_class(each)) for each in ([name] if name else known.method_names())]
    write_json(json_file, told[0] if name else told)
    if json_file == Path("-"):
        return
    if name is None:
        table(
            ["method", "presets", "what it is"],
            [[each["name"], ", ".join(each["presets"]), each["about"].partition("\n")[0]] for each in told],
        )
        return
    [method] = told
    print(f"{method['about']}\n\nOptions of `blemish fit --method {name}`:")
    for option in method["options"]:
        print(f"\n  {option['flag']} {option['kind']}  [default: {option['shown']}]\n      {option['help']}")
    print("\nPresets:")
    for preset, changes in method["presets"].items():
        changed = ", ".join(f"{key} {value}" for key, value in changes.items())
        print(f"  {preset}: {changed or 'the defaults'}")


def describe(method: Any) -> dict[str, Any]:
    return {
        "name": method.name,
        "about": inspect.cleandoc(sys.modules[method.__module__].__doc__ or ""),
        "options": [
            {
                "name": option.name,
                "flag": option.flag,
                "kind": option.kind,
                "default": option.default,
                "shown": option.show(option.default),
                "help": option.told,
            }
            for option in options_of(method)
        ],
        "presets": method.presets,
    }
