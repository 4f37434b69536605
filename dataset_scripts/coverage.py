"""Which videos of a benchmark have features: many are gone from the web, and a score must say what it is over.

Results are reported over the whole protocol, where a query for a missing video counts as not found, and over the
videos with features alone.
"""

import os
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from polyvid.dataset_scripts.building import all_shards, read_shard, write_json
from polyvid.dataset_scripts.locking import locked
from polyvid.dataset_scripts.own_data.opening import known_dataset, open_splits, parse_columns


@dataclass
class Coverage:
    """Of one split: how many videos and captions there are, and which videos lack features."""

    videos: int = 0
    captions: int = 0
    captions_with_features: int = 0
    missing: list[str] = field(default_factory=list)

    @property
    def with_features(self) -> int:
        return self.videos - len(self.missing)


def feature_coverage(
    splits: Mapping[str, Iterable[Mapping]], features: Container[str]
) -> tuple[dict[str, list[Mapping]], dict[str, Coverage]]:
    """Restrict a benchmark to the videos with features, and count what is left.

    Args:
        splits: split -> rows of `polyvid.dataset_scripts.schema.CAPTIONS`.
        features: anything that knows whether it contains a video id (`feature_video_ids`, `VideoFeatures`).

    Returns:
        split -> the rows whose video has features, and split -> `Coverage`.
    """
    kept: dict[str, list[Mapping]] = {}
    report: dict[str, Coverage] = {}
    for split, rows in splits.items():
        kept[split], coverage = [], report.setdefault(split, Coverage())
        for row in rows:
            coverage.videos += 1
            coverage.captions += len(row["captions"])
            if row["video_id"] in features:
                coverage.captions_with_features += len(row["captions"])
                kept[split].append(row)
            else:
                coverage.missing.append(row["video_id"])
    return kept, report


def feature_video_ids(folder: str | os.PathLike) -> set[str]:
    """The ids of the videos in a folder of feature shards; the features themselves are not read.

    Raises:
        FileNotFoundError: if the folder holds no shards.
    """
    return {
        video_id for shard in all_shards(folder) for video_id in read_shard(shard, ["video_id"])["video_id"].to_pylist()
    }


def to_markdown(report: Mapping[str, Coverage]) -> str:
    """The report as a Markdown table."""
    lines = ["| split | videos | with features | captions | with features |", "| --- | ---: | ---: | ---: | ---: |"]
    for split, c in report.items():
        share = 100 * c.with_features / c.videos if c.videos else 0.0
        lines.append(
            f"| {split} | {c.videos:,} | {c.with_features:,} ({share:.1f} %) "
            f"| {c.captions:,} | {c.captions_with_features:,} |"
        )
    return "\n".join(lines)


def coverage(
    benchmark: Annotated[
        str, typer.Argument(help="A benchmark, such as vtt or lsmdc; or a folder with metadata.csv, or a Hub id.")
    ],
    features: Annotated[Path, typer.Option(help="Folder of feature shards.")],
    data_dir: Annotated[Path | None, typer.Option(help="Folder with the benchmark's official files.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Default: the paper's protocol.")] = None,
    split: Annotated[list[str] | None, typer.Option(help="Only these splits.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Of your own captions: a column's name, such as en=caption. Repeatable.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the report, with the missing ids, as JSON.")] = None,
) -> None:
    """Count the videos of a benchmark's splits that have features, and list those that have none."""
    known_dataset(benchmark)  # rejects an unknown name
    with_features = feature_video_ids(features)  # fails at once where there is no such folder
    splits = open_splits(benchmark, protocol, data_dir, split, columns=parse_columns(column or []))
    _, report = feature_coverage(splits, with_features)
    print(to_markdown(report))
    if output is not None:
        with locked(output, "polyvid coverage"):
            write_json(output, {split: vars(c) | {"with_features": c.with_features} for split, c in report.items()})
