"""Pre-training pairs: a random clip of each video with its subtitles (§5.3 and App. C)."""

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from polyvid.dataset_scripts.features import features_from_row
from polyvid.dataset_scripts.schema import LANGUAGES, canonical_language
from polyvid.modeling.errors_mmp import PolyvidError

Clip = dict[str, Any]  # video_id, language, text, start, end, video_features


class ClipSampler:
    """Draws one clip per video: "we randomly sample the start and end time to construct a clip [...] we sample one
    language type each time from 9 languages and use the consecutive ASR transcriptions that are closest in time".

    - Start and end are two uniformly drawn times, rounded outwards to whole seconds. Clips longer than
      `max_video_length` seconds are truncated.
    - The language is drawn uniformly from those in which the video has subtitles.
    - The text is all consecutive subtitles that overlap the clip or, if there are none, the nearest in time. English
      has twice as many subtitles as the others, so subtitles are never matched by index across languages. The collator
      truncates long texts at the end (App. C).

    The draw depends only on (seed, epoch, video id), not on batches, workers or processes.

    Args:
        languages: the languages to draw from; `("en",)` on the `howto100m` config is the paper's MP.
        seed: for all random draws.
        max_video_length: in seconds.

    Raises:
        PolyvidError: for an unknown language.
    """

    def __init__(self, languages: Sequence[str] = LANGUAGES, seed: int = 0, max_video_length: int = 128):
        self.languages = [canonical_language(language) for language in languages]
        self.seed, self.max_video_length = seed, max_video_length

    def sample(self, table: pa.Table, epoch: int) -> list[Clip]:
        """Joined rows (`polyvid join`) -> one clip per row, in the same order.

        `table` has the columns of `FEATURES` and either a struct per language (config `all`) or, for a single language,
        the flat columns `text`, `start`, `end`. A clip is `{video_id, language, text, start, end, video_features}`,
        with times in seconds of its video and features `[end - start, dim]` float16. Rows without subtitles in any of
        the languages, or with less than a second of video, give no clip.
        """
        # Batch by batch, because combining the chunks of a table would copy all features.
        return [clip for rows in table.to_batches() for clip in self._sample(rows, epoch)]

    def _sample(self, rows: pa.RecordBatch, epoch: int) -> list[Clip]:
        subtitles = [_Subtitles(rows, language) for language in self.languages]
        weights = np.stack([1.0 * (language.counts > 0) for language in subtitles], axis=1)
        video_ids, num_seconds = rows["video_id"].to_pylist(), rows["num_seconds"].to_pylist()
        clips = []
        for row, cumulative in enumerate(weights.cumsum(axis=1)):  # (rows, languages)
            if cumulative[-1] == 0 or num_seconds[row] == 0:
                continue
            u, v, w = _uniforms(self.seed, epoch, video_ids[row])
            start = int(min(u, v) * num_seconds[row])
            end = max(start + 1, math.ceil(max(u, v) * num_seconds[row]))
            end = min(end, start + self.max_video_length)
            index = int(np.searchsorted(cumulative, w * cumulative[-1], side="right"))
            video = {
                "video_id": video_ids[row],
                "num_seconds": num_seconds[row],
                "video_features": rows["video_features"][row].as_buffer(),
            }
            clips.append(
                {
                    "video_id": video_ids[row],
                    "language": self.languages[index],
                    "start": start,
                    "end": end,
                    "text": " ".join(subtitles[index].nearest(row, start, end)),
                    "video_features": features_from_row(video)[start:end].copy(),  # a copy, to free the row group
                }
            )
        return clips


class _Subtitles:
    """The subtitles of a batch of videos in one language, as flat arrays."""

    def __init__(self, rows: pa.RecordBatch, language: str):
        if language in rows.schema.names:
            text, start, end = (pc.struct_field(rows[language], name) for name in ("text", "start", "end"))
        elif "text" in rows.schema.names:
            text, start, end = rows["text"], rows["start"], rows["end"]
        else:
            raise PolyvidError(f"These rows have no subtitles in {language}: no column {language!r} and no 'text'.")
        self.texts, self.text_offsets = text.values, text.offsets.to_numpy()
        self.starts, self.start_offsets = start.values.to_numpy(), start.offsets.to_numpy()
        self.ends, self.end_offsets = end.values.to_numpy(), end.offsets.to_numpy()
        self.counts = np.diff(self.text_offsets)  # (rows,)

    def nearest(self, row: int, start: float, end: float) -> list[str]:
        """Texts of the consecutive subtitles that overlap [start, end), or of the nearest one if none do."""
        count = self.counts[row]
        starts = self.starts[self.start_offsets[row] :][:count]
        ends = self.ends[self.end_offsets[row] :][:count]
        stop = int(np.searchsorted(starts, end))  # subtitles are sorted by start
        overlapping = ends[:stop] > start
        first = int(np.argmax(overlapping)) if stop and overlapping.any() else stop
        if first == stop:
            before = int(np.argmax(ends[:stop])) if stop else None
            if before is None or (stop < count and starts[stop] - end < start - ends[before]):
                first, stop = stop, stop + 1
            else:
                first, stop = before, before + 1
        offset = int(self.text_offsets[row])
        return self.texts.slice(offset + first, stop - first).to_pylist()


class ClipDataset(torch.utils.data.IterableDataset):
    """Streams one clip per video from joined Parquet shards, shuffled and split between processes; for a `DataLoader`.

    Yields the clips of `ClipSampler.sample`.

    Order: shards are assigned to processes (and then to DataLoader workers) in an order drawn for the epoch. Each
    worker reads its row groups in random order, `window` at a time, and shuffles their clips. All of this depends only
    on (seed, epoch), so an epoch can be resumed exactly: `state_dict()` holds the position of the next clip, and
    `load_state_dict` returns to it. (The shuffle buffer of the datasets library loses its content on resuming.)

    With DataLoader workers, the state is in the workers: use torchdata's `StatefulDataLoader`, or skip batches.
    Processes get whole shards, so their numbers of clips differ slightly; each has at least `clips_per_process`.

    Args:
        files: shards from `polyvid join`: paths, or URLs that fsspec supports, such as `hf://datasets/...`.
        sampler: draws the clips; its seed also determines their order.
        rank, world_size: of this process.
        window: row groups held in memory per worker (at most 64 MB each if written by `polyvid`).

    Raises:
        PolyvidError: if there are fewer shards than processes.
    """

    def __init__(
        self,
        files: Sequence[str | os.PathLike],
        sampler: ClipSampler,
        rank: int = 0,
        world_size: int = 1,
        window: int = 4,
    ):
        if len(files) < world_size:
            raise PolyvidError(f"{len(files)} shards cannot feed {world_size} processes: join again with more shards.")
        self.files, self.sampler = sorted(map(str, files)), sampler
        self.rank, self.world_size, self.window = rank, world_size, window
        self.epoch = 0
        self._rows: dict[str, int] = {}  # number of rows of each shard, from its footer
        # Positions of the next clip and of the next `iter`: (first row group of the window, clip within the window).
        self._next = self._start = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """Start this epoch at the next `iter`. Call it before workers start."""
        self.epoch = epoch
        self._next = self._start = (0, 0)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "next": list(self._next), "arrangement": self._arrangement()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after the last clip yielded before `state_dict()` was called.

        Raises:
            PolyvidError: if the state was saved with other shards, processes, workers, seed or window.
        """
        for key, now in self._arrangement().items():
            if (then := state["arrangement"].get(key)) != now:
                raise PolyvidError(
                    f"This position was saved with {key} {then}, now it is {now}: start a new epoch instead."
                )
        self.set_epoch(state["epoch"])
        self._next = self._start = tuple(state["next"])

    def clips_per_process(self, epoch: int) -> int:
        """The smallest number of rows of any process in this epoch (from the shards' footers)."""
        if not self._rows:
            for file in self.files:
                with opened(file) as shard:
                    self._rows[file] = shard.metadata.num_rows
        return min(sum(self._rows[file] for file in self._shards(epoch, rank)) for rank in range(self.world_size))

    def _shards(self, epoch: int, rank: int) -> list[str]:
        order = np.random.default_rng([self.sampler.seed, epoch]).permutation(len(self.files))
        return [self.files[index] for index in order][rank :: self.world_size]

    def _arrangement(self) -> dict[str, Any]:
        worker = torch.utils.data.get_worker_info()
        worker_id, num_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        return {
            "process": f"{self.rank} of {self.world_size}",
            "worker": f"{worker_id} of {num_workers}",
            "shards": len(self.files),
            "seed": self.sampler.seed,
            "window": self.window,
        }

    def __iter__(self) -> Iterator[Clip]:
        epoch, (first_group, first_clip) = self.epoch, self._start
        self._next, self._start = self._start, (0, 0)
        worker = torch.utils.data.get_worker_info()
        shards = self._shards(epoch, self.rank)
        shards = shards[worker.id :: worker.num_workers] if worker else shards
        with ExitStack() as stack:
            files = [stack.enter_context(opened(shard)) for shard in shards]
            yield from self._clips(files, epoch, first_group, first_clip)
        self._next = (0, 0)

    def _clips(self, shards: list[pq.ParquetFile], epoch: int, first_group: int, first_clip: int) -> Iterator[Clip]:
        worker = torch.utils.data.get_worker_info()
        groups = [(shard, group) for shard in shards for group in range(shard.num_row_groups)]
        seed = [self.sampler.seed, epoch, self.rank, worker.id if worker else 0]
        order = np.random.default_rng(seed).permutation(len(groups))
        for group in range(first_group, len(groups), self.window):
            clips = []
            for index in order[group : group + self.window]:
                shard, row_group = groups[index]
                # One thread: parallelism comes from processes and workers.
                clips += self.sampler.sample(shard.read_row_group(row_group, use_threads=False), epoch)
            permutation = np.random.default_rng([*seed, group]).permutation(len(clips))
            for position in range(first_clip, len(clips)):
                self._next = (group, position + 1)
                yield clips[permutation[position]]
            first_clip = 0


@contextmanager
def opened(file: str) -> Iterator[pq.ParquetFile]:
    """Open a shard at a path or fsspec URL; closes it afterwards."""
    local = "://" not in file
    with ExitStack() as stack:
        source = file if local else stack.enter_context(fsspec.open(file))
        yield stack.enter_context(pq.ParquetFile(source, memory_map=local, page_checksum_verification=True))


def _uniforms(seed: int, epoch: int, video_id: str) -> tuple[float, float, float]:
    """Three independent uniform numbers in [0, 1). Hashing is 20 times faster than seeding a generator."""
    digest = hashlib.blake2b(f"{seed} {epoch} {video_id}".encode(), digest_size=24).digest()
    u, v, w = (int.from_bytes(digest[i : i + 8], "little") >> 11 for i in (0, 8, 16))
    return u / 2**53, v / 2**53, w / 2**53
