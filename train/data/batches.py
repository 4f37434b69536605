"""The sources of batches: captions in memory, or clips streamed from disk. Both can resume at any batch.

Both implement `Batches`: `steps(epoch)` is the number of batches in an epoch, the same on all processes, and
`read(epoch, first)` yields this process's batches of the epoch, starting with number `first`.
"""

import signal
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from polyvid.dataset_scripts.workers import end_with_parent
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.data.captions import PivotSampler
from polyvid.train.data.clips import ClipDataset
from polyvid.train.data.collate import MMPCollator

Batch = dict[str, torch.Tensor]


class Batches(Protocol):
    """What the training loop needs from a source of batches.

    Attributes:
        is_stream: whether the number of a batch does not say where it is, so that `state_dict` belongs to the last
            batch that was read: it must be trained on before the next one is read.
    """

    is_stream: bool

    def steps(self, epoch: int) -> int:
        """Number of batches in an epoch, the same on all processes."""

    def read(self, epoch: int, first: int) -> Iterator[Batch]:
        """This process's batches of the epoch, starting with number `first`."""

    def state_dict(self) -> dict[str, Any] | None:
        """What `read` needs to resume after the last batch it yielded, besides the epoch and the batch number."""

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restore what `state_dict` returned. Call this before `read`."""

    def summary(self) -> list[str]:
        """Describes the content of an epoch, as lines of text."""


class GlobalBatches(Sampler):
    """The part of each global batch that belongs to this process, for one epoch.

    The permutation is drawn from (seed, epoch) and is the same on all processes. All rows are used, in as few batches
    as `batch_size` allows, and the batch sizes differ by at most one row. A small last batch would have few negatives
    but still take a full step of Adam, which does not know how many rows a gradient comes from. Rows that do not fill
    a batch are dropped only if even batches would have less than one row per process, or fewer than two rows (a single
    row has no negatives).

    With `lengths`, one per row, rows of similar length share a batch, which reduces padding: each group of `SORTED`
    batches is sorted by length, and the batches are then shuffled. The rows and batch sizes of an epoch stay the same.

    With `groups`, one value per row, rows of the same value follow one another, so that they share a batch, but for the
    few groups that are cut where a batch is full.
    """

    SORTED = 50

    def __init__(self, size: int, batch_size: int, seed: int, rank: int = 0, num_processes: int = 1):
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.num_processes = rank, num_processes
        self.epoch = 0
        self.first_batch = 0
        self.lengths: np.ndarray | None = None
        self.groups: np.ndarray | None = None

    def __len__(self) -> int:
        count = -(-self.size // self.batch_size)
        too_small = count > 0 and self.size // count < max(2, self.num_processes)
        return self.size // self.batch_size if too_small else count

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(self.size)
        if self.groups is not None:
            _, first, group = np.unique(self.groups[order], return_index=True, return_inverse=True)
            order = order[np.argsort(first[group], kind="stable")]  # groups as they first come in a random order
        batches = np.array_split(order[: len(self) * self.batch_size], max(1, len(self)))[: len(self)]
        if self.lengths is not None:
            batches = self._by_length(batches, self.lengths, generator)
        for batch in batches[self.first_batch :]:
            yield np.array_split(batch, self.num_processes)[self.rank].tolist()

    def _by_length(
        self, batches: list[np.ndarray], lengths: np.ndarray, generator: np.random.Generator
    ) -> list[np.ndarray]:
        grouped = []
        for start in range(0, len(batches), self.SORTED):
            part = batches[start : start + self.SORTED]
            rows = np.concatenate(part)
            rows = rows[np.argsort(lengths[rows], kind="stable")]
            # Shuffled within each batch, so that no process always gets the longer half.
            grouped += [generator.permutation(rows) for rows in np.split(rows, np.cumsum([len(b) for b in part])[:-1])]
        return [grouped[number] for number in generator.permutation(len(grouped))]


class CaptionBatches:
    """Batches of a dataset in memory: each row once per epoch, in an order drawn for the epoch.

    Args:
        rows: pairs or triples. Those of one group share a batch, if it has `groups`.
        collator: turns them into a batch.
        batch_size: rows over all processes.
        seed: for the order.
        rank, num_processes: of this process.
        num_workers: processes that read ahead.
        noise_cycle: number of epochs after which the collator's noise repeats; None means never.
        group_by_length: rows with similar numbers of tokens share a batch. Seconds of video are ignored, because text
            takes most of the time. Note that negatives then have similar length, which changes the contrastive task.

    Raises:
        PolyvidError: if there are too few rows, or a batch has fewer rows than there are processes.
    """

    is_stream = False

    def __init__(
        self,
        rows: PivotSampler,
        collator: MMPCollator,
        batch_size: int,
        seed: int,
        rank: int = 0,
        num_processes: int = 1,
        num_workers: int = 0,
        noise_cycle: int | None = None,
        group_by_length: bool = False,
    ):
        self.rows, self.collator = rows, collator
        self.num_workers, self.noise_cycle, self.group_by_length = num_workers, noise_cycle, group_by_length
        _check_batch_size(batch_size, num_processes)
        self.batches = GlobalBatches(len(rows), batch_size, seed, rank, num_processes)
        self.batches.groups = None if rows.groups is None else np.array(rows.groups)
        if len(self.batches) == 0:
            raise PolyvidError(
                f"{len(rows)} training clip(s) do not make a batch: a contrastive loss needs at least two."
            )

    def steps(self, epoch: int) -> int:
        return len(self.batches)

    def read(self, epoch: int, first: int) -> Iterator[Batch]:
        self.rows.set_epoch(epoch)
        self.collator.set_epoch(epoch % self.noise_cycle if self.noise_cycle else epoch)
        self.batches.epoch, self.batches.first_batch = epoch, first
        if self.group_by_length:
            self.batches.lengths = self._num_tokens()
        yield from _loader(
            self.rows, num_workers=self.num_workers, batch_sampler=self.batches, collate_fn=self.collator
        )

    def _num_tokens(self) -> np.ndarray:
        """Tokens per row after truncation. This depends on the epoch, which may draw another language for a row."""
        tokenizer, counts = self.collator.processor.tokenizer, np.zeros(len(self.rows), dtype=np.int64)
        for start in range(0, len(self.rows), 1000):
            rows = [self.rows[index] for index in range(start, min(start + 1000, len(self.rows)))]
            for name in ("text", "pivot_text"):
                if texts := [row[name] for row in rows if name in row]:
                    tokens = tokenizer(texts, truncation=True, max_length=self.collator.max_text_length)["input_ids"]
                    counts[start : start + 1000] += [len(ids) for ids in tokens]
        return counts

    def state_dict(self) -> None:
        return None  # the epoch and the batch number are enough

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        pass

    def summary(self) -> list[str]:
        if self.rows.features is None:
            return [f"{len(self.rows):,} pairs of translations an epoch, without videos"]
        lines = [f"{len(self.rows):,} {'triples' if self.rows.pivots else 'pairs'} of text and video an epoch"]
        if left_out := self.rows.videos_without_features:
            lines.append(f"{len(left_out):,} videos without features are left out, such as {left_out[0]}")
        return lines


class ClipBatches:
    """Batches of clips streamed from joined shards: about one clip per video and epoch (§5.3, App. C).

    Each process reads its own shards, which differ in size, so all processes make as many steps as the smallest part
    has whole batches. Rows without usable subtitles give no clip; a process that therefore runs out of clips starts
    its part again.

    Clips are not grouped by length: the length of a clip is only known after reading its row, and a resumed run would
    have to read a buffer of rows to sort them again.

    With `num_workers=1` a separate process reads ahead. More workers would each need their own position to resume
    from.

    Args:
        clips: the stream of this process.
        collator: turns clips into a batch.
        batch_size: clips over all processes.
        num_workers: 0 or 1.

    Raises:
        PolyvidError: if the shards hold too few clips for one batch, or `num_workers` is more than one.
    """

    is_stream = True

    def __init__(self, clips: ClipDataset, collator: MMPCollator, batch_size: int, num_workers: int = 0):
        rank, count = clips.rank, clips.world_size
        _check_batch_size(batch_size, count)
        if num_workers > 1:
            raise PolyvidError(f"Clips are read by one worker at most: training.num_workers cannot be {num_workers}.")
        self.num_workers = num_workers
        share = batch_size // count + (rank < batch_size % count)
        self.largest_share = batch_size // count + (batch_size % count > 0)
        self.stream = _BatchStream(clips, collator, share)
        if self.steps(0) == 0:
            raise PolyvidError(
                f"The {len(clips.files)} shards hold {clips.clips_per_process(0)} videos per process, fewer "
                f"than a batch of {self.largest_share}: lower training.batch_size."
            )

    def steps(self, epoch: int) -> int:
        return self.stream.clips.clips_per_process(epoch) // self.largest_share

    def read(self, epoch: int, first: int) -> Iterator[Batch]:
        position = self.stream.position if first else None
        if position is None:
            self.stream.clips.set_epoch(epoch)
        else:
            self.stream.clips.load_state_dict(position)
        self.stream.collator.set_epoch(epoch)
        self.stream.length = self.steps(epoch) - first
        # Each batch comes with the position after it, because a worker is ahead of the current step.
        for batch, position in _loader(self.stream, num_workers=self.num_workers, batch_size=None):
            self.stream.position = position
            yield batch

    def state_dict(self) -> dict[str, Any] | None:
        return self.stream.position

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        self.stream.position = state

    def summary(self) -> list[str]:
        clips, steps = self.stream.clips, self.steps(0)
        return [f"{steps * self.stream.batch_size * clips.world_size:,} clips an epoch, of {len(clips.files):,} shards"]


class _BatchStream(IterableDataset):
    """Collated batches, each with the stream position after it."""

    def __init__(self, clips: ClipDataset, collator: MMPCollator, batch_size: int):
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
                raise PolyvidError(f"Not one batch of {self.batch_size} clips has subtitles in {languages}.")

    def _has_a_batch(self) -> bool:
        """Whether this process's shards, read from the start, give at least one batch."""
        self.clips.set_epoch(self.clips.epoch)
        clips = iter(self.clips)
        found = all(next(clips, None) is not None for _ in range(self.batch_size))
        self.clips.set_epoch(self.clips.epoch)
        return found


def _check_batch_size(batch_size: int, num_processes: int) -> None:
    if batch_size < max(2, num_processes):
        raise PolyvidError(
            f"training.batch_size={batch_size} is too small: a contrastive loss needs two rows, and each of the "
            f"{num_processes} process(es) one."
        )


def _loader(dataset: Dataset, **options: Any) -> DataLoader:
    # Its own generator: a loader draws a seed when it starts, which must not advance the generator used by dropout.
    return DataLoader(
        dataset,
        generator=torch.Generator(),
        worker_init_fn=_serve_the_trainer,
        pin_memory=torch.cuda.is_available(),
        **options,
    )


def _serve_the_trainer(worker: int) -> None:
    """Ignore Ctrl-C, which reaches every process: the trainer still needs the batches it requested. End with it."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
