import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from blemish.data import demo

Blemish = Callable[..., "CompletedProcess[str]"]
SMALL = ("--size", "64", "--rows", "50")
"""A fit that takes a second or two."""
COMMAND = (sys.executable, "-m", "blemish")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def blemish(tmp_path: Path) -> Blemish:
    """The real command in a real process, in a folder of its own."""

    def run(*arguments: str | Path, code: int = 0, **options: object) -> "CompletedProcess[str]":
        done = subprocess.run(  # type: ignore[call-overload]
            [*COMMAND, *map(str, arguments)],
            **{"cwd": tmp_path, "env": ENVIRONMENT, "capture_output": True, "text": True, **options},
            check=False,
        )
        assert done.returncode == code, done.stderr or done.stdout
        assert ("Traceback" in (done.stderr or "")) == ("--debug" in arguments)
        return done

    return run


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of one product, arranged as MVTec AD is."""
    root = tmp_path_factory.mktemp("data")
    return demo.write(root, size=64, train=30, test_good=3, test_bad=4, products=["gear"])[0]


@pytest.fixture(scope="session")
def model(product: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "gear.blemish"
    command = [*COMMAND, "fit", product, *SMALL, "--false-reject", "0.2", "--out", path]
    subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    return path
