"""Reads an uploaded video in a process of its own, which limits of time and memory end, and which may crash.

    python watch.py VIDEO VIEW.json SECONDS > windows.npy

`search.watch` starts it. It imports no torch: it is ready in a fraction of a second.
"""

import json
import resource
import sys
from itertools import islice

import numpy as np
from decoding import Sampling, Scaling, VideoError, View, read_windows
from limits import DECODING_BYTES, DECODING_SECONDS

UNREADABLE = 3
"""The exit code where the video is to blame; the reason is on standard error."""


def main(path: str, view_file: str, seconds: int) -> None:
    """Write (seconds, window, height, width, 3) uint8 to standard output, as an array in NumPy's format."""
    resource.setrlimit(resource.RLIMIT_CPU, (DECODING_SECONDS, DECODING_SECONDS))
    if sys.platform == "linux":  # elsewhere the system refuses or ignores it
        resource.setrlimit(resource.RLIMIT_AS, (DECODING_BYTES, DECODING_BYTES))
    with open(view_file, encoding="utf-8") as file:
        described = json.load(file)
    view = View(Sampling(**described["sampling"]), Scaling(**described["scaling"]))
    try:
        windows = [window for _, window in islice(read_windows(path, [view]), seconds)]
    except VideoError as error:
        print(error, file=sys.stderr)
        raise SystemExit(UNREADABLE) from None
    np.save(sys.stdout.buffer, np.stack(windows))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
