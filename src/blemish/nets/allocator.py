"""Memory that a training step frees, kept for the next one.

glibc gives every block beyond 32 MB back to the system at once, and takes it again page by page: on two cores
that was half of the time of an update.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Numbers of <malloc.h>.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
MEGABYTE = 2**20


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Does nothing where the allocator is not glibc's."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(MMAP_MAX, 0)
    libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        # Where glibc's own thresholds end up in a process that handles large blocks; they cannot be read.
        libc.mallopt(MMAP_MAX, 65536)
        libc.mallopt(MMAP_THRESHOLD, 32 * MEGABYTE)
        libc.mallopt(TRIM_THRESHOLD, 64 * MEGABYTE)
        libc.malloc_trim(0)
