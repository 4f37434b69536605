"""Embeds a folder of feature shards, row group by row group, so that a stopped run can be resumed."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm import tqdm

from polyvid.dataset_scripts.building import find_shards, open_shard, refuse_damage
from polyvid.dataset_scripts.features import features_from_row, recorded_encoders
from polyvid.dataset_scripts.locking import locked
from polyvid.modeling import MMPModel, MMPProcessor, VideoIndex
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.index_engines_mmp import engine_factory
from polyvid.modeling.index_vectors_mmp import check_storage
from polyvid.modeling.provenance_mmp import Encoders, refuse_other_encoders


def index_features(
    features: Path,
    output: Path,
    model: MMPModel,
    processor: MMPProcessor,
    metadata: Mapping[str, Mapping[str, object]] | None = None,
    moment_seconds: int | None = None,
    storage: str = "float16",
    engine: str = "auto",
    options: Mapping[str, Any] | None = None,
    allow_other_encoders: bool = False,
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
    encoders = recorded_encoders(features)
    refuse_other_encoders(
        str(features),
        encoders,
        model.name_or_path or "the model",
        model.config.video_encoders,
        "extract features with the networks of that model, or pass --allow-other-encoders.",
        allow=allow_other_encoders,
    )
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
        index = whole.with_engine(engine, **(options or {}))
        index.save(output)
        shutil.rmtree(folder)
    return index, unknown


def _embed(shards: list[Path], run: Path, build: Callable[[dict[str, Any]], VideoIndex]) -> list[VideoIndex]:
    """The index of each row group that holds videos: from the folder of the run, or built and saved there."""
    parts = []
    videos = sum(pq.read_metadata(shard).num_rows for shard in shards)
    with tqdm(desc="index", total=videos, unit=" videos") as progress:
        for name, shard, group in _row_groups(shards):
            path = run / f"{name}.safetensors"
            part = _load_part(path)
            if part is None:
                with refuse_damage(shard):
                    rows = open_shard(shard).read_row_group(group).to_pylist()
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


def _run_of(model: MMPModel, moment_seconds: int | None, storage: str, encoders: Encoders | None) -> str:
    """A name that changes with the settings, with the networks behind the features and with the model's weights."""
    weights = [path.stat() for path in sorted(Path(model.name_or_path).glob("*.safetensors"))]
    settings = [model.name_or_path, [(s.st_size, s.st_mtime_ns) for s in weights], moment_seconds, storage, encoders]
    return hashlib.blake2b(json.dumps(settings).encode(), digest_size=8).hexdigest()


def _row_groups(shards: list[Path]) -> Iterator[tuple[str, Path, int]]:
    """The units of work: a name that changes with the shard, the shard, and the row group's number."""
    for shard in shards:
        stat = shard.stat()
        for group in range(pq.read_metadata(shard).num_row_groups):
            yield f"{shard.stem}-{group:05d}-{stat.st_size}-{stat.st_mtime_ns}", shard, group
