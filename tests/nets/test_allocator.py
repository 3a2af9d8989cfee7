import ctypes
import sys
from pathlib import Path

import pytest
import torch

from blemish.nets.allocator import freed_memory_kept

BLOCK = 64 * 2**20
PAGES = BLOCK // 4096


def faults_of_one_block() -> int:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    torch.ones(BLOCK // 4)
    return int(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)


def bytes_held() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_a_large_block_is_taken_from_the_system_once_and_given_back_at_the_end() -> None:
    with freed_memory_kept():
        faults_of_one_block()
        assert faults_of_one_block() < PAGES // 100
        held = bytes_held()
    assert bytes_held() < held - BLOCK // 2


def test_it_ends_with_what_it_is_around() -> None:
    with pytest.raises(ZeroDivisionError), freed_memory_kept():
        _ = 1 / 0
    with freed_memory_kept(), freed_memory_kept():
        torch.ones(3)


def test_other_systems_have_nothing_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with freed_memory_kept():
        torch.ones(3)
