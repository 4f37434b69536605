"""Video features as a dataset: the column, writing and reading it.

A row is `{video_id, num_seconds, video_features}`; `video_features` is one binary value, the little-endian float16
array `[num_seconds, dim]` in C order. Read as a buffer it is 5-10 times faster than `Array2D` or nested lists, and
every version of datasets reads it alike. It is "large" binary: its 64-bit offsets read faster and never overflow. The
width is not stored: it is `len(buffer) / 2 / num_seconds`.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Features, Value

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.provenance_mmp import KEYS, Encoders, checked_encoders

SETTINGS = "extraction.json"
"""The file next to shards of features that says how they were made."""

PROGRESS = ".extraction"
"""The folder, next to these shards, of what an extraction keeps for its next run. It is there from its first moment."""

FEATURES = Features(
    {"video_id": Value("string"), "num_seconds": Value("int32"), "video_features": Value("large_binary")}
)
"""One feature per second of video (App. C): row i is the second [i, i + 1)."""


def refuse_extraction(folder: Path) -> None:
    """Keep a command from replacing the shards of an extraction in its output folder, which have the same names.

    Raises:
        PolyvidError: if there is one, finished or not.
    """
    if (folder / PROGRESS).exists():
        raise PolyvidError(f"{folder} holds features of `polyvid extract` or `import-features`: choose another folder.")


def features_to_row(video_id: str, features: np.ndarray) -> dict:
    """`features` [num_seconds, dim] of any float type -> a row of `FEATURES`.

    Raises:
        PolyvidError: when the array is not two-dimensional, is empty, or holds values that float16 cannot (NaN,
            infinity, magnitude above 65504).
    """
    features = np.asarray(features)
    if features.ndim != 2 or 0 in features.shape:
        raise PolyvidError(f"Features of video {video_id} must be [num_seconds, dim], not {list(features.shape)}.")
    with np.errstate(over="ignore"):
        halves = np.ascontiguousarray(features, dtype="<f2")
    if not np.isfinite(halves).all():
        raise PolyvidError(f"Features of video {video_id} hold NaN, infinity or values beyond float16.")
    return {"video_id": video_id, "num_seconds": len(halves), "video_features": halves.tobytes()}


def features_from_row(row: dict) -> np.ndarray:
    """A row of `FEATURES` -> float16 array `[num_seconds, dim]`: a read-only view of the row's bytes, nothing copied.

    Raises:
        PolyvidError: when the buffer is not a whole number of float16 rows; names the video.
    """
    buffer, num_seconds = row["video_features"], row["num_seconds"]
    if not num_seconds or len(buffer) == 0 or len(buffer) % (2 * num_seconds):
        raise PolyvidError(
            f"Features of video {row['video_id']}: {len(buffer)} bytes are not {num_seconds} float16 rows; "
            "extract this video again."
        )
    return np.frombuffer(buffer, dtype="<f2").reshape(num_seconds, -1)


def rows_to_table(rows: Iterable[dict]) -> pa.Table:
    """Rows of `FEATURES` as an Arrow table, ready for `write_shard`."""
    return pa.Table.from_pylist(list(rows), schema=FEATURES.arrow_schema.remove_metadata())


def recorded_encoders(folder: str | Path) -> Encoders | None:
    """Which networks made the features in a folder of shards (see `polyvid.modeling.provenance_mmp`).

    None if there is no `extraction.json`, or one of a version that did not record it.

    Raises:
        PolyvidError: if the file is damaged.
    """
    path = Path(folder) / SETTINGS
    if not path.is_file():
        return None
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if "format" not in settings.keys():  # so that what is no dictionary counts as damaged
            return None
        encoders = checked_encoders(settings["encoders"], str(path))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PolyvidError(f"{path} is damaged ({error}): extract or import into a new folder.") from None
    known = {"per": settings["per"]} if "per" in settings else {}
    return [{key: record[key] for key in KEYS if key in record} | known for record in encoders or []]
