import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from blemish.cli import VERBS
from tests.cli.conftest import COMMAND, ENVIRONMENT, Blemish


def test_help(blemish: Blemish) -> None:
    told = blemish("--help").stdout
    for verb, line in VERBS.items():
        assert re.search(rf"^  {verb} +{line[:20]}", told, re.MULTILINE)
        assert f"Usage: blemish {verb}" in blemish(verb, "--help").stdout
    assert blemish(code=2).stdout == told
    assert re.fullmatch(r"blemish \d+\.\d+\.\d+\n", blemish("--version").stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fitt"], "There is no command 'fitt': choose among demo, fit, inspect"),
        (["--quick"], "blemish has no option --quick: it has --version, --debug."),
        (["info"], "Missing argument 'MODEL': see blemish info --help."),
        (
            ["fit", "x", "--sede", "1"],
            "blemish fit has no option --sede: it has --method, .*--alpha.*--density",
        ),
        (["fit", "x", "--method", "kn"], "There is no method 'kn': choose among .*knn.*reb"),
        (
            ["fit", "x", "--method=knn", "--alpha", "1"],
            "blemish fit has no option --alpha: it has .*--whiten",
        ),
        (["fit", "x", "--rows", "many"], "--rows takes INTEGER, not 'many'."),
        (["fit", "x", "--seed", "-1"], "--seed.* greater than or equal to 0: see blemish fit --help."),
        (["fit", "x", "--size", "8"], "--size is '8': give at least 32 pixels a side."),
        (["fit", "x", "--size", "64x"], "--size is '64x': give 256, or height and width as 224x640."),
        (["fit", "x", "--false-reject", "2"], "The false-reject budget is 2"),
        (["fit", "x", "--out", "x.onnx"], "x.onnx is no name for a model file: let it end in .blemish."),
        (
            ["inspect", "x.blemish", "x", "--heatmaps"],
            "--heatmaps needs a folder to write to: add --out DIR.",
        ),
        (["inspect", "x.blemish", "x", "--format", "xml"], "--format.*'xml' is not one of 'jsonl', 'csv'"),
        (["methods", "kn"], "There is no method 'kn': choose among .*knn.*reb"),
    ],
)
def test_usage_is_explained_in_a_sentence(blemish: Blemish, arguments: list[str], message: str) -> None:
    done = blemish(*arguments, code=2)
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert re.match(f"Error: .*{message}", line)


def test_a_traceback_is_shown_when_asked_for(blemish: Blemish) -> None:
    told = blemish("fit", "nowhere", "--debug", code=3).stderr
    assert told.startswith("Traceback")
    assert "in _read_path" in told
    assert told.endswith("\n" + blemish("fit", "nowhere", code=3).stderr)


def test_what_nobody_foresaw(blemish: Blemish, tmp_path: Path) -> None:
    # Python runs a module of this name at its start.
    (tmp_path / "sitecustomize.py").write_text("import blemish.cli._terminal as t\ndel t.json\n")
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    [line] = blemish("methods", "--json", "-", code=70, env=environment).stderr.splitlines()
    assert line.startswith("Error: something unforeseen happened (NameError: name 'json' is not defined)")
    assert "run it again with --debug" in line


def test_a_reader_that_goes_away(product: Path, model: Path) -> None:
    command = [*COMMAND, "inspect", str(model), *(str(product / "train/good") for _ in range(3))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as child:
        assert child.stdout
        assert child.stderr
        assert child.stdout.readline().startswith(b'{"image": ')
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_standard_output_that_is_full(blemish: Blemish, product: Path, model: Path) -> None:
    with Path("/dev/full").open("w") as full:
        for arguments in (["info", model], ["inspect", model, product / "test"]):
            told = blemish(
                *arguments, code=2, capture_output=False, stdout=full, stderr=subprocess.PIPE
            ).stderr
            assert re.fullmatch("Error: Standard output cannot be used .No space left.*\n", told)


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_interrupting_a_fit_leaves_nothing(product: Path, tmp_path: Path) -> None:
    import pty

    screen, terminal = pty.openpty()
    child = subprocess.Popen(
        [*COMMAND, "fit", str(product), "--size", "768"],  # so large that it is not done before it is told
        stdout=subprocess.PIPE,
        stderr=terminal,
        cwd=tmp_path,
        env=ENVIRONMENT,
        # Who runs the tests in the background ignores interruptions, and so would the child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    os.close(terminal)
    shown, sent = b"", False
    with suppress(OSError):  # how a pseudo-terminal tells its end
        while part := os.read(screen, 4096):
            shown += part  # the words may come in two parts
            if b"patch vectors" in shown and not sent:
                child.send_signal(signal.SIGINT)
                sent = True
    os.close(screen)
    assert child.communicate()[0] == b"", shown
    assert child.returncode == 130
    assert b"decoding" in shown
    assert shown.endswith(b"Interrupted\r\n")
    assert list(tmp_path.iterdir()) == []


def test_colours_only_on_a_terminal_that_wants_them(blemish: Blemish, product: Path, model: Path) -> None:
    done = blemish("eval", model, product, env={**ENVIRONMENT, "NO_COLOR": "1"})
    assert "\x1b" not in done.stdout + done.stderr
    assert "\x1b" not in blemish("methods").stdout
