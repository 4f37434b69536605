"""A limit of memory for what reads forged files: a forged size must end a test, not take the memory of the machine."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SPARE_BYTES = 4 << 30
"""Of address space, beyond what the process has when it begins; threads and libraries take some of it."""


@contextmanager
def limited_memory() -> Iterator[None]:
    """Whatever asks for more gets a `MemoryError`. Linux only: other systems refuse or ignore such a limit."""
    if sys.platform != "linux":
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))
