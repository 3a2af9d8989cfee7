"""What holds for the whole house, whatever is built in it."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import blemish
from blemish import errors
from blemish.cli import VERBS

SOURCE = Path(blemish.__file__).parent
ROOT = SOURCE.parents[1]
FILES = sorted(SOURCE.rglob("*.py"))
FLOORS = (
    "errors",
    "images",
    "data",
    "defects",
    "nets",
    "memory",
    "methods",
    "model",
    "evaluate",
    "api",
    "cli",
)
HEAVY = {
    "torch",
    "onnxruntime",
    "onnx",
    "transformers",
    "timm",
    "scipy",
    "sklearn",
    "numba",
    "jinja2",
    "rich",
}
BUILT_OF = {"demo": {"demo", "eval", "fit", "inspect"}, "bench": {"bench", "fit"}, "eval": {"eval", "fit"}}
"""Verbs that need others'."""
LONGEST = 450
QUICK, BY_NUMPY = 0.3, 3.5
"""Seconds from the start of the interpreter to its end; on a slow machine by those of an import of NumPy."""


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def floor_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(tree: ast.AST, *, only_at_top: bool = False) -> Iterator[str]:
    """Dotted names; of `from package import name` both that of the package and that below it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif only_at_top and (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        ):
            continue
        yield from imports(node, only_at_top=only_at_top)


def best_time(*command: str, enough: float, tries: int = 30) -> float:
    """Of the processor, and the best of several: other work on the machine must not count.

    Nor must NumPy's threads, which wait for work in a busy loop: with them a busy machine doubles the time.
    """
    one_thread = os.environ | {"OPENBLAS_NUM_THREADS": "1"}

    def children() -> float:
        told = os.times()
        return told.children_user + told.children_system

    best = float("inf")
    while tries and best >= enough:
        begin = children()
        subprocess.run([sys.executable, *command], check=True, capture_output=True, env=one_thread)
        best, tries = min(best, children() - begin), tries - 1
    return best


def test_public_names() -> None:
    assert blemish.__all__ == ["BlemishError", "Inspector", "Region", "Result", "Verdict", "fit", "load"]
    assert all(hasattr(blemish, name) for name in blemish.__all__)


@pytest.mark.parametrize("command", [("-c", "import blemish"), ("-m", "blemish", "--help")])
def test_start_up_is_quick(command: tuple[str, ...]) -> None:
    if best_time(*command, enough=QUICK, tries=5) >= QUICK:
        allowed = BY_NUMPY * best_time("-c", "import numpy", enough=0)
        assert best_time(*command, enough=allowed) < allowed


@pytest.mark.parametrize("arguments", [None, [], *([verb, "--help"] for verb in VERBS if verb != "fit")])
def test_start_up_imports_nothing_heavy(arguments: list[str] | None) -> None:
    script = "import sys, blemish\n"
    if arguments is not None:
        script += f"import blemish.cli\nblemish.cli.run({arguments or ['--help']})\n"
    script += "print(*sys.modules, file=sys.stderr)"
    child = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in child.stderr.split()}
    assert loaded.isdisjoint(HEAVY | ({"typer"} if arguments is None else set()))
    verbs = {name for name in VERBS if f"blemish.cli.{name}" in child.stderr.split()}
    assert verbs == (BUILT_OF.get(arguments[0], {arguments[0]}) if arguments else set())


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_folder_imports_only_what_stands_above_it(path: Path) -> None:
    floor = floor_of(path)
    if floor in ("__init__", "__main__"):
        return
    tree = ast.parse(path.read_text("utf-8"))
    used = {name.split(".")[1] for name in imports(tree) if name.startswith("blemish.")} & set(FLOORS)
    assert {name for name in used if FLOORS.index(name) > FLOORS.index(floor)} == set()


@pytest.mark.parametrize("path", FILES, ids=named)
def test_heavy_packages_are_imported_where_they_are_needed(path: Path) -> None:
    if floor_of(path) in ("nets", "memory", "methods"):
        return
    tree = ast.parse(path.read_text("utf-8"))
    assert {name.partition(".")[0] for name in imports(tree, only_at_top=True)}.isdisjoint(HEAVY)


@pytest.mark.parametrize("path", [path for path in FILES if floor_of(path) != "errors"], ids=named)
def test_errors_that_a_user_can_meet_come_from_one_tree(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    own = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base) for base in node.bases}
            assert bases.isdisjoint(errors.__all__), f"{node.name} belongs into errors.py"
            if "Exception" in bases:
                own.add(node.name)
    caught = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and node.type
        for name in ast.unparse(node.type).strip("()").split(", ")
    } | {argument for call in suppressed(tree) for argument in call}
    assert own <= caught, "an exception of a file's own must not leave it"
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
            # ValueError: what a decoder or parser says to its caller, who names the file
            assert raised in {*errors.__all__, *own, "ValueError", "NotImplementedError", "typer.Exit"}


def suppressed(tree: ast.AST) -> Iterator[list[str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "suppress":
            yield [ast.unparse(argument) for argument in node.args]


def test_every_error_has_an_exit_code() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__]
    assert all(issubclass(kind, errors.BlemishError) for kind in kinds)
    assert {kind.exit_code for kind in kinds} == {2, 3, 4}


def test_files_are_short_enough_to_be_read() -> None:
    files = [path for folder in ("src", "tests", "bench") for path in (ROOT / folder).rglob("*.py")]
    lengths = {named(path): len(path.read_text("utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}
