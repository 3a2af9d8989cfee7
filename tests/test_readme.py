"""What the README says is so: its numbers are the stored results', and its examples run as they stand."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from blemish.data import demo
from blemish.model import Verdict

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def python(arguments: Sequence[str], folder: Path) -> "CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def code_blocks(language: str = "") -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [text for name, text in fenced if name == language]


def commands(program: str) -> list[list[str]]:
    lines = [line for block in code_blocks() for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(f"{program} ")]


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """The folders and pictures that the examples name."""
    [gear] = demo.write(tmp_path, size=64, train=40, test_good=3, test_bad=4, products=["gear"])
    (tmp_path / "parts").mkdir()
    (gear / "train" / "good").rename(tmp_path / "parts" / "good")
    (gear / "test" / "dent").rename(tmp_path / "parts" / "bad")
    (gear / "test" / "good").rename(tmp_path / "line3")
    shutil.copy(gear / "test" / "scratch" / "000.png", tmp_path / "new.png")
    return tmp_path


def test_numbers_are_those_of_the_stored_results(tmp_path: Path) -> None:
    done = python([str(ROOT / "bench" / "figures.py"), "--check"], tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["accuracy", "speed"])
def test_another_number_is_noticed(name: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "bench", tmp_path / "bench")
    before, marker, table = README.partition(f"<!-- figures:{name} -->\n")
    number = re.search(r"\d+\.\d", table)
    assert number, "the table is empty"
    other = f"{float(number[0]) + 0.1:.1f}"
    text = before + marker + table.replace(number[0], other, 1)
    (tmp_path / "README.md").write_text(text, "utf-8")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    done = python([str(tmp_path / "bench" / "figures.py"), "--check"], tmp_path)
    assert done.returncode == 1
    assert "other numbers" in done.stderr


@pytest.mark.slow
def test_the_example_in_python_runs(parts: Path) -> None:
    [example] = code_blocks("python")
    done = python(["-c", example], parts)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) & set(Verdict)
    assert (parts / "parts.blemish").is_file()


@pytest.mark.slow
def test_the_commands_run(parts: Path) -> None:
    assert commands("blemish")
    for command in commands("blemish"):
        done = python(["-m", *command], parts)
        assert done.returncode == 0, done.stderr
    assert len(list((parts / "judged").rglob("*_heatmap.png"))) == 4
    assert (parts / "parts.html").is_file()


def test_make_knows_its_targets() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    named = {target for _, target, *_ in commands("make")} | set(re.findall(r"`make (\w+)`", README))
    assert named == {"demo", "test", "figures"}
    assert named <= set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
