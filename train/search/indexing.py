"""Embeds folders of feature shards, row group by row group, so that a stopped run can be resumed.

`index_features` writes a new index; `change_index` adds to one, removes from it, or brings it up to date.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm import tqdm

from polyvid.dataset_scripts.building import find_shards, open_shard, read_shard, refuse_damage
from polyvid.dataset_scripts.features import features_from_row, recorded_encoders
from polyvid.dataset_scripts.locking import locked
from polyvid.modeling import MMPModel, MMPProcessor, VideoIndex
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.index_engines_mmp import engine_factory
from polyvid.modeling.index_vectors_mmp import check_storage
from polyvid.modeling.provenance_mmp import Encoders, refuse_other_encoders
from polyvid.train.dual_encoders.searching import load_searching_model


def index_features(
    features: Path,
    output: Path,
    model: MMPModel,
    processor: MMPProcessor,
    metadata: Mapping[str, Mapping[str, object]] | None = None,
    moment_seconds: Sequence[int] | None = None,
    storage: str = "float16",
    engine: str = "auto",
    options: Mapping[str, Any] | None = None,
    allow_other_encoders: bool = False,
    correct: Callable[[VideoIndex], None] | None = None,
) -> tuple[VideoIndex, int]:
    """Embeds all videos of a folder and writes their index.

    The part of each row group is kept in `.{name of output}.parts` until the index is written, so a run that was
    stopped only embeds what is missing. A run with another model or other settings does not use these parts.

    Args:
        features: folder of feature shards.
        output: the index file.
        model, processor: embed the videos.
        metadata: `{video_id: {column: number or text}}`.
        moment_seconds, storage: as for [`VideoIndex.build`].
        engine, options: of the index that is written.
        allow_other_encoders: embed features of networks that the model was not made for.
        correct: sets up corrections of scores, when all videos are embedded.

    Returns:
        The index, and how many videos have no metadata.

    Raises:
        PolyvidError: if the folder holds no video or features of other networks than the model was made for, if another
            process writes this index, and what [`VideoIndex.build`] refuses.
        OSError: if the folder cannot be read or the index cannot be written.
    """
    if engine != "auto":
        engine_factory(engine, options or {})  # what can be checked before hours of work
    check_storage(storage)
    encoders = _encoders_for(features, model, allow_other_encoders)
    with locked(output, "polyvid index"):
        folder = output.with_name(f".{output.name}.parts")
        run = folder / _run_of(model, moment_seconds, storage, encoders)
        build = partial(
            VideoIndex.build,
            model,
            processor=processor,
            moment_seconds=moment_seconds,
            storage=storage,
            engine="exact",
            encoders=encoders,
            allow_other_encoders=allow_other_encoders,
        )
        parts = _embed(find_shards(features), run, build)
        if not parts:
            raise PolyvidError(f"There is no video in {features}.")
        whole = VideoIndex.cat(parts, metadata)
        unknown = sum(video_id not in metadata for video_id in whole.video_ids) if metadata else 0
        if correct is not None:
            correct(whole)
        index = whole.with_engine(engine, **(options or {}))
        index.save(output)
        shutil.rmtree(folder)
    return index, unknown


def _encoders_for(features: Path, model: MMPModel, allow_others: bool) -> Encoders | None:
    """Records of the networks behind a folder of features; None if that was not recorded.

    Raises:
        PolyvidError: if the model was made for others, unless that is allowed.
    """
    encoders = recorded_encoders(features)
    refuse_other_encoders(
        str(features),
        encoders,
        model.name_or_path or "the model",
        model.config.video_encoders,
        "extract features with the networks of that model, or pass --allow-other-encoders.",
        allow=allow_others,
    )
    return encoders


def change_index(
    output: Path,
    features: Path | None = None,
    model: str | None = None,
    device: str | None = None,
    metadata: Mapping[str, Mapping[str, object]] | None = None,
    remove: Collection[str] = (),
    refresh: bool = False,
) -> tuple[VideoIndex, int, int]:
    """Changes an index in the way it was made.

    Args:
        output: the index file. A database that it is the address of changes at once, the file when all is embedded.
        features: a folder whose videos are added, in place of those of the same ids.
        model, device: as for `load_model`; by default the model that made the index.
        metadata: of the videos that are added.
        remove: ids of videos to remove.
        refresh: make the index hold the videos of `features` and no others. Embeds those that are new, and those in
            shards that were written after the index.

    Returns:
        The index, and how many videos were added (or embedded again) and removed.

    Raises:
        PolyvidError: if the file is no index, if another process writes it, for a video to remove that it does not
            have, and what [`VideoIndex.add`] refuses. Then the file is as it was.
        OSError: if the folder or the model cannot be read, or the index cannot be written.
    """
    with locked(output, "polyvid index"):
        index = VideoIndex.load(output)
        if features is not None:
            index.check_grows()  # before hours of work
        if remove:
            index.remove(remove)
        added, gone = 0, set[str]()
        folder = output.with_name(f".{output.name}.parts")
        if features is not None:
            shards, known = find_shards(features), set[str]()
            if refresh:
                ids = [read_shard(shard, ["video_id"])["video_id"].to_pylist() for shard in shards]
                known = set(index.video_ids).intersection(name for of in ids for name in of)
                gone = set(index.video_ids) - known
            written = output.stat().st_mtime_ns
            old = {shard for shard in shards if shard.stat().st_mtime_ns <= written}
            load = load_searching_model(model or index.made_by, device)
            index.check_model(*load)
            encoders = _encoders_for(features, load[0], index.other_encoders) or index.video_encoders
            parts = _embed_like(
                index, *load, encoders, shards, folder, lambda shard, name: shard in old and name in known
            )
            if parts:
                part = VideoIndex.cat(parts, metadata)
                index.add(part)
                added = len(part.video_ids)
            if gone:
                index.remove(gone)
        index.save(output)
        shutil.rmtree(folder, ignore_errors=True)
    return index, added, len(gone) + len(remove)


def _embed_like(
    index: VideoIndex,
    model: MMPModel,
    processor: MMPProcessor,
    encoders: Encoders | None,
    shards: list[Path],
    folder: Path,
    is_known: Callable[[Path, str], bool],
) -> list[VideoIndex]:
    """Indexes, made as `index` was, of the videos in the shards that it does not know."""
    storage = "float16" if index.engine.vectors is None else index.engine.vectors.storage
    moments = index.moment_seconds or None
    build = partial(
        VideoIndex.build,
        model,
        processor=processor,
        moment_seconds=moments,
        storage=storage,
        engine="exact",
        encoders=encoders,
        allow_other_encoders=index.other_encoders,
    )
    # What is known decides which videos are in a part.
    known = list(index.video_ids) if index.engine.rows is not None else []
    return _embed(shards, folder / _run_of(model, moments, storage, encoders, known), build, is_known)


def _embed(
    shards: list[Path],
    run: Path,
    build: Callable[[dict[str, Any]], VideoIndex],
    is_known: Callable[[Path, str], bool] = lambda shard, video_id: False,
) -> list[VideoIndex]:
    """The index of each row group that holds videos: from the folder of the run, or built and saved there.

    Args:
        is_known: whether a video of a shard needs no work.
    """
    parts = []
    videos = sum(pq.read_metadata(shard).num_rows for shard in shards)
    with tqdm(desc="index", total=videos, unit=" videos") as progress:
        for shard in shards:
            with ExitStack() as opened:
                file: pq.ParquetFile | None = None  # opened once, where anything is missing: that looks at every page
                for name, group in _row_groups(shard):
                    path = run / f"{name}.safetensors"
                    part = _load_part(path)
                    if part is None:
                        with refuse_damage(shard):
                            file = file or opened.enter_context(open_shard(shard))
                            rows = file.read_row_group(group).to_pylist()
                        rows = [row for row in rows if not is_known(shard, row["video_id"])]
                        if not rows:
                            continue
                        build({row["video_id"]: features_from_row(row) for row in rows}).save(path)
                        part = VideoIndex.load(path, verify=False)  # mapped from the file, not in memory
                    parts.append(part)
                    progress.update(len(part.video_ids))
    return parts


def _load_part(path: Path) -> VideoIndex | None:
    """A part that an earlier run saved; a damaged one is built again."""
    try:
        return VideoIndex.load(path) if path.exists() else None
    except PolyvidError:
        return None


def _run_of(
    model: MMPModel,
    moment_seconds: Sequence[int] | None,
    storage: str,
    encoders: Encoders | None,
    known: Sequence[str] = (),
) -> str:
    """A name that changes with the settings, with the networks behind the features, with the model's weights and with
    the videos that need no work."""
    weights = [path.stat() for path in sorted(Path(model.name_or_path).glob("*.safetensors"))]
    stats = [(stat.st_size, stat.st_mtime_ns) for stat in weights]
    settings = [model.name_or_path, stats, moment_seconds, storage, encoders, *known]
    return hashlib.blake2b(json.dumps(settings).encode(), digest_size=8).hexdigest()


def _row_groups(shard: Path) -> Iterator[tuple[str, int]]:
    """The units of work of a shard: a name that changes with it, and the row group's number."""
    stat = shard.stat()
    for group in range(pq.read_metadata(shard).num_row_groups):
        yield f"{shard.stem}-{group:05d}-{stat.st_size}-{stat.st_mtime_ns}", group
