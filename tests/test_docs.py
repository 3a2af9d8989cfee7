"""The documents say what is there, and nothing else.

Tables that can be drawn from the program stand between markers and must be equal to what is drawn:
`python -m tests.test_docs` draws them anew. All else is looked up by name.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from blemish import cli, errors
from blemish.cli import VERBS
from blemish.cli._options import options_of
from blemish.cli.inspect import FIELDS as INSPECT_FIELDS
from blemish.data import LAYOUTS, Role
from blemish.evaluate import bench
from blemish.evaluate.evaluation import FIELDS as EVAL_FIELDS
from blemish.images import IMAGE_SUFFIXES, PixelFormat
from blemish.methods import method_class, method_names
from blemish.model import Calibration, Region, Verdict
from blemish.model.archive import MANIFEST, PARTS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("cli", "methods", "metrics", "model-file", "data")
BLOCK = re.compile(r"(<!-- (options|method) (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
ROOT_OPTIONS = {"--help", "--version", "--debug"}


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text("utf-8")


def section(text: str, title: str) -> str:
    found = re.search(rf"^(#+) {re.escape(title)}$\n(.*?)(?=^#{{1,2}} |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"no section {title!r}"
    return found[2]


def parameters(verb: str) -> list[Any]:
    """Without the options of the method that `fit` was asked for, which stand with the method."""
    command = cli.command(verb, ["--help"]).commands[verb]
    own = {option.name for option in options_of(method_class("reb"))} if verb == "fit" else set()
    return [parameter for parameter in command.params if parameter.name not in own]


def flags(verb: str) -> set[str]:
    return {name for parameter in parameters(verb) for name in parameter.opts if name.startswith("--")}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def drawn(kind: str, name: str) -> str:
    return draw_options(name) if kind == "options" else draw_method(name)


def draw_options(verb: str) -> str:
    rows = []
    for parameter in parameters(verb):
        [written, *_] = parameter.opts
        if parameter.param_type_name == "argument":
            written = parameter.metavar
        elif parameter.metavar:
            written = f"{written} {parameter.metavar}"
        default = parameter.default
        shown = "" if default is None or default is False or default == "" else f"`{default}`"
        if "[default: " in parameter.help:
            told, _, shown = parameter.help.rstrip("]").partition(" [default: ")
        else:
            told = parameter.help
        rows.append([f"`{written}`", shown, told])
    return table(["", "default", ""], rows)


def draw_method(name: str) -> str:
    method = method_class(name)
    options = [
        [f"`{option.flag} {option.kind}`", f"`{option.show(option.default)}`", option.told]
        for option in options_of(method)
    ]
    presets = [
        [f"`{preset}`", ", ".join(f"`{key}` {value}" for key, value in changes.items()) or "the defaults"]
        for preset, changes in method.presets.items()
    ]
    return table(["option", "default", ""], options) + "\n" + table(["preset", "what it changes"], presets)


def blocks() -> list[tuple[str, str, str, str]]:
    return [(name, found[2], found[3], found[4]) for name in PAGES for found in BLOCK.finditer(page(name))]


@pytest.mark.parametrize(("_page", "kind", "name", "text"), blocks(), ids=lambda value: value[:20])
def test_drawn_tables_are_up_to_date(_page: str, kind: str, name: str, text: str) -> None:
    assert text == drawn(kind, name), "draw it anew with `python -m tests.test_docs`"


def test_every_command_and_method_has_its_table() -> None:
    expected = {("options", verb) for verb in VERBS} | {("method", name) for name in method_names()}
    assert {(kind, name) for _, kind, name, _ in blocks()} == expected


def test_options_that_are_mentioned_exist() -> None:
    known = ROOT_OPTIONS | {flag for verb in VERBS for flag in flags(verb)}
    known |= {option.flag for name in method_names() for option in options_of(method_class(name))}
    for name in PAGES:
        assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", page(name))) <= known, name
    for verb in VERBS:
        mentioned = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", section(page("cli"), f"blemish {verb}")))
        assert mentioned <= flags(verb) | ROOT_OPTIONS, verb


def test_a_method_option_has_a_name_of_its_own() -> None:
    for name in method_names():
        assert {option.flag for option in options_of(method_class(name))}.isdisjoint(flags("fit")), name


def listed(text: str) -> set[str]:
    """What the first columns of a section's tables name."""
    return {
        name
        for cell in re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", cell)
    }


REGION = {f"regions[].{field.name}" for field in fields(Region)}
BENCH = {"schema", "records", "mean", "groups", "machine", "versions", "failed"}
FIELD_TABLES = {
    ("metrics", "A record of `inspect`"): {*INSPECT_FIELDS, *REGION},
    ("metrics", "A record of `eval` and `bench`"): set(EVAL_FIELDS),
    ("metrics", "The file of `bench`"): BENCH,
    ("data", "Layouts"): set(LAYOUTS),
    ("data", "Roles"): {str(role) for role in Role},
    ("model-file", "Parts"): {MANIFEST, *PARTS},
    ("model-file", "Calibration"): {
        *(field.name for field in fields(Calibration)),
        *("statement", "classes", "least_confidence"),
    },
    ("model-file", "Pixel format"): {field.name for field in fields(PixelFormat)},
    ("model-file", "Verdicts"): {str(verdict) for verdict in Verdict},
}


@pytest.mark.parametrize(("name", "title"), FIELD_TABLES)
def test_tables_of_fields_are_complete_and_name_nothing_else(name: str, title: str) -> None:
    assert listed(section(page(name), title)) == FIELD_TABLES[name, title]


def test_the_fields_of_a_bench_are_those_that_it_writes(tmp_path: Path) -> None:
    assert set(bench.run([], tmp_path / "bench.json", lambda job: [])) == BENCH


def test_what_must_be_told() -> None:
    data, command_line = page("data"), page("cli")
    assert {suffix for suffix in IMAGE_SUFFIXES if f"`{suffix}`" not in data} == set()
    codes = {getattr(errors, name).exit_code for name in errors.__all__}
    codes |= {0, 1, cli.OURS, cli.INTERRUPTED, cli.BROKEN_PIPE}
    assert listed(section(command_line, "Exit codes")) == {str(code) for code in codes}


if __name__ == "__main__":
    for each in PAGES:
        text = BLOCK.sub(lambda found: found[1] + drawn(found[2], found[3]) + found[5], page(each))
        (DOCS / f"{each}.md").write_text(text, "utf-8")
