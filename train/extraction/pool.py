"""Decodes many videos in worker processes, slightly ahead of the network."""

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from queue import Queue
from typing import cast

from polyvid.modeling.video_reading_mmp import VideoEnd, View, Window, decode_video

PREFETCH = 4  # windows a worker keeps ready; this (and one in the pipe) bounds memory
READY = "ready"  # a worker's first message; if it dies after this, the video is to blame


def decode_videos(
    videos: Sequence[tuple[str, str | Path]], views: list[View], workers: int, limits: tuple[int, int] | None = None
) -> Iterator[Window | VideoEnd]:
    """Yields the windows of all videos, several videos at a time, each video followed by its `VideoEnd`.

    A broken video ends with an error. So does one that kills its worker (FFmpeg crashes, memory runs out); the worker
    is replaced and the run continues. `workers=0` decodes in this process, one video after another. `limits` are the
    processor seconds and the bytes of address space that each worker may take.
    """
    if workers == 0:
        for video_id, path in videos:
            yield from decode_video(video_id, path, views)
        return
    waiting = deque(videos)
    busy: dict[Connection, tuple[str, subprocess.Popen[bytes]]] = {}
    ready: set[Connection] = set()

    def start(worker: tuple[Connection, subprocess.Popen[bytes]] | None = None) -> None:
        """Send the next video to this worker, or to a new one."""
        if not waiting:
            if worker:
                worker[0].close()  # the worker exits when its pipe closes
                worker[1].wait()
            return
        connection, process = worker or _start_worker(views, limits)
        video_id, path = waiting.popleft()
        try:
            connection.send((video_id, path))
        except OSError:
            pass  # it died while idle: the read below notices
        busy[connection] = (video_id, process)

    try:
        for _ in range(min(workers, len(videos))):
            start()
        while busy:
            for connection in cast(list[Connection], wait(list(busy))):
                video_id, process = busy[connection]
                try:
                    message = connection.recv()
                except (EOFError, ConnectionError):
                    exit_code = process.wait()
                    if connection not in ready:
                        raise RuntimeError(
                            f"A decoding process cannot start (exit code {exit_code}), see above."
                        ) from None
                    del busy[connection]
                    start()
                    yield VideoEnd(video_id, f"the decoding process died (exit code {exit_code})", 0.0)
                    continue
                if message == READY:
                    ready.add(connection)
                    continue
                if isinstance(message, VideoEnd):
                    del busy[connection]
                    start((connection, process))
                yield message
    finally:
        for connection, (_, process) in busy.items():
            connection.close()
            process.kill()
            process.wait()


def _start_worker(
    views: list[View], limits: tuple[int, int] | None = None
) -> tuple[Connection, subprocess.Popen[bytes]]:
    """A fresh interpreter that imports only this file.

    `multiprocessing` would either fork, which copies the locks of torch's threads and the CUDA state, or import the
    main script again, which takes seconds and half a gigabyte per worker.
    """
    ours, theirs = Pipe()
    code = f"from polyvid.train.extraction.pool import work; work({theirs.fileno()}, {limits})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if limits is not None:
        environment |= {"OPENBLAS_NUM_THREADS": "1"}  # each thread takes address space
    process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[theirs.fileno()], env=environment)
    theirs.close()
    try:
        ours.send(views)
    except OSError:
        pass  # it died immediately: the first read notices
    return ours, process


def work(file_descriptor: int, limits: tuple[int, int] | None = None) -> None:
    """The worker: decodes the videos it receives. A thread feeds the pipe, so decoding continues while it is full."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and then closes the pipe
    if limits is not None:
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_CPU, (limits[0], limits[0]))
        if sys.platform == "linux":  # elsewhere the system refuses or ignores it
            resource.setrlimit(resource.RLIMIT_AS, (limits[1], limits[1]))
    connection = Connection(file_descriptor)
    ready: Queue = Queue(PREFETCH)

    def feed() -> None:
        try:
            while True:
                connection.send(ready.get())
        except OSError:
            os._exit(0)  # the reader is gone, perhaps killed: do not keep decoding as an orphan

    threading.Thread(target=feed, daemon=True).start()
    try:
        views = connection.recv()
        ready.put(READY)
        while True:
            video_id, path = cast(tuple[str, Path], connection.recv())
            for message in decode_video(video_id, path, views):
                ready.put(message)
    except (EOFError, OSError):
        return  # the pipe closed: no more videos
