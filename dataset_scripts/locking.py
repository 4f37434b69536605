"""One lock for every command that writes a folder or a file, so that two runs never destroy each other's work.

    with locked(output_dir, "polyvid build"):
        ...

The lock is the operating system's (`flock`), held through a small file next to the target: `data/vtt` is
guarded by `data/.vtt.lock`. The system releases it when its process ends, however it ends, so a run that was killed
never blocks the next one. What the file says (process, host, command, start) is only there for the message.

What is promised:

- On a local disk, and on NFS version 4 or later: of two processes, on one machine or two, only one writes.
- Where the file system offers no such lock, an `OSError` says so; there is no weaker substitute.
- The lock files stay, because deleting one that somebody waits for would let two processes in. They are ignored by git
  and belong in no upload and no wheel.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from threading import Lock

from filelock import FileLock, Timeout

from polyvid.modeling.errors_mmp import PolyvidError

_held: dict[Path, tuple[FileLock, int]] = {}  # what this process holds, and how many blocks are inside
_guard = Lock()


class LockedError(PolyvidError):
    """Another process writes to this target; the message says which one, since when, and what to do.

    Attributes:
        owner: the part of the message that names the other process.
    """

    owner = "another process"


@contextmanager
def locked(target: str | os.PathLike[str], command: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder or file while the block runs.

    The lock is re-entrant: a command that calls another one on the same target, or a second thread, passes. In a launch
    of several ranks, only the main rank takes it, and the others wait for that rank as usual:

        with locked(output_dir, "polyvid train") if accelerator.is_main_process else nullcontext():

    Args:
        target: what will be written; it need not exist. Its parent is created.
        command: what the message calls this run, e.g. `"polyvid build"`.
        wait: seconds to wait for another process before it counts as an error.

    Raises:
        LockedError: when another process holds the lock (and still does after `wait` seconds).
        OSError: when the target cannot be written to, or its file system offers no locks.
    """
    path = Path(target).expanduser().resolve()
    with _guard:
        lock, blocks = _held.get(path) or (_acquire(path, command, wait), 0)
        _held[path] = lock, blocks + 1
    try:
        yield
    finally:
        with _guard:
            lock, blocks = _held.pop(path)
            if blocks > 1:
                _held[path] = lock, blocks - 1
            else:
                lock.release()


def lock_path(target: Path) -> Path:
    """The lock file of a resolved target: next to it, or inside it where only the folder itself can be written to."""
    if target.is_dir() and not os.access(target.parent, os.W_OK):  # a volume mounted into a container
        return target / ".lock"
    return target.with_name(f".{target.name}.lock")


def _acquire(target: Path, command: str, wait: float) -> FileLock:
    path = lock_path(target)
    lock = FileLock(path, timeout=wait, fallback_to_soft=False, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(None, "no permission to write", str(target))
        lock.acquire()
    except Timeout:
        owner = _owner(path)
        error = LockedError(
            f"{target} is being written by {owner}: wait until that run has ended, or choose another folder."
        )
        error.owner = owner
        raise error from None
    except OSError as error:
        raise OSError(
            f"{target} cannot be written to ({error.strerror or error}: {error.filename or path}): choose another "
            "folder, or change its permissions."
        ) from error
    with suppress(OSError):  # the lock is held whether or not it can be described
        path.write_text(json.dumps(_description(command)), encoding="utf-8")
    return lock


def _description(command: str) -> dict[str, str | int]:
    started = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "command": command, "started": started}


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return f"`{owner['command']}` (process {owner['pid']} on {owner['host']}, since {owner['started']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
