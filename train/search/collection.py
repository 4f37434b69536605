"""Keeps the index of a user's own videos: extracts and embeds what is new or changed, drops what is gone.

Everything that is known of a file is in its metadata in the index, so the index alone says what is left to do. Finished
videos are kept in small indexes next to it until all are done; a run that was stopped goes on from there.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from polyvid.dataset_scripts.locking import LockedError, locked
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.video_index_mmp import VideoIndex
from polyvid.train.search.sources import Source

MOMENT_SECONDS = (4, 8, 16)
"""Lengths of the windows, unless others are asked for: the best of those that tests/benchmarks/moments.py compares."""
KEEP_EVERY = 10.0  # seconds of work that a stopped run may lose
KEPT_AT_ONCE = 32  # videos that are embedded together
FACTS = ("bytes", "modified")
"""What is compared first; only a file that differs in these is read, for its hash."""

Facts = dict[str, Any]
"""Metadata of a video: bytes, modified, blake2b, seconds."""


@dataclass(frozen=True)
class Settings:
    """How an index is made, as far as the user says it; None stands for how it was made before, or for the default."""

    model: str | None = None
    encoders: tuple[str, ...] | None = None
    moment_seconds: tuple[int, ...] | None = None
    device: str | None = None
    workers: int = 1


@dataclass(frozen=True)
class Collection:
    """An index that is up to date.

    Attributes:
        index: of all videos that could be read. If any were embedded now, it reads queries with the model that did it.
        failures: `{video_id: reason}` of the others.
        done: how many videos were extracted and embedded for it now.
        removed: how many are gone since the last time.
    """

    index: VideoIndex
    failures: dict[str, str]
    done: int = 0
    removed: int = 0


def open_collection(source: Source, path: Path, settings: Settings, retry_failed: bool = False) -> Collection:
    """The index of some videos, brought up to date.

    Args:
        source: the videos.
        path: of the index, which is made if it does not exist.
        settings: for a new index; one that exists must have been made so.
        retry_failed: try files again that could not be read before and have not changed.

    Raises:
        PolyvidError: if no video can be read, for an index that was made otherwise, without a model or its encoders,
            and if another process works on this index.
        OSError: if there is no such model, or the index cannot be written.
    """
    work = _Work(source, path, settings, retry_failed)
    if work.is_done():  # then the index is not written, and others may read
        work.remove_leftovers()
        return work.collection()
    with locked(path, "polyvid search"):
        work = _Work(source, path, settings, retry_failed)  # another run may just have done it
        return work.collection() if work.is_done() else work.run()


class _Work:
    """What is left to do for an index, and doing it."""

    def __init__(self, source: Source, path: Path, settings: Settings, retry_failed: bool):
        self.source, self.path, self.settings = source, path, settings
        self.old = VideoIndex.load(path) if path.exists() else None
        if self.old is not None:
            _check_settings(self.old, path, settings)
        self.known = {} if self.old is None else _metadata(self.old)
        self.now = {video_id: facts for video_id, file in source.files.items() if (facts := _facts_of(file))}
        failed = {} if retry_failed else _read_failures(self._failures_path())
        self.failed = {name: of for name, of in failed.items() if _same(of, self.now.get(name))}
        self.gone = sorted(self.known.keys() - self.now.keys())
        self.todo = [
            name
            for name, facts in self.now.items()
            if name not in self.failed and not _same(self.known.get(name), facts)
        ]
        # A file that could be read before and now cannot is not what the index says.
        self.gone += sorted(self.failed.keys() & self.known.keys())
        self.towers: tuple[Any, Any] | None = None  # the model that embeds videos, and its processor, once loaded

    def is_done(self) -> bool:
        return not self.todo and not self.gone

    def remove_leftovers(self) -> None:
        """What a run left that was killed after it had written the index. If another run is at work, it does this."""
        if self._parts_path().exists():
            with suppress(LockedError, OSError), locked(self.path, "polyvid search"):
                shutil.rmtree(self._parts_path())

    def collection(self, done: int = 0) -> Collection:
        """
        Raises:
            PolyvidError: if no video could be read.
        """
        failures = {name: "no such file" for name in self.source.files if name not in self.now}
        failures = dict(sorted((failures | {name: of["reason"] for name, of in self.failed.items()}).items()))
        if self.old is None:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(failures.items())[:3])
            name, count = self.source.name, len(self.source.files)
            said = f"None of the {count} videos in {name} can" if count > 1 else f"The only video in {name} cannot"
            raise PolyvidError(f"{said} be read ({reasons}). --retry-failed tries again.")
        return Collection(self.old, failures, done, len(set(self.gone) - self.failed.keys()))

    def run(self) -> Collection:
        """Does what is left and writes the index, then the list of failures."""
        unchanged = {name: facts for name in self.todo if (facts := self._touched(name))}
        todo = [name for name in self.todo if name not in unchanged]
        parts = self._embed(todo) if todo else []
        index, metadata = self.old, {name: of for part in parts for name, of in _metadata(part).items()}
        if parts:
            joined = VideoIndex.cat(parts, metadata)
            if index is None:
                index = joined
            else:
                index.add(joined)
        if index is not None:
            stale = set(self.gone) | (self.failed.keys() & set(index.video_ids))
            if stale >= set(index.video_ids):
                index = None
            elif stale:
                index.remove(stale)
        if index is not None:
            if self.towers is not None:
                index.read_queries_with(*self.towers)
            if unchanged and index.engine.rows is not None:
                rows = index.engine.rows
                rows.columns.update(rows.with_metadata(rows.metadata() | unchanged).columns)
            index.save(self.path)
        else:
            self.path.unlink(missing_ok=True)
        _write_failures(self._failures_path(), self.failed)
        shutil.rmtree(self._parts_path(), ignore_errors=True)
        self.old = index
        return self.collection(len(metadata))

    def _touched(self, name: str) -> Facts | None:
        """The facts of a file that changed its time alone, not its content."""
        before = self.known.get(name)
        if before is None or before["bytes"] != self.now[name]["bytes"]:
            return None
        return before | self.now[name] if _hash_of(self.source.files[name]) == before["blake2b"] else None

    def _embed(self, todo: list[str]) -> list[VideoIndex]:
        """Indexes of these videos: what an earlier run kept, and new ones. Fills in `failed`."""
        from polyvid.train.dual_encoders.searching import load_searching_model
        from polyvid.train.search.frames import load_encoders

        named = self.settings.model or (self.old.made_by if self.old is not None else "")
        if not named:
            raise PolyvidError("To search videos for the first time, pass --model: the folder or Hub id of a model.")
        model, processor = self.towers = load_searching_model(named, self.settings.device)
        if self.old is not None:
            self.old.check_model(model, processor)
        encoders = load_encoders(model, self.settings.encoders)
        lengths = self.old.moment_seconds if self.old is not None else self.settings.moment_seconds or MOMENT_SECONDS
        settings = json.dumps([model.name_or_path, encoders.records, lengths], sort_keys=True)
        folder = self._parts_path() / hashlib.blake2b(settings.encode(), digest_size=8).hexdigest()
        parts = [part for file in sorted(folder.glob("*.safetensors")) if (part := _load_part(file)) is not None]
        wanted, kept = set(todo), []
        for part in parts:
            names = {name for name, of in _metadata(part).items() if _same(of, self.now.get(name)) and name in wanted}
            if stale := set(part.video_ids) - names:
                if not names:
                    continue
                part.remove(stale)
            wanted -= names
            kept.append(part)

        def keep(videos: dict[str, np.ndarray], facts: dict[str, Facts]) -> None:
            made = VideoIndex.build(
                model,
                videos,
                processor=processor,
                metadata=facts,
                moment_seconds=lengths or None,
                engine="exact",
                encoders=encoders.records,
            )
            made.save(folder / f"{time.time_ns()}.safetensors")
            kept.append(made)

        jobs = [(name, self.source.files[name]) for name in todo if name in wanted]
        results = encoders.extract(jobs, self.settings.workers)
        with tqdm(results, "videos", len(todo), initial=len(todo) - len(jobs), unit=" videos") as progress:
            self._keep_in_parts(progress, keep)
        return kept

    def _keep_in_parts(
        self,
        results: Iterable[tuple[str, np.ndarray | ValueError]],
        keep: Callable[[dict[str, np.ndarray], dict[str, Facts]], None],
    ) -> None:
        """Hands on what `results` finds, some videos at a time, and notes which failed."""
        videos: dict[str, np.ndarray] = {}
        facts: dict[str, Facts] = {}
        last = time.monotonic()
        try:
            for name, found in results:
                path = self.source.files[name]
                if isinstance(found, ValueError):
                    self.failed[name] = self.now[name] | {"reason": str(found)}
                elif not _same(_facts_of(path), self.now[name]):
                    self.failed[name] = self.now[name] | {"reason": "the file changed while it was read"}
                else:
                    videos[name] = found
                    facts[name] = self.now[name] | {"blake2b": _hash_of(path), "seconds": len(found)}
                if len(videos) == KEPT_AT_ONCE or (videos and time.monotonic() - last > KEEP_EVERY):
                    keep(videos, facts)
                    videos, facts, last = {}, {}, time.monotonic()
        finally:
            if videos:
                keep(videos, facts)

    def _parts_path(self) -> Path:
        return self.path.with_name(f".{self.path.name}.parts")

    def _failures_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.failures.json")


def _check_settings(index: VideoIndex, path: Path, settings: Settings) -> None:
    """
    Raises:
        PolyvidError: if the index was made otherwise than the user wants.
    """
    advice = f"leave the option out, or pass --index for another index, or delete {path}."
    if settings.model is not None and Path(settings.model).exists():
        model = str(Path(settings.model).resolve())
    else:
        model = settings.model or index.made_by
    made_by = str(Path(index.made_by).resolve()) if Path(index.made_by).exists() else index.made_by
    if model != made_by:
        raise PolyvidError(f"The index of these videos was made by {index.made_by}, not by {settings.model}: {advice}")
    if settings.moment_seconds not in (None, index.moment_seconds):
        lengths = ",".join(map(str, index.moment_seconds)) or "whole videos"
        raise PolyvidError(f"The index of these videos was made with --moment-seconds {lengths}: {advice}")


def _metadata(index: VideoIndex) -> dict[str, Facts]:
    if index.engine.rows is None:
        raise PolyvidError("The index is in a database: search it by the name of its file.")
    return index.engine.rows.metadata()


def _facts_of(path: Path) -> Facts | None:
    """Size and time of a file; None if it is gone."""
    try:
        stat = path.stat()
    except OSError:
        return None
    seconds, rest = divmod(stat.st_mtime_ns, 10**9)
    return {"bytes": stat.st_size, "modified": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09}Z"}


def _same(one: Facts | None, other: Facts | None) -> bool:
    return one is not None and other is not None and all(one.get(name) == other.get(name) for name in FACTS)


def _hash_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _load_part(path: Path) -> VideoIndex | None:
    try:
        return VideoIndex.load(path)
    except PolyvidError:  # damaged: its videos are extracted again
        return None


def _read_failures(path: Path) -> dict[str, Facts]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_failures(path: Path, failed: dict[str, Facts]) -> None:
    from polyvid.dataset_scripts.building import write_json  # it imports datasets, which takes seconds

    if failed:
        write_json(path, failed)
    else:
        path.unlink(missing_ok=True)
