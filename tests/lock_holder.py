"""Another process that holds a lock."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

HOLDER = """
import sys
from polyvid.dataset_scripts.locking import locked
with locked(sys.argv[1], "polyvid build"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(target: Path):
    """Another process holds the lock of `target`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
