from pathlib import Path
from typing import Annotated, Any

import typer

from blemish.cli._places import check_file
from blemish.cli._terminal import JsonFile, describe, write_json
from blemish.model import Inspector


def info(
    model_file: Annotated[Path, typer.Argument(metavar="MODEL", help="A .blemish file.")],
    *,
    json_file: JsonFile = None,
) -> None:
    """Say what is in a model file: what it learnt from and how, its parts, what its threshold is worth."""
    check_file(json_file, model_file)
    model = Inspector.load(model_file)
    told = model.info()
    write_json(json_file, told)
    if json_file != Path("-"):
        print(f"{describe(model)}\n{model.statement}\n")
        lines = flat(told)
        width = max(len(name) for name, _ in lines)
        for name, value in lines:
            print(f"{name:<{width}}  {value}")


def flat(told: dict[str, Any], above: str = "") -> list[tuple[str, str]]:
    """`calibration.threshold` and the like, one line each."""
    lines = []
    for key, value in told.items():
        name = f"{above}{key}"
        if isinstance(value, dict):
            lines += flat(value, f"{name}.")
        elif isinstance(value, list):
            lines.append((name, ", ".join(str(item) for item in value) or "none"))
        else:
            lines.append((name, f"{value:.6g}" if isinstance(value, float) else str(value)))
    return lines
