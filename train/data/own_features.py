"""Makes the features of one's own videos where they are missing, with the extraction of `polyvid extract`.

They are kept in `outputs/features/<name of the dataset>-<number>`, where the number stands for the place of the
videos and for the networks. So the next run, whatever it is, finds them, makes only those of new videos, and resumes
what was stopped.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from polyvid.dataset_scripts.building import write_json
from polyvid.dataset_scripts.coverage import feature_video_ids
from polyvid.dataset_scripts.own_data.opening import OwnDataset
from polyvid.dataset_scripts.schema import shard_of
from polyvid.modeling import MMPConfig
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.frame_encoders_mmp import FrameEncoder, check_encoder
from polyvid.modeling.provenance_mmp import KEYS, Encoders
from polyvid.modeling.video_encoders_mmp import VideoEncoders
from polyvid.train.data.parallel import load_parallel_texts
from polyvid.train.data.videos import caption_languages, load_videos, open_dataset
from polyvid.train.extraction.job import Extraction, Per, decoding_processes
from polyvid.train.extraction.listing import list_videos
from polyvid.train.extraction.shards import FeatureShards
from polyvid.train.recipe import ALL_LANGUAGES, DataRecipe
from polyvid.train.wording import counted

FEATURES = Path("outputs") / "features"
CONTENTS = "videos.json"
"""Next to the features: of which contents they were made."""

NUM_SHARDS = 16
Content = Path | Callable[[], bytes]


class Launch(NamedTuple):
    """The processes of a run: the number of this one, how many there are, and how to wait for the others."""

    rank: int
    processes: int
    wait: Callable[[], object]


ALONE = Launch(0, 1, lambda: None)


def complete_data(data: DataRecipe, init_from: str | None, launch: Launch = ALONE) -> None:
    """Fill in what a recipe leaves to its dataset: languages, if it says `[all]`, and the features of one's own videos.

    Args:
        data: is changed.
        init_from: the model to start from, whose networks make the features unless the recipe names others.
        launch: each of its processes makes its share of the features.

    Raises:
        PolyvidError: if there are neither features nor videos, or nothing says which networks to use.
    """
    if data.clips is None and data.languages == ALL_LANGUAGES:
        texts = load_parallel_texts(data.parallel_texts) if data.parallel_texts is not None else None
        data.languages = caption_languages(load_videos(data, data.train_split, "all") if texts is None else texts)
    if data.validation_split is not None and data.validation_languages == ALL_LANGUAGES:
        data.validation_languages = caption_languages(load_videos(data, data.validation_split, "all"))
    if data.clips is not None or data.features is not None or data.texts_only or (own := open_dataset(data)) is None:
        return
    videos = videos_at_hand(own)
    if data.video_encoders:
        for name in data.video_encoders:
            check_encoder(name)
        encoders = Extraction(Path(), tuple(data.video_encoders)).load_encoders()
        records: Encoders = [encoder.describe() | {"per": "second"} for encoder in encoders]
        folder = make_features(own, videos, lambda: encoders, records, launch)
    elif init_from is not None and (recorded := MMPConfig.from_pretrained(init_from).video_encoders):
        folder = make_features(own, videos, partial(_load, init_from, recorded), recorded, launch)
    else:
        raise PolyvidError(
            f"{own.name} has videos, but nothing says which networks make their features: set data.video_encoders, "
            "such as [efficientnet-lite0], or data.features if you have them."
        )
    data.features = str(folder)


def features_for(own: OwnDataset, model: str) -> Path:
    """The features of a dataset's videos for a model, made where they are missing.

    Raises:
        PolyvidError: if no video is there, or the model does not say which networks it needs.
    """
    recorded = MMPConfig.from_pretrained(model).video_encoders
    videos = videos_at_hand(own)
    if not recorded:
        raise PolyvidError(f"{model} does not say which networks made its features: pass --features.")
    return make_features(own, videos, partial(_load, model, recorded), recorded)


def _load(model: str, records: Encoders) -> list[FrameEncoder]:
    return VideoEncoders.load(model, records, "cuda" if torch.cuda.is_available() else "cpu").encoders


def videos_at_hand(own: OwnDataset) -> dict[str, Content]:
    """Video id → its file, or what reads its bytes, of all videos that are there.

    Raises:
        PolyvidError: if none is.
    """
    found: dict[str, Content] = {}
    by_id: dict[str, Path] | None = None
    for video in own.videos:
        if video.cell is not None:
            found[video.video_id] = video.cell.content
        elif own.folder is not None and video.file_name is not None:
            if (path := own.folder / video.file_name).is_file():
                found[video.video_id] = path
        elif own.folder is not None:
            by_id = _listed(own.folder) if by_id is None else by_id
            if video.video_id in by_id:
                found[video.video_id] = by_id[video.video_id]
    if not found:
        first = own.videos[0]
        raise PolyvidError(
            f"{own.name} names {counted(len(own.videos), 'video')}, none of which is there (the first is "
            f"{first.file_name or first.video_id}), so that features cannot be made: check the names of the files, or "
            "name a folder of features (data.features, or --features)."
        )
    return found


def _listed(folder: Path) -> dict[str, Path]:
    try:
        return list_videos(folder)
    except PolyvidError as error:
        if "two videos" in str(error).lower():
            raise
        return {}  # there is none


def features_folder(own: OwnDataset, records: Encoders) -> Path:
    """Where the features of a dataset's videos by these networks are kept."""
    place = str(Path(own.name).resolve()) if Path(own.name).exists() else own.name
    known = [{key: record[key] for key in KEYS if key in record} for record in records]
    content = json.dumps([place, str(own.folder and own.folder.resolve()), known], sort_keys=True, default=list)
    return FEATURES / f"{own.label}-{hashlib.blake2b(content.encode(), digest_size=4).hexdigest()}"


def make_features(
    own: OwnDataset,
    videos: Mapping[str, Content],
    load: Callable[[], Sequence[FrameEncoder]],
    records: Encoders,
    launch: Launch = ALONE,
) -> Path:
    """Bring the features of a dataset's videos up to date, and say what is missing.

    Args:
        videos: those that are there.
        load: called for the networks if there is work for them.
        records: of the networks.
        launch: each of its processes makes its share.

    Returns:
        The folder of shards.

    Raises:
        PolyvidError: if a video has changed since its features were made, or none can be read.
        LockedError: if another run is making them.
    """
    folder = features_folder(own, records)
    todo = videos.keys() - _with_features(folder)
    seen = _seen(folder)
    contents = {name: _contents(path, seen.get(name)) for name, path in videos.items() if isinstance(path, Path)}
    changed = [n for n in contents if n not in todo and n in seen and contents[n]["digest"] != seen[n]["digest"]]
    if changed:
        raise PolyvidError(
            f"{counted(len(changed), 'video')} of {own.name} changed after the features were made; the first is "
            f"{changed[0]}: delete {folder} to make all again."
        )
    if todo:
        if launch.rank == 0:
            print(f"Making the features of {counted(len(todo), 'video')} of {own.name}, kept in {folder}.")
        _extract(videos, todo, folder, load(), cast(Per, records[0].get("per", "second")), launch)
    launch.wait()
    if launch.rank == 0 and contents != seen:
        write_json(folder / CONTENTS, contents)
    _report(own, videos, folder, speaks=launch.rank == 0)
    return folder


def _extract(
    videos: Mapping[str, Content],
    todo: Collection[str],
    folder: Path,
    encoders: Sequence[FrameEncoder],
    per: Per,
    launch: Launch,
) -> None:
    names = tuple(encoder.name for encoder in encoders)
    job = Extraction(folder, names, NUM_SHARDS, per, workers=decoding_processes(), retry_failed=True)
    shards = range(launch.rank, NUM_SHARDS, launch.processes)
    if all(isinstance(content, Path) for content in videos.values()):
        return job.run(shards, list(encoders), cast(dict[str, Path], dict(videos)))
    for shard in shards:  # one by one, so that few videos lie on the disk twice
        with tempfile.TemporaryDirectory() as temporary:
            files = {}
            for number, name in enumerate(name for name in videos if shard_of(name, NUM_SHARDS) == shard):
                content = videos[name]
                files[name] = content if isinstance(content, Path) else Path(temporary) / str(number)
                if not isinstance(content, Path) and name in todo:
                    files[name].write_bytes(content())
            job.run([shard], list(encoders), files)


def _report(own: OwnDataset, videos: Mapping[str, Content], folder: Path, speaks: bool) -> None:
    """Say what is missing. Every process of a launch raises the same error; one of them `speaks`."""
    failures = [f for f in FeatureShards(folder, NUM_SHARDS).failures() if f["video_id"] in videos]
    absent = [video.video_id for video in own.videos if video.video_id not in videos]
    if absent and speaks:
        print(
            f"{own.name} names {counted(len(own.videos), 'video')}; {len(absent)} of them cannot be found. "
            f"The first is {absent[0]}."
        )
    if len(failures) == len(videos):
        raise PolyvidError(f"No video of {own.name} can be read; the first is {_shown(failures[0])}.")
    if failures and speaks:
        print(
            f"{counted(len(failures), 'video')} of {own.name} cannot be read; the first is {_shown(failures[0])}; "
            f"{folder / 'failures.jsonl'} lists all."
        )


def _shown(failure: Mapping[str, str]) -> str:
    return f"{failure['video_id']} ({failure['reason']})"


def _with_features(folder: Path) -> set[str]:
    try:
        return feature_video_ids(folder)
    except FileNotFoundError:  # not all shards are written
        return set()


def _seen(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / CONTENTS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _contents(path: Path, seen: Mapping[str, Any] | None) -> dict[str, Any]:
    """Size, time and digest of a file. A file of the same size and time is not read again."""
    status = path.stat()
    if seen is not None and (seen["bytes"], seen["time"]) == (status.st_size, status.st_mtime_ns):
        return dict(seen)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).hexdigest()
    return {"bytes": status.st_size, "time": status.st_mtime_ns, "digest": digest}
