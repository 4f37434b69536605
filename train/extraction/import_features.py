"""`polyvid import-features`: converts existing features to the shards that `polyvid extract` would have made."""

import csv
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from polyvid.dataset_scripts.pickles import load_pickle
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.video_reading_mmp import VideoError
from polyvid.train.extraction.shards import FORMAT, FeatureShards, Jobs, Results
from polyvid.train.wording import counted

Loaders = dict[str, Callable[[], np.ndarray]]


def open_source(path: Path) -> Loaders:
    """`{video_id: function that loads its array}` for a folder of `.npy` files, a pickled dict or an HDF5 file.

    In HDF5 each dataset is one video. Its id is the name of the dataset, or of its group if the dataset is called
    `features`.

    Raises:
        FileNotFoundError: if there is no such source.
        PolyvidError: if its format is not supported, or it is empty.
        ImportError: for HDF5 without h5py.
    """
    loaders: Loaders
    if path.is_dir():
        loaders = {file.stem: partial(np.load, file, allow_pickle=False) for file in path.rglob("*.npy")}
    elif not path.is_file():
        raise FileNotFoundError(f"No folder of .npy, .pkl or .h5 at {path}.")
    elif path.suffix in (".pkl", ".pickle"):
        arrays = load_pickle(path, encoding="latin1")  # many were written by Python 2
        if not isinstance(arrays, dict):
            raise PolyvidError(f"{path} holds a {type(arrays).__name__}, not a dict of video ids with an array each.")
        loaders = {str(video_id): partial(np.asarray, array) for video_id, array in arrays.items()}
    elif path.suffix in (".h5", ".hdf5"):
        loaders = _open_hdf5(path)
    else:
        raise PolyvidError(f"Cannot read {path}: give a folder of .npy files, a .pkl or an .h5 file.")
    if not loaders:
        raise PolyvidError(f"No features in {path}.")
    return loaders


def _open_hdf5(path: Path) -> Loaders:
    try:
        import h5py
    except ImportError:
        raise ImportError("HDF5 needs one more package: pip install h5py") from None
    try:
        file = h5py.File(path)
    except OSError as error:
        raise PolyvidError(f"Cannot read {path}: {error}") from None
    loaders: Loaders = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            loaders[name.removesuffix("/features")] = lambda: item[()]

    file.visititems(visit)
    return loaders


def to_seconds(features: np.ndarray, rate: float) -> np.ndarray:
    """(n, dim) at `rate` vectors per second -> (seconds, dim): the mean of the vectors that start in each second.

    Raises:
        VideoError: if the array is not two-dimensional, or has fewer than one vector per second.
    """
    if features.ndim == 3 and features.shape[0] == 1:
        features = features[0]  # some extractors keep the batch dimension
    if features.ndim != 2 or not len(features):
        raise VideoError(f"features must be [seconds, dim], got shape {list(features.shape)}")
    if rate == 1:
        return features
    second = np.floor(np.arange(len(features)) / rate + 1e-9).astype(int)
    counts = np.bincount(second)
    if not counts.all():
        raise VideoError(f"at {rate} vectors a second, some seconds have none")
    return np.stack([part.mean(0, dtype=np.float64) for part in np.split(features, np.cumsum(counts)[:-1])])


def import_features(
    output: Annotated[Path, typer.Argument(help="Folder for the Parquet shards.")],
    sources: Annotated[list[Path], typer.Argument(help="Folder of .npy, .pkl or .h5; several are concatenated.")],
    num_shards: Annotated[int, typer.Option(min=1, help="Number of shards: the same as the subtitles.")] = 16,
    rate: Annotated[float, typer.Option(help="Vectors per second in the sources; several are averaged.")] = 1.0,
    width: Annotated[int | None, typer.Option(help="Width after concatenation; other videos are refused.")] = 1024,
    encoder: Annotated[
        list[str] | None,
        typer.Option(help="The network that made a source, such as s3d_howto100m: one for each source, in order."),
    ] = None,
    durations: Annotated[Path | None, typer.Option(help="CSV `video_id,seconds`: check the number of vectors.")] = None,
) -> None:
    """Turn features you already have (.npy per video, pickled dict, HDF5) into feature shards.

    A video whose features do not fit (shape, width, number for its duration, NaN) goes to OUTPUT/failures.jsonl.
    """
    if rate < 1:
        raise PolyvidError(f"--rate must be at least one vector a second, got {rate}.")
    if encoder and len(encoder) != len(sources):
        raise PolyvidError(f"{len(sources)} sources need as many --encoder, one for each in order; got {len(encoder)}.")
    opened = [open_source(source) for source in sources]
    seconds = _read_durations(durations) if durations else {}
    shards = FeatureShards(output, num_shards, "polyvid import-features")
    settings: dict[str, Any] = {"sources": [source.name for source in sources], "rate": rate, "width": width}
    if encoder:
        settings |= {"format": FORMAT, "encoders": [{"id": name} for name in encoder]}
    shards.check_settings(settings)

    def load(video_id: str) -> np.ndarray | VideoError:
        try:
            parts = []
            for source, loaders in zip(sources, opened, strict=True):
                if video_id not in loaders:
                    raise VideoError(f"not in {source}")
                parts.append(to_seconds(np.asarray(loaders[video_id](), dtype=np.float32), rate))
            lengths = [len(part) for part in parts]
            if max(lengths) - min(lengths) > 1:  # extractors treat the last, incomplete second differently
                raise VideoError(f"the sources have {lengths} seconds")
            features = np.concatenate([part[: min(lengths)] for part in parts], axis=1)
            if width is not None and features.shape[1] != width:
                raise VideoError(f"width {features.shape[1]}, expected {width}")
            if video_id in seconds and abs(len(features) - seconds[video_id]) > max(2, 0.05 * seconds[video_id]):
                found = len(features) * rate / seconds[video_id]
                raise VideoError(
                    f"{len(features)} seconds of features for a video of {seconds[video_id]:g} s: "
                    f"the rate is rather {found:.3g} a second than {rate:g}"
                )
            return features
        except (OSError, ValueError) as error:
            return error if isinstance(error, VideoError) else VideoError(f"unreadable: {error}")

    def compute(jobs: Jobs) -> Results:
        for video_id, _ in jobs:
            yield video_id, load(video_id)

    videos = {video_id: sources[0] for video_id in sorted(set().union(*opened))}
    shards.fill(videos, compute, range(num_shards), retry_failed=True)
    failures = shards.failures()
    failed = f"{len(failures)} failed (failures.jsonl)." if failures else "none failed."
    done = len(videos) - len(failures)
    typer.echo(f"{output}: features of {done} of {counted(len(videos), 'video')}, {failed}")
    if len(failures) == len(videos):
        raise typer.Exit(1)


def _read_durations(path: Path) -> dict[str, float]:
    durations = {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                durations[row["video_id"]] = float(row["seconds"])
            except (KeyError, TypeError, ValueError):
                raise PolyvidError(f"{path}, line {number}: expected columns video_id,seconds, got {row}.") from None
            if not math.isfinite(durations[row["video_id"]]) or durations[row["video_id"]] <= 0:
                raise PolyvidError(f"{path}, line {number}: a duration must be greater than 0, not {row['seconds']}.")
    return durations
