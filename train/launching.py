"""Runs a training command as a child process and, after Ctrl-C, waits until it has written its checkpoint."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import FrameType

import psutil


def run_to_end(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run a command and wait for it and, after Ctrl-C, for the processes it started. Only for the main thread.

    A terminal sends Ctrl-C to all processes of the command, so the child stops by itself. `subprocess.run` would kill
    it a quarter of a second later. `accelerate launch` ends before the run it started, which may still be saving.
    Ctrl-C a second time kills the child.

    Args:
        environment: variables to set for the command.

    Returns:
        The command's exit code.

    Raises:
        KeyboardInterrupt: after Ctrl-C, when the child has ended: whatever handler was set is called only then.
        OSError: if the command cannot be started.
    """
    process: subprocess.Popen[bytes] | None = None
    started_by_it: list[psutil.Process] = []
    interrupted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, previous)
        if process is not None:
            started_by_it.extend(_descendants(process.pid))
        print("\nWaiting for the run to stop. Ctrl-C again kills it.", file=sys.stderr, flush=True)

    previous = signal.getsignal(signal.SIGINT)
    if previous != signal.SIG_IGN:  # a shell sets that for a command in the background
        signal.signal(signal.SIGINT, note)  # unlike SIG_IGN, a handler is not inherited by the child
    try:
        process = subprocess.Popen(command, env={**os.environ, **(environment or {})})
        code = process.wait()
        psutil.wait_procs(started_by_it)
    except BaseException:
        if process is not None:
            for descendant in _descendants(process.pid) or started_by_it:
                _kill(descendant)
            process.kill()
            process.wait()
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
    if interrupted:
        signal.raise_signal(signal.SIGINT)
    return code


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:  # it has ended
        return []


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        pass
