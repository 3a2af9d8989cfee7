import ctypes
import subprocess
import sys

import pytest
import torch

from blemish.nets.allocator import freed_memory_kept

BLOCK = 64 * 2**20
PAGES = BLOCK // 4096
# In a process of its own: what other tests have taken and freed decides where a block comes from. The first
# block is twice as large, for small ones in between may take a piece of what it leaves.
SCRIPT = f"""
import resource
from pathlib import Path
import torch
from blemish.nets.allocator import freed_memory_kept

def faults(block):
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    torch.ones(block // 4)
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

torch.set_num_threads(1)
with freed_memory_kept():
    faults({2 * BLOCK})
    print(min(faults({BLOCK}) for _ in range(5)))
    before = held()
print(before - held())
"""


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_a_large_block_is_taken_from_the_system_once_and_given_back_at_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    faults, given_back = map(int, done.stdout.split())
    assert faults < PAGES // 100
    assert given_back > BLOCK


def test_it_ends_with_what_it_is_around() -> None:
    with pytest.raises(ZeroDivisionError), freed_memory_kept():
        _ = 1 / 0
    with freed_memory_kept(), freed_memory_kept():
        torch.ones(3)


def test_other_systems_have_nothing_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with freed_memory_kept():
        torch.ones(3)
