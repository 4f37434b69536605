"""Where batches come from: captions in memory, or clips streamed from disk. Both can be taken up at any batch.

A source has `steps(epoch)`, the number of batches of an epoch, the same on all processes, and `read(epoch, first)`,
which yields the epoch's batches of this process from number `first` on.
"""

import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from mmp.train.clip_sampler import ClipDataset
from mmp.train.collator import MMPCollator
from mmp.train.processes import Processes

Batch = dict[str, torch.Tensor]


class GlobalBatches(Sampler):
    """The part of each global batch that belongs to this process, for one epoch.

    The permutation is drawn from (seed, epoch) and is the same on all processes. The last, smaller batch is used too,
    unless it has fewer rows than there are processes or a single row (which has no negatives).
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int = 0, num_processes: int = 1):
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.num_processes = rank, num_processes
        self.epoch = 0
        self.first_batch = 0

    def __len__(self) -> int:
        whole, rest = divmod(self.size, self.batch_size)
        return whole + (rest >= max(2, self.num_processes))

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        for number in range(self.first_batch, len(self)):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield np.array_split(batch, self.num_processes)[self.rank].tolist()


class CaptionBatches:
    """Batches of a dataset in memory (`PivotSampler`): every sentence once an epoch, in an order drawn for the epoch.

    Args:
        rows: with `set_epoch`.
        collator: makes them a batch.
        batch_size: over all processes.
        seed: of the order.
        processes: of the run.
        num_workers: processes that read ahead.
        noise_cycle: epochs after which the collator's noise repeats; None: never.

    Raises:
        ValueError: if there are too few rows, or a batch has fewer rows than there are processes.
    """

    def __init__(
        self,
        rows: Dataset,
        collator: MMPCollator,
        batch_size: int,
        seed: int,
        processes: Processes,
        num_workers: int = 0,
        noise_cycle: int | None = None,
    ):
        self.rows, self.collator = rows, collator
        self.num_workers, self.noise_cycle = num_workers, noise_cycle
        _check_batch_size(batch_size, processes)
        self.batches = GlobalBatches(len(rows), batch_size, seed, processes.rank, processes.count)
        if len(self.batches) == 0:
            raise ValueError(f"{len(rows)} training clip(s) do not make a batch: contrast needs at least two.")

    def steps(self, epoch: int) -> int:
        return len(self.batches)

    def read(self, epoch: int, first: int) -> Iterator[Batch]:
        self.rows.set_epoch(epoch)
        self.collator.set_epoch(epoch % self.noise_cycle if self.noise_cycle else epoch)
        self.batches.epoch, self.batches.first_batch = epoch, first
        yield from _loader(
            self.rows, num_workers=self.num_workers, batch_sampler=self.batches, collate_fn=self.collator
        )

    def state_dict(self) -> None:
        return None  # the epoch and the number of the batch say it all

    def load_state_dict(self, state: None) -> None:
        pass


class ClipBatches:
    """Batches of clips streamed from joined shards: about every video once an epoch (§5.3, App. C).

    Each process reads shards of its own, which differ in size: all make as many steps as the smallest part has whole
    batches. Rows without usable subtitles give no clip; a process that runs out of clips for that reason begins its
    part again.

    With `num_workers` one process reads ahead; more would each need a position of their own to resume from.

    Raises:
        ValueError: if shards hold too few clips for one batch, or for more than one worker.
    """

    def __init__(
        self, clips: ClipDataset, collator: MMPCollator, batch_size: int, processes: Processes, num_workers: int = 0
    ):
        _check_batch_size(batch_size, processes)
        if num_workers > 1:
            raise ValueError(f"Clips are read by one worker at most, so training.num_workers cannot be {num_workers}.")
        self.num_workers = num_workers
        share = batch_size // processes.count + (processes.rank < batch_size % processes.count)
        self.smallest_share = batch_size // processes.count + (batch_size % processes.count > 0)
        self.stream = _BatchStream(clips, collator, share)
        if self.steps(0) == 0:
            raise ValueError(
                f"The {len(clips.files)} shards hold {clips.clips_per_process(0)} videos per process, which do not "
                f"make one of its batches of {self.smallest_share}: lower training.batch_size."
            )

    def steps(self, epoch: int) -> int:
        return self.stream.clips.clips_per_process(epoch) // self.smallest_share

    def read(self, epoch: int, first: int) -> Iterator[Batch]:
        position = self.stream.position if first else None
        if position is None:
            self.stream.clips.set_epoch(epoch)
        else:
            self.stream.clips.load_state_dict(position)
        self.stream.collator.set_epoch(epoch)
        self.stream.length = self.steps(epoch) - first
        # A batch and the position behind it travel together: a worker is ahead of the step.
        for batch, position in _loader(self.stream, num_workers=self.num_workers, batch_size=None):
            self.stream.position = position
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return self.stream.position

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.position = state


class _BatchStream(IterableDataset):
    """Collated batches, each with the position in the stream behind it."""

    def __init__(self, clips: ClipDataset, collator: Callable, batch_size: int):
        self.clips, self.collator, self.batch_size = clips, collator, batch_size
        self.length = 0
        self.position: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[tuple[Batch, dict[str, Any]]]:
        left = self.length
        while left:
            before, rows = left, []
            for clip in self.clips:
                rows.append(clip)
                if len(rows) == self.batch_size:
                    yield self.collator(rows), self.clips.state_dict()
                    rows, left = [], left - 1
                    if left == 0:
                        return
            if before == left and len(rows) < self.batch_size and not self._has_a_batch():
                languages = " ".join(self.clips.sampler.languages)
                raise ValueError(f"Not one batch of {self.batch_size} clips has subtitles in {languages}.")

    def _has_a_batch(self) -> bool:
        """Whether the part of this process makes a batch if it is read from its beginning."""
        self.clips.set_epoch(self.clips.epoch)
        clips = iter(self.clips)
        found = all(next(clips, None) is not None for _ in range(self.batch_size))
        self.clips.set_epoch(self.clips.epoch)
        return found


def _check_batch_size(batch_size: int, processes: Processes) -> None:
    if batch_size < max(2, processes.count):
        raise ValueError(
            f"training.batch_size={batch_size} is too small: contrast needs two rows, and each of the "
            f"{processes.count} process(es) one."
        )


def _loader(dataset: Dataset, **options: Any) -> DataLoader:
    # A generator of their own: loaders draw a seed when they start, which must not move on the one dropout uses.
    return DataLoader(
        dataset,
        generator=torch.Generator(),
        worker_init_fn=_leave_signals_to_the_trainer,
        pin_memory=torch.cuda.is_available(),
        **options,
    )


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal: the trainer still needs the batches it has ordered."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
