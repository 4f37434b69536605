"""`polyvid` and `python -m polyvid`. Launchers of several processes use the latter: `accelerate launch -m polyvid`.

Ctrl-C must be quiet from the first second, so a handler is set before anything else is imported.
"""

import os
import signal
from types import FrameType


def main(arguments: list[str] | None = None) -> None:
    """Run the command line with these arguments, by default the process's own; see `polyvid.train.cli`."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    # Read when torch is loaded. On busy cores, a thread that spins while it waits holds the core that the others need.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from polyvid.train.cli import main

    main(arguments)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"\nStopped.\n")
    os._exit(130)  # nothing is written before a command runs, so nothing is left half done


if __name__ == "__main__":
    main()
