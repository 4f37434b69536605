"""Join features with the subtitles or captions of the same videos, so that training reads one stream."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from tqdm import tqdm

from polyvid.dataset_scripts.building import (
    ShardedWriter,
    find_shards,
    open_shard,
    read_shard,
    refuse_damage,
    shard_name,
    write_json,
    write_shard,
)
from polyvid.dataset_scripts.features import SETTINGS, recorded_encoders, refuse_extraction
from polyvid.dataset_scripts.locking import locked
from polyvid.dataset_scripts.own_data.opening import open_splits
from polyvid.dataset_scripts.own_data.tables import has_table
from polyvid.dataset_scripts.schema import CAPTIONS, shard_of
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.paths_mmp import check_local_path
from polyvid.modeling.provenance_mmp import shown_encoders


def join(
    dataset_dir: Annotated[
        Path, typer.Argument(help="One built config, e.g. multi-howto100m/all; or a folder with metadata.csv.")
    ],
    features_dir: Annotated[Path, typer.Argument(help="Feature shards, as `polyvid extract` writes them.")],
    output_dir: Annotated[Path, typer.Argument(help="Output folder for the joined shards.")],
    feature_split: Annotated[str, typer.Option(help="The split that holds the features of all videos.")] = "train",
) -> dict[str, dict]:
    """Put each video's features in one row with its subtitles or captions, shard by shard.

    Both must be sharded by the hash of the video id, as `polyvid build` and `polyvid extract` do, one number of shards
    a multiple of the other; the output has the larger number. Finished shards in the output are kept if they hold the
    videos of these inputs, so the same command resumes a run that was stopped.

    Memory: the dataset's side of one output shard and one row group of features.

    Returns:
        per split what `output_dir/join_report.json` says: the number of rows, and the ids of the videos that lack
        features, lack the dataset's side, or have features twice (the first are used).

    Raises:
        FileNotFoundError: when a shard is missing on either side.
        PolyvidError: when the numbers of shards do not divide, another process writes to `output_dir`, it was joined
            with features of other networks, or holds an input or another extraction.
    """
    output_dir = Path(output_dir)
    for folder in (dataset_dir, features_dir):
        check_local_path(folder, "folder of shards")
        if output_dir.resolve() == Path(folder).resolve():
            raise PolyvidError(f"{output_dir} would be joined into itself: choose another folder for the output.")
    with locked(output_dir, "polyvid join"), ExitStack() as stack:
        refuse_extraction(output_dir)
        if has_table(dataset_dir):
            built = Path(stack.enter_context(TemporaryDirectory()))
            _write_shards(dataset_dir, len(find_shards(features_dir, feature_split)), built)
            dataset_dir = built
        return _join(dataset_dir, features_dir, output_dir, feature_split)


def _write_shards(folder: Path, num_shards: int, output: Path) -> None:
    """Captions of one's own as shards, as many as the features have."""
    for split, rows in open_splits(str(folder)).items():
        with ShardedWriter(output, CAPTIONS, split, num_shards) as writer:
            writer.write(pa.Table.from_pylist(list(rows), schema=writer.schema))


def _join(dataset_dir: Path, features_dir: Path, output_dir: Path, feature_split: str) -> dict[str, dict[str, Any]]:
    report: dict[str, dict[str, Any]] = {}
    _keep_settings(Path(features_dir), Path(output_dir))
    for split in sorted({path.name.split("-")[0] for path in Path(dataset_dir).glob("*-*-of-*.parquet")}) or ["train"]:
        rows, features = find_shards(dataset_dir, split), find_shards(features_dir, feature_split)
        num_shards = max(len(rows), len(features))
        if num_shards % len(rows) or num_shards % len(features):
            raise PolyvidError(
                f"{len(rows)} shards in {dataset_dir} and {len(features)} in {features_dir} do not join: "
                "one number must be a multiple of the other. Build the dataset again with a fitting number of shards."
            )
        for index in tqdm(range(num_shards), desc=f"join {split}", unit=" shards"):
            output = Path(output_dir) / shard_name(split, index, num_shards)
            schemas = pq.read_schema(features[0]), pq.read_schema(rows[0])
            if both := sorted(set(schemas[0].names) & set(schemas[1].names) - {"video_id"}):
                raise PolyvidError(
                    f"{dataset_dir} and {features_dir} both have a column {both[0]!r}: join a dataset of subtitles or "
                    "captions with features."
                )
            schema = pa.unify_schemas(schemas)
            sources = rows[index % len(rows)], features[index % len(features)], index, num_shards
            if not (output.exists() and _is_joined(output, schema, *sources)):
                write_shard(_join_shard(*sources), output, schema)
        row_ids, feature_ids = list(_video_ids(rows)), list(_video_ids(features))
        report[split] = {
            "rows": len(set(row_ids) & set(feature_ids)),
            "without_features": sorted(set(row_ids) - set(feature_ids)),
            "without_rows": sorted(set(feature_ids) - set(row_ids)),
            "features_twice": sorted(video_id for video_id, count in Counter(feature_ids).items() if count > 1),
        }
        print(
            f"{split}: {report[split]['rows']} videos joined, {len(report[split]['without_features'])} lack features, "
            f"{len(report[split]['without_rows'])} have only features"
        )
    write_json(Path(output_dir) / "join_report.json", report)
    return report


def _keep_settings(features: Path, output: Path) -> None:
    """Next to the joined shards, the record of how their features were made.

    Raises:
        PolyvidError: if the output was joined with features of other networks.
    """
    found = any(output.glob("*-*-of-*.parquet"))
    if found:
        before, now = recorded_encoders(output), recorded_encoders(features)
        if before is not None and before != now:
            raise PolyvidError(
                f"{output} was joined with features of {shown_encoders(before)}, {features} holds features of "
                f"{shown_encoders(now) if now else 'unknown networks'}: join into another folder."
            )
    elif recorded_encoders(features) is not None:
        write_json(output / SETTINGS, json.loads((features / SETTINGS).read_text(encoding="utf-8")))


def _is_joined(
    output: Path, schema: pa.Schema, rows_path: Path, features_path: Path, index: int, num_shards: int
) -> bool:
    """Whether an output shard is whole and holds the videos that both sides have now."""
    try:
        found, columns = list(_video_ids([output])), pq.read_schema(output)
    except (PolyvidError, OSError) as error:
        print(f"{error} It is written again.")
        return False
    wanted = set(_video_ids([rows_path])) & set(_video_ids([features_path]))
    wanted = {video_id for video_id in wanted if shard_of(video_id, num_shards) == index}
    if len(found) == len(wanted) and set(found) == wanted and columns.equals(schema):
        return True
    print(f"{output} was made from other shards; it is written again.")
    return False


def _join_shard(rows_path: Path, features_path: Path, index: int, num_shards: int) -> Iterator[pa.Table]:
    rows = pa.concat_tables(_rows_of_shard(rows_path, index, num_shards))
    row_of = {video_id: row for row, video_id in enumerate(rows["video_id"].to_pylist())}
    for features in _rows_of_shard(features_path, index, num_shards):
        # pop: the second features of a video find no partner
        partners = [row_of.pop(video_id, None) for video_id in features["video_id"].to_pylist()]
        found = [position for position, row in enumerate(partners) if row is not None]
        if found:
            joined = features.take(pa.array(found))
            partner_rows = rows.take(pa.array([partners[position] for position in found]))
            for name in partner_rows.column_names:
                if name != "video_id":
                    joined = joined.append_column(name, partner_rows[name])
            yield joined


def _rows_of_shard(path: Path, index: int, num_shards: int) -> Iterator[pa.Table]:
    """The row groups of a file, less the rows of other shards; the first table may be empty but is always there."""
    file = open_shard(path)
    yield file.schema_arrow.empty_table()
    for group in range(file.num_row_groups):
        with refuse_damage(path):
            table = file.read_row_group(group)
        yield table.filter([shard_of(video_id, num_shards) == index for video_id in table["video_id"].to_pylist()])


def _video_ids(shards: Iterable[Path]) -> Iterator[str]:
    for shard in shards:
        yield from read_shard(shard, ["video_id"])["video_id"].to_pylist()
