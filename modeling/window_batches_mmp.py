"""Runs networks over the windows of many videos, which share batches."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch

from .errors_mmp import PolyvidError
from .frame_encoders_mmp import FrameEncoder
from .video_reading_mmp import VideoEnd, VideoError, View, Window

BATCHES_ON_GPU = 2  # the host prepares one while the GPU computes the other
BATCHES_ON_CPU = 8  # at most: each needs memory


@dataclass
class Timings:
    """How the time of a run was spent, in seconds; filled in by `encode_windows`."""

    decoding: float = 0.0  # summed over the worker processes
    network: float = 0.0  # summed over batches that run in parallel
    waiting: float = 0.0  # for frames
    windows: int = 0


def encode_windows(
    decode: Callable[[list[View]], Iterable[Window | VideoEnd]],
    encoders: Sequence[FrameEncoder],
    timings: Timings | None = None,
) -> Iterator[tuple[str, np.ndarray | VideoError]]:
    """Yields `(video_id, features)` as videos finish, in no fixed order.

    Args:
        decode: views -> the windows of all videos, each video followed by its `VideoEnd`; ids are unique.
        encoders: their vectors are concatenated, (seconds, sum of feature_dims) float32. All must give the same
            number of vectors per second.
        timings: to fill in.

    Yields:
        For a broken video, a `VideoError` in place of the features. The features of a window do not depend on the
        other windows in its batch, because batches always have the same shape.

    Raises:
        PolyvidError: if the encoders give features at different rates.
    """
    rates = [_features_per_second(encoder) for encoder in encoders]
    if len(set(rates)) > 1:
        listed = ", ".join(
            f"{encoder.name}: {rate or 'every frame'}" for encoder, rate in zip(encoders, rates, strict=True)
        )
        raise PolyvidError(f"Encoders to be concatenated must give features at one rate a second, got {listed}.")
    timings = timings if timings is not None else Timings()
    pending: dict[str, _PendingVideo] = {}

    def finished() -> Iterator[tuple[str, np.ndarray | VideoError]]:
        for index, queue in enumerate(queues):
            for video_id, row in queue.results():
                pending[video_id].rows[index].append(row)
        for video_id in [v for v, video in pending.items() if video.is_complete()]:
            yield video_id, pending.pop(video_id).result()

    on_cpu = all(encoder.device.type == "cpu" for encoder in encoders)
    side_by_side = min(torch.get_num_threads(), BATCHES_ON_CPU) if on_cpu else BATCHES_ON_GPU
    with _executor(side_by_side) as executor:
        queues = [_EncoderQueue(encoder, executor, side_by_side, timings) for encoder in encoders]
        mark = time.perf_counter()
        for event in decode([encoder.view for encoder in encoders]):
            timings.waiting += time.perf_counter() - mark
            video = pending.setdefault(event.video_id, _PendingVideo([[] for _ in encoders], [0] * len(encoders)))
            if isinstance(event, VideoEnd):
                timings.decoding += event.seconds
                video.ended, video.error = True, event.error
                yield from finished()
            else:
                video.expected[event.view] += 1
                queues[event.view].add(event.video_id, event.pixels)
                if queues[event.view].has_results():
                    yield from finished()
            mark = time.perf_counter()
        for queue in queues:
            queue.flush()
        yield from finished()


@contextmanager
def _executor(batches: int) -> Iterator[ThreadPoolExecutor]:
    """Runs forward passes in parallel and divides torch's threads among them: one each on most machines.

    Small networks gain little from a second thread; large ones lose time waiting for it.
    """
    threads = torch.get_num_threads()
    executor = ThreadPoolExecutor(batches, initializer=torch.set_num_threads, initargs=(max(1, threads // batches),))
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # the setting applies to the whole process


def _features_per_second(encoder: FrameEncoder) -> Fraction | None:
    sampling = encoder.view.sampling
    return None if sampling.fps is None else Fraction(sampling.fps, sampling.stride)


@dataclass
class _PendingVideo:
    rows: list[list[np.ndarray]]  # per encoder
    expected: list[int]  # windows sent to each encoder
    ended: bool = False
    error: str | None = None

    def is_complete(self) -> bool:
        return self.ended and all(len(rows) == n for rows, n in zip(self.rows, self.expected, strict=True))

    def result(self) -> np.ndarray | VideoError:
        if self.error:
            return VideoError(self.error)
        features = np.concatenate([np.stack(rows) for rows in self.rows], axis=1)
        if not np.isfinite(features).all():
            return VideoError("the network's output is not finite; try --dtype float32")
        return features


@dataclass
class _EncoderQueue:
    """Collects windows into batches of one shape for one encoder, and returns the rows in the order of the windows."""

    encoder: FrameEncoder
    executor: ThreadPoolExecutor
    side_by_side: int
    timings: Timings
    windows: list[tuple[str, np.ndarray]] = field(default_factory=list)
    in_flight: deque[tuple[list[str], Future[tuple[np.ndarray, float]]]] = field(
        default_factory=deque
    )  # (video ids, their features)
    done: list[tuple[str, np.ndarray]] = field(default_factory=list)

    def add(self, video_id: str, window: np.ndarray) -> None:
        self.windows.append((video_id, window))
        if len(self.windows) == self.encoder.batch_size:
            self._launch()

    def flush(self) -> None:
        if self.windows:
            self._launch()
        while self.in_flight:
            self._fetch()

    def has_results(self) -> bool:
        return bool(self.done)

    def results(self) -> list[tuple[str, np.ndarray]]:
        done, self.done = self.done, []
        return done

    def _launch(self) -> None:
        ids = [video_id for video_id, _ in self.windows]
        # The last batch is padded: another shape may select other kernels, which round differently.
        first = self.windows[0][1]
        windows = np.zeros((self.encoder.batch_size, *first.shape), first.dtype)
        for row, (_, window) in zip(windows, self.windows, strict=False):
            row[...] = window
        batch = torch.from_numpy(windows)
        if self.encoder.device.type == "cuda":
            batch = batch.pin_memory()
        self.in_flight.append((ids, self.executor.submit(self._compute, batch)))
        self.windows = []
        self.timings.windows += len(ids)
        if len(self.in_flight) > self.side_by_side:  # keeps one ready for when another ends
            self._fetch()

    def _compute(self, batch: torch.Tensor) -> tuple[np.ndarray, float]:
        started = time.perf_counter()
        features = self.encoder(batch).cpu().numpy()
        return features, time.perf_counter() - started

    def _fetch(self) -> None:
        ids, future = self.in_flight.popleft()
        features, seconds = future.result()
        self.done += zip(ids, features[: len(ids)], strict=True)
        self.timings.network += seconds
