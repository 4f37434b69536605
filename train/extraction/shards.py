"""The output folder of `polyvid extract` and `polyvid import-features`: Parquet shards, split like Multi-HowTo100M.

The unit of work is a video; the unit of output is a shard. A finished video is kept as a one-row Parquet file under
`.extraction/` until its shard is complete. Then the shard is written, ordered by video id. So a killed run loses at
most the videos it was working on, and the shards do not depend on how often it was interrupted or on how many
processes shared the work.
"""

import hashlib
import heapq
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from tqdm import tqdm
from transformers.utils import logging

from polyvid.dataset_scripts.building import (
    BUFFER_BYTES,
    atomic_path,
    open_shard,
    read_shard,
    refuse_damage,
    shard_name,
    write_json,
    write_shard,
)
from polyvid.dataset_scripts.features import FEATURES, PROGRESS, features_to_row, rows_to_table
from polyvid.dataset_scripts.locking import locked
from polyvid.dataset_scripts.schema import shard_of
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.video_reading_mmp import VideoError

FORMAT = 2
"""Of `extraction.json`. Before there was a number, a record of a network held no more than `FIRST_FORMAT`."""
FIRST_FORMAT = ("name", "fps", "window", "stride", "scaling", "dtype")
logger = logging.get_logger(__name__)

WAIT = 30.0
"""Seconds for which a process waits for the folder; another one of its launch needs it for a moment only."""
SCHEMA = FEATURES.arrow_schema.remove_metadata()
Jobs = list[tuple[str, Path]]
Results = Iterable[tuple[str, np.ndarray | VideoError]]


@dataclass
class FeatureShards:
    """The output folder of a run, and the work left to do in it.

    Args:
        folder: holds `train-?????-of-?????.parquet`, `failures.jsonl` and `extraction.json` (the settings).
        num_shards: videos are assigned to shards by `shard_of`.
        command: the name other runs see in a `LockedError`.
    """

    folder: Path
    num_shards: int
    command: str = "polyvid extract"

    def check_settings(self, settings: dict) -> None:
        """Writes `settings` to `extraction.json`, or compares them with those already in the folder.

        A file of the first format stays as it is: which weights made the features in the folder, nobody knows. But
        what a user declares about imported features (they have `sources`) is added to it.

        From here on, commands that write other shards refuse the folder (`refuse_extraction`). Its lock is held only
        for this moment: the processes of a launch share the folder, and each locks its own shards.

        Raises:
            LockedError: if another command is still writing to the folder after `WAIT` seconds.
            PolyvidError: if they differ, because a dataset must not mix features made with different settings; or if
                the folder holds shards of something else.
        """
        settings = json.loads(json.dumps({**settings, "num_shards": self.num_shards}))
        path = self.folder / "extraction.json"
        with locked(self.folder, self.command, wait=WAIT):
            for shard in self.folder.glob("train-*-of-*.parquet"):
                if _holds_more(shard):
                    raise PolyvidError(f"{shard} holds more than features: choose another folder.")
            (self.folder / PROGRESS).mkdir(parents=True, exist_ok=True)
            if not path.exists():
                write_json(path, settings)
                return
            before = json.loads(path.read_text(encoding="utf-8"))
            if "format" in settings and "format" not in before:
                now = _as_first_format(settings)
                if "sources" in settings and now == before:
                    write_json(path, settings)
                    return
                settings = now
                logger.warning_once(
                    f"{self.folder} was begun by an older version, which did not record the weights of its networks: "
                    "it stays unknown which made its features."
                )
        for key in sorted(settings.keys() | before.keys()):
            if settings.get(key) != before.get(key):
                raise PolyvidError(
                    f"{self.folder} was extracted with {key}={before.get(key)}, this run has {settings.get(key)}. "
                    "Use the same settings or another folder."
                )

    def fill(
        self,
        videos: dict[str, Path],
        compute: Callable[[Jobs], Results],
        shards: Sequence[int],
        retry_failed: bool = False,
    ) -> None:
        """Bring the given shards up to date with `videos`: compute what is missing and write what changed.

        Each shard is locked during the work. The processes of one launch have different shards; a second launch on the
        same folder is refused.

        Args:
            videos: `{video_id: path}`.
            compute: `[(video_id, path)] -> (video_id, features [seconds, dim] or VideoError)`, in any order.
            shards: indices of this process's shards; the others are not touched.
            retry_failed: retry videos that failed in an earlier run.

        Raises:
            LockedError: if another run is working on one of the shards.
        """
        with ExitStack() as locks:
            for shard in shards:
                locks.enter_context(locked(self._progress(shard), self.command))
            self._fill(videos, compute, shards, retry_failed)

    def _fill(
        self,
        videos: dict[str, Path],
        compute: Callable[[Jobs], Results],
        shards: Sequence[int],
        retry_failed: bool,
    ) -> None:
        assigned: dict[int, list[str]] = {shard: [] for shard in shards}
        for video_id in videos:
            if (shard := shard_of(video_id, self.num_shards)) in assigned:
                assigned[shard].append(video_id)
        todo: dict[str, int] = {}
        left: dict[int, int] = {}  # videos left to do in each shard
        for shard, video_ids in assigned.items():
            known = self._waiting(shard).keys() | self._written(shard)
            if not retry_failed:
                known |= {failure["video_id"] for failure in self._failures(shard)}
            missing = [video_id for video_id in video_ids if video_id not in known]
            todo.update(dict.fromkeys(missing, shard))
            left[shard] = len(missing)
            if not missing:
                self._finish(shard)
        done = sum(map(len, assigned.values())) - len(todo)
        with tqdm(total=done + len(todo), initial=done, unit=" videos") as progress:
            for video_id, features in compute([(video_id, videos[video_id]) for video_id in todo]):
                shard = todo[video_id]
                self._keep(shard, video_id, videos[video_id], features)
                left[shard] -= 1
                if left[shard] == 0:
                    self._finish(shard)
                progress.update()

    def failures(self) -> list[dict]:
        """All failures, ordered by video id. Also writes them to `failures.jsonl`, or removes it if there are none."""
        with self._lock():  # another process may be writing it at the same time
            failures = [failure for shard in range(self.num_shards) for failure in self._failures(shard)]
            failures.sort(key=lambda failure: failure["video_id"])
            _replace_lines(self.folder / "failures.jsonl", failures)
        return failures

    def _progress(self, shard: int) -> Path:
        return self.folder / PROGRESS / f"{shard:05d}"

    def _path(self, shard: int) -> Path:
        return self.folder / shard_name("train", shard, self.num_shards)

    def _waiting(self, shard: int) -> dict[str, Path]:
        """Finished videos not yet written to the shard: video id → one-row file."""
        names = self._progress(shard).glob("*.parquet")
        return {read_shard(path, columns=["video_id"])["video_id"][0].as_py(): path for path in names}

    def _written(self, shard: int) -> set[str]:
        path = self._path(shard)
        return set(read_shard(path, columns=["video_id"])["video_id"].to_pylist()) if path.exists() else set()

    def _failures(self, shard: int) -> list[dict]:
        folder = self._progress(shard)
        records = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
        if (folder / "failures.jsonl").exists():
            lines = (folder / "failures.jsonl").read_text(encoding="utf-8").splitlines()
            records = [json.loads(line) for line in lines] + records
        # A retried video has two records, or has features by now.
        latest = {record["video_id"]: record for record in records}
        extracted = self._waiting(shard).keys() | self._written(shard) if latest else ()
        return [latest[video_id] for video_id in sorted(latest) if video_id not in extracted]

    def _keep(self, shard: int, video_id: str, path: Path, features: np.ndarray | VideoError) -> None:
        name = hashlib.blake2b(video_id.encode("utf-8"), digest_size=16).hexdigest()  # ids may contain any character
        try:
            row = None if isinstance(features, VideoError) else features_to_row(video_id, features)
        except PolyvidError as error:
            features, row = VideoError(str(error)), None
        if row is None:
            reason = {
                "video_id": video_id,
                "path": os.fsencode(path).decode("utf-8", "backslashreplace"),
                "reason": str(features),
            }
            write_json(self._progress(shard) / f"{name}.json", reason)
        else:
            write_shard([rows_to_table([row])], self._progress(shard) / f"{name}.parquet", SCHEMA)

    def _finish(self, shard: int) -> None:
        """Writes the shard from its existing rows and the waiting ones, then removes the files of the latter."""
        waiting, written, folder = self._waiting(shard), self._written(shard), self._progress(shard)
        new = {video_id: waiting[video_id] for video_id in sorted(waiting.keys() - written)}
        if new or not self._path(shard).exists():
            rows = heapq.merge(self._rows(shard), _rows_of(new.values()), key=lambda row: row["video_id"])
            write_shard(_row_groups(rows), self._path(shard), SCHEMA)
        _replace_lines(folder / "failures.jsonl", self._failures(shard))
        for path in [*waiting.values(), *folder.glob("*.json")]:
            path.unlink()
        if folder.exists() and not any(folder.iterdir()):
            shutil.rmtree(folder)

    def _rows(self, shard: int) -> Iterator[dict]:
        if self._path(shard).exists():
            with open_shard(self._path(shard)) as file, refuse_damage(self._path(shard)):
                for batch in file.iter_batches(batch_size=64):
                    yield from batch.to_pylist()

    def _lock(self) -> FileLock:
        (self.folder / PROGRESS).mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / PROGRESS / "lock")  # the system releases it when the process dies


def _as_first_format(settings: dict) -> dict:
    settings = {key: value for key, value in settings.items() if key != "format"}
    if "sources" in settings:
        return {key: value for key, value in settings.items() if key != "encoders"}
    return {**settings, "encoders": [{key: record[key] for key in FIRST_FORMAT} for record in settings["encoders"]]}


def _holds_more(shard: Path) -> bool:
    """Whether a shard has columns that an extraction would lose, such as captions; a damaged one is another error."""
    with refuse_damage(shard):
        return pq.read_schema(shard).names != SCHEMA.names


def _rows_of(paths: Iterable[Path]) -> Iterator[dict]:
    for path in paths:
        yield from read_shard(path).to_pylist()


def _row_groups(rows: Iterator[dict]) -> Iterator[pa.Table]:
    """Tables of at most `BUFFER_BYTES` (but at least one video). They depend on the rows only."""
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        if group and size + len(row["video_features"]) > BUFFER_BYTES:
            yield rows_to_table(group)
            group, size = [], 0
        group.append(row)
        size += len(row["video_features"])
    if group:
        yield rows_to_table(group)


def _replace_lines(path: Path, records: list[dict]) -> None:
    if not records:
        path.unlink(missing_ok=True)
        return
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
