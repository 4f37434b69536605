"""Captioned videos of one's own as a dataset for the Hub: Parquet with the videos in it, which play in the viewer."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from datasets import DatasetInfo, Features, Value, Video
from tqdm import tqdm

from polyvid.dataset_scripts.building import ShardedWriter, atomic_path
from polyvid.dataset_scripts.own_data.captions import OwnVideo
from polyvid.dataset_scripts.own_data.opening import OwnDataset, open_own
from polyvid.dataset_scripts.schema import CAPTIONS, language_name
from polyvid.modeling.errors_mmp import PolyvidError

CONFIG = "default"
SHARD_BYTES = 500 << 20  # of videos, about
FEATURES = Features({"video_id": Value("string"), "video": Video(decode=False), "captions": CAPTIONS["captions"]})
"""A row: `CAPTIONS` and the file itself, which `load_dataset` gives as `datasets.Video`."""


def build_own(
    name: str,
    output_dir: Path,
    data_dir: Path | None = None,
    columns: Mapping[str, str] | None = None,
    num_shards: int | None = None,
) -> int:
    """Write `output_dir/default/*.parquet` and a card. The caller holds the lock of `output_dir`.

    Args:
        name, data_dir, columns: as for `open_own`.
        num_shards: of each split; default: enough for about 500 MB each.

    Returns:
        The number of videos.

    Raises:
        PolyvidError: if a video is not there, or the table names no files.
    """
    own = open_own(name, data_dir=data_dir, columns=columns)
    folder = output_dir / CONFIG
    unfinished = folder.with_name(f".{CONFIG}.incomplete")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a run that was killed
    unfinished.mkdir(parents=True)
    try:
        for split in own.splits:
            videos = [video for video in own.videos if video.split == split]
            size = sum(_size(own, video) for video in videos)
            shards = num_shards or 1 + size // SHARD_BYTES
            with ShardedWriter(unfinished, FEATURES, split, shards) as writer:
                for video in tqdm(videos, desc=f"{CONFIG}/{split}", unit=" videos"):
                    writer.write(pa.Table.from_pylist([_row(own, video)], schema=writer.schema))
        with atomic_path(output_dir / "README.md") as card:
            card.write_text(_card(own), encoding="utf-8")
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return len(own.videos)


def _row(own: OwnDataset, video: OwnVideo) -> dict[str, Any]:
    content = _file(own, video)
    if isinstance(content, Path):
        path, contained = content.name, content.read_bytes()
    else:
        path, contained = f"{video.video_id}.mp4", content()
    return {"video_id": video.video_id, "video": {"bytes": contained, "path": path}, "captions": video.captions}


def _size(own: OwnDataset, video: OwnVideo) -> int:
    content = _file(own, video)
    return content.stat().st_size if isinstance(content, Path) else len(content())


def _file(own: OwnDataset, video: OwnVideo) -> Path | Callable[[], bytes]:
    if video.cell is not None:
        return video.cell.content
    if video.file_name is None or own.folder is None:
        raise PolyvidError(f"{video.where}: no file is named, which a dataset of videos needs: add a column file_name.")
    if not (path := own.folder / video.file_name).is_file():
        raise PolyvidError(f"{video.where}, column file_name: there is no {path}.")
    if not path.resolve().is_relative_to(own.folder.resolve()):  # someone else's table may name someone else's secrets
        raise PolyvidError(
            f"{video.where}, column file_name: {path} is a link to a file outside the folder, which would be published "
            "with it. Copy it into the folder."
        )
    return path


def _card(own: OwnDataset) -> str:
    """The dataset's card. `dataset_info` tells `load_dataset` and the viewer that the column holds videos."""
    files = [{"split": split, "path": f"{CONFIG}/{split}-*.parquet"} for split in own.splits]
    features = Features({**FEATURES, "video": Video()})
    info = DatasetInfo(features=features)._to_yaml_dict()
    metadata = {
        "pretty_name": own.label,
        "language": own.languages,
        "task_categories": ["text-to-video", "video-text-to-text"],
        "tags": ["text-to-video-retrieval", "video", "polyvid"],
        "configs": [{"config_name": CONFIG, "data_files": files}],
        "dataset_info": {"config_name": CONFIG, "features": info["features"]},
    }
    names = ", ".join(language_name(language) for language in own.languages)
    drawn = f" Which video is in which split was drawn ({own.protocol})." if own.is_drawn else ""
    return (
        f"---\n{yaml.safe_dump(metadata, allow_unicode=True, sort_keys=False)}---\n\n# {own.label}\n\n"
        f"{len(own.videos):,} videos with captions in {names}, made from `{own.origin}` by `polyvid build`.{drawn}\n\n"
        "A row holds `video_id`, the `video` and its `captions` (caption_id, language, text, source). Whoever "
        "publishes it says here where videos and captions come from, and under which licence.\n"
    )
