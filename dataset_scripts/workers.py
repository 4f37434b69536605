"""Worker processes that do not outlive the command that started them."""

import os
from multiprocessing import parent_process
from threading import Thread


def end_with_parent() -> None:
    """Let this worker end when the command itself is killed: nobody would wait for what it does.

    A worker that waits for work does not notice otherwise, where another process than the command has forked it (the
    start method `forkserver`, Python 3.14's default).
    """
    Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)
