"""The formulas of `polyvid plan`, and the quantities that they are computed from.

A formula is text that is both printed and computed, so that the two cannot differ. It may use the names of
`rates.yaml`, those of the machine (`devices`, `cores`, `price`, `storage_price`) and those of the lines above it.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from polyvid.modeling.errors_mmp import PolyvidError

RATES = Path(__file__).with_name("rates.yaml")
DEVICES = {"gpu": "GPU", "cpu": "CPU core"}
FUNCTIONS = {"floor": math.floor, "max": max, "sqrt": math.sqrt}


@dataclass(frozen=True)
class Quantity:
    """A size or a rate: None where it was not measured."""

    value: float | None
    unit: str
    source: str


@dataclass(frozen=True)
class Line:
    """A line of the plan.

    Args:
        name: by which later lines refer to it.
        formula: of names and numbers.
        unit: `h`, `bytes`, `money` or what is counted.
    """

    name: str
    formula: str
    unit: str


@dataclass(frozen=True)
class Estimate:
    """A line with its value, or with the names that have none."""

    line: Line
    value: float | None
    missing: tuple[str, ...] = ()


# Bytes by type of storage: of a vector in an index, and of its code in one of faiss, which adds the row's number.
VECTOR = {"float32": "embed_dim * 4", "float16": "embed_dim * 2", "int8": "embed_dim + 4"}
FAISS_CODE = {"float16": "embed_dim * 2", "int8": "embed_dim", "binary": "embed_dim / 8 + 8"}

STAGES: dict[str, tuple[Line, ...]] = {
    "build: subtitles in all languages to one dataset": (
        Line("json_disk", "all_subtitles * subtitle_bytes", "bytes"),
        Line("build_hours", "json_disk / 1e6 / build / 3600", "h"),
        Line("build_disk", "json_disk * build_size", "bytes"),
    ),
    "extract: videos to one float16 vector a second": (
        Line("video_hours", "videos * video_seconds / 3600", "h"),
        Line("video_disk", "videos * video_seconds * video_bytes", "bytes"),
        Line("network_hours", "video_hours / (extraction * devices)", "h"),
        Line("decoding_hours", "video_hours / (decoding * cores)", "h"),
        Line("extraction_hours", "max(network_hours, decoding_hours)", "h"),  # both run at the same time
        Line("extraction_price", "extraction_hours * devices * price", "money"),
        Line("features_disk", "videos * video_seconds * feature_dim * 2", "bytes"),
    ),
    "join: features next to subtitles": (
        Line("join_hours", "features_disk / 1e6 / join / 3600", "h"),
        Line("join_disk", "features_disk + build_disk", "bytes"),
    ),
    "train: one clip of each video an epoch": (
        Line("steps", "epochs * floor(videos / batch_size)", "steps"),
        Line("training_hours", "steps * batch_size / (training * devices) / 3600", "h"),
    ),
    "index: one moment for each English subtitle": (
        Line("embedding_hours", "subtitles / (embedding * devices) / 3600", "h"),
        # A row also has the number of its video and its first and last second: three times 4 bytes.
        *(Line(f"vectors_{name}", f"subtitles * ({size} + 12)", "bytes") for name, size in VECTOR.items()),
        Line("cells", "floor(2 * sqrt(subtitles))", "cells"),
        # k-means compares 40 vectors a cell with all cells, ten times; then each vector finds its cell.
        Line("faiss_hours", "(subtitles + 400 * cells) * cells * embed_dim / (faiss * 1e9 * cores) / 3600", "h"),
        *(Line(f"faiss_memory_{name}", f"subtitles * ({size} + 8)", "bytes") for name, size in FAISS_CODE.items()),
        # The table keeps float16 vectors next to int8 codes; ids and times are left out (21 bytes of 789 at width 256).
        Line("lance_disk", "subtitles * (embed_dim * 2 + embed_dim)", "bytes"),
        Line("lance_price", "lance_disk / 1e12 * storage_price", "money a month"),
    ),
    "in all": (
        Line("disk", "json_disk + build_disk + features_disk + join_disk + vectors_float16", "bytes"),
        Line("device_hours", "(extraction_hours + training_hours + embedding_hours) * devices", "h"),
        Line("device_price", "device_hours * price", "money"),
    ),
}


def load_quantities(device: str, path: Path = RATES) -> dict[str, Quantity]:
    """Sizes and rates by name.

    Args:
        device: `gpu` or `cpu`: which rates are taken of stages that have both.
    """
    tables: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = {}
    for name, entry in (tables["sizes"] | tables["rates"]).items():
        value = entry[device] if device in entry else entry["value"]
        source = entry["source"] if value is not None else ""
        unit = entry["unit"] + (f", one {DEVICES[device]}" if device in entry else "")
        found[name] = Quantity(value, unit, source)
    return found


def changed(quantities: Mapping[str, Quantity], changes: Iterable[str]) -> dict[str, Quantity]:
    """The quantities with those of the user, `name=number`.

    Raises:
        PolyvidError: for an unknown name, or a value that is no number above 0.
    """
    result = dict(quantities)
    for change in changes:
        name, _, text = change.partition("=")
        if name not in result:
            nearest = difflib.get_close_matches(name, result, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"choose from {' '.join(result)}."
            raise PolyvidError(f"There is no size or rate {name!r}; {hint}")
        try:
            value = float(text.replace("_", ""))
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise PolyvidError(f"{change}: write {name}=NUMBER, with a number above 0 ({result[name].unit}).")
        result[name] = Quantity(value, result[name].unit, "given")
    return result


def plan(quantities: Mapping[str, Quantity], machine: Mapping[str, float | None]) -> dict[str, list[Estimate]]:
    """Every stage with its lines.

    Args:
        quantities: of `load_quantities`, maybe changed.
        machine: `devices` that compute with networks, `cores` for the rest, `price` of a device for an hour and
            `storage_price` of a terabyte (10^12 bytes) for a month, where known.

    Example: 3,600 videos of ten seconds are ten hours.

    >>> sizes = {"videos": Quantity(3600, "", ""), "video_seconds": Quantity(10, "", "")}
    >>> plan(sizes, {})["extract: videos to one float16 vector a second"][0].value
    10.0
    """
    values: dict[str, float | None] = {name: quantity.value for name, quantity in quantities.items()} | dict(machine)
    missing: dict[str, tuple[str, ...]] = {}
    result: dict[str, list[Estimate]] = {}
    for stage, lines in STAGES.items():
        result[stage] = []
        for line in lines:
            code = compile(line.formula, line.name, "eval")
            names = [name for name in code.co_names if name not in FUNCTIONS]
            unknown = [root for name in names if values.get(name) is None for root in missing.get(name, (name,))]
            missing[line.name] = tuple(dict.fromkeys(unknown))
            # Formulas are constants of this file, so that nothing else is ever evaluated.
            value = None if unknown else eval(code, {"__builtins__": {}} | FUNCTIONS, values)
            values[line.name] = value
            result[stage].append(Estimate(line, value, missing[line.name]))
    return result
