"""Bottom-up-attention region features for Multi30K, from the formats people have them in (§5.6: 36 x 2048).

- `.tsv` as the original extraction code writes it: image id, width, height, number of boxes, boxes, features; the last
  two base64 of float32 (`flickr30k_train.tsv.0`, ...);
- a folder of `<image>.npz` with the features under `features`, `x` or `arr_0`;
- a folder of `<image>.npy`, or one `.npy` `[images, regions, 2048]` with a list of image names, a line each.

What comes out is a feature dataset like that of videos, with regions in place of seconds.
"""

import base64
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from tqdm import tqdm

from polyvid.dataset_scripts.benchmark import read_lines
from polyvid.dataset_scripts.building import shard_name, write_shard
from polyvid.dataset_scripts.features import FEATURES, features_to_row, refuse_extraction, rows_to_table
from polyvid.dataset_scripts.locking import locked
from polyvid.modeling.errors_mmp import PolyvidError

NPZ_KEYS = ("features", "x", "arr_0")
ROWS_PER_GROUP = 256


def read_regions(
    path: str | os.PathLike, image_list: str | os.PathLike | None = None, dim: int = 2048
) -> Iterator[tuple[str, np.ndarray]]:
    """Pairs of an image's name (without `.jpg`) and its region features (regions, dim), float32.

    Args:
        path: a file or folder of one of the formats above.
        image_list: names of the images of a `.npy` that holds all of them.

    Raises:
        FileNotFoundError: if there is nothing of these formats.
        PolyvidError: for a broken or cut off entry, naming file and image or line.
    """
    path = Path(path)
    if path.is_file() and ".tsv" in path.name:
        yield from _read_tsv(path, dim)
    elif path.is_file() and path.suffix == ".npy":
        if image_list is None:
            raise PolyvidError(f"{path} does not say which image is which: pass the list of image names too.")
        names, arrays = [_name(line) for line in read_lines(Path(image_list)) if line], np.load(path, mmap_mode="r")
        if arrays.ndim != 3 or len(arrays) != len(names):
            raise PolyvidError(f"{path} has shape {arrays.shape}, but {image_list} names {len(names)} images.")
        for name, array in zip(names, arrays, strict=True):
            yield name, _checked(array, dim, path, name)
    else:
        files = sorted(p for p in path.rglob("*") if p.suffix in (".npz", ".npy") or ".tsv" in p.name)
        if not files:
            raise FileNotFoundError(f"No .tsv, .npz or .npy region features in {path}.")
        for file in files:
            if ".tsv" in file.name:
                yield from _read_tsv(file, dim)
            else:
                yield _name(file.stem), _checked(_load(file), dim, file, file.stem)


def convert_regions(
    path: str | os.PathLike,
    output_dir: str | os.PathLike,
    image_list: str | os.PathLike | None = None,
    max_regions: int = 36,
    dim: int = 2048,
) -> int:
    """Write region features as a feature dataset, `train-00000-of-00001.parquet`, and return the number of images.

    The file appears when it is complete. Of more than `max_regions` regions the first are kept.
    """
    shard = Path(output_dir) / shard_name("train", 0, 1)
    rows = (
        features_to_row(name, regions[:max_regions])
        for name, regions in tqdm(read_regions(path, image_list, dim), unit=" images")
    )
    tables = (rows_to_table(group) for group in iter(lambda: list(islice(rows, ROWS_PER_GROUP)), []))
    with locked(output_dir, "polyvid regions"):
        refuse_extraction(Path(output_dir))
        return write_shard(tables, shard, FEATURES.arrow_schema.remove_metadata())


def regions(
    path: Annotated[Path, typer.Argument(help="A .tsv or .npy file, or a folder of .tsv, .npz or .npy files.")],
    output_dir: Annotated[Path, typer.Argument(help="Where the feature dataset is written.")],
    image_list: Annotated[Path | None, typer.Option(help="Image names, for a .npy that holds all images.")] = None,
    max_regions: Annotated[int, typer.Option(min=1, help="Regions to keep per image (paper: 36).")] = 36,
) -> None:
    """Convert bottom-up-attention region features of Multi30K into a feature dataset."""
    print(f"{convert_regions(path, output_dir, image_list, max_regions):,} images")


def _read_tsv(file: Path, dim: int) -> Iterator[tuple[str, np.ndarray]]:
    with open(file, encoding="ascii") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.rstrip("\n").split("\t")
            try:
                name, num_boxes = _name(fields[0]), int(fields[3])
                values = np.frombuffer(base64.b64decode(fields[5], validate=True), dtype="<f4")
                regions = values.reshape(num_boxes, dim)
            except (ValueError, IndexError) as error:
                raise PolyvidError(f"{file}, line {number}: not a row of region features ({error}).") from error
            yield name, regions


def _load(file: Path) -> np.ndarray:
    try:
        content = np.load(file)
        if file.suffix == ".npy":
            return content
        key = next((key for key in NPZ_KEYS if key in content.files), None)
        if key is None:
            raise PolyvidError(f"none of {', '.join(NPZ_KEYS)} in it, only {', '.join(content.files)}")
        return content[key]
    except (ValueError, EOFError, OSError) as error:
        raise PolyvidError(f"{file}: cannot be read ({error}).") from error


def _checked(array: np.ndarray, dim: int, file: Path, name: str) -> np.ndarray:
    if array.ndim == 2 and array.shape[1] != dim and array.shape[0] == dim:
        array = array.T  # some releases store (dim, regions)
    if array.ndim != 2 or array.shape[1] != dim:
        raise PolyvidError(f"{file}, image {name}: expected features (regions, {dim}), found {array.shape}.")
    return np.asarray(array, dtype=np.float32)


def _name(image: str) -> str:
    return image.strip().removesuffix(".jpg")
