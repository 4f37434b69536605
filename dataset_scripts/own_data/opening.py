"""What a recipe or a command names as its dataset: a dataset of this package, or one's own.

A known name (`msrvtt`, `vtt`) is a dataset of this package. Anything else is one's own: a folder with `metadata.csv`,
`.jsonl` or `.parquet`, a folder that `load_dataset` reads, or a dataset on the Hub, `owner/name`.
"""

import csv
import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from polyvid.dataset_scripts.building import atomic_path, known_datasets, load_builder
from polyvid.dataset_scripts.hub import check_source
from polyvid.dataset_scripts.own_data.captions import OwnVideo, VideoCell, read_videos, split_name
from polyvid.dataset_scripts.own_data.tables import METADATA, Table, find_table, read_table
from polyvid.dataset_scripts.protocols import ALIASES, canonical_benchmark, protocols_of
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.paths_mmp import is_local_path

Row = dict[str, Any]
"""A row of `polyvid.dataset_scripts.schema.CAPTIONS`."""

SHARES = {"test": 0.1, "validation": 0.1}
"""Of the videos, where nothing says which split they belong to; the rest is for training."""

READABLE = (".parquet", ".jsonl", ".json", ".csv", ".arrow")
"""Files by which `load_dataset` may read a folder."""

ALL = "all"
"""In place of a split: the videos of all of them."""


@dataclass(frozen=True)
class OwnDataset:
    """Captioned videos of one's own.

    Attributes:
        name: as it was named.
        origin: the file, folder or Hub dataset that the captions come from.
        videos: all of them, with their captions and the split they belong to.
        protocol: how they are split, for results: "own splits", or "hashed, seed 0".
        folder: that holds the video files, if there is one.
        label: a short name for results and folders.
    """

    name: str
    origin: str
    videos: list[OwnVideo]
    protocol: str
    folder: Path | None = None

    @property
    def label(self) -> str:
        return shown_name(self.name).replace("/", "--")

    @property
    def is_drawn(self) -> bool:
        """Whether nothing but a seed says which video is in which split."""
        return self.protocol.startswith("hashed")

    @property
    def splits(self) -> list[str]:
        """The names of its splits: training, validation and test first."""
        known = ["train", "validation", "test"]
        names = {str(video.split) for video in self.videos}
        return [*(name for name in known if name in names), *sorted(names - set(known))]

    @property
    def languages(self) -> list[str]:
        """Languages with captions, that with the most captions first."""
        counts: dict[str, int] = {}
        for video in self.videos:
            for caption in video.captions:
                counts[caption["language"]] = counts.get(caption["language"], 0) + 1
        return sorted(counts, key=lambda language: (-counts[language], language))

    def rows(self, split: str) -> list[Row]:
        """The videos of a split (`"all"`: of every split) with their captions.

        Raises:
            PolyvidError: if no video belongs to it.
        """
        rows = [
            {"video_id": video.video_id, "captions": list(video.captions)}
            for video in self.videos
            if split in (video.split, ALL)
        ]
        if not rows:
            advice = "data.split_seed draws others" if self.is_drawn and split in SHARES else "a column split says so"
            raise PolyvidError(
                f"{self.name} has no videos in the split {split!r}: choose from {' '.join([*self.splits, ALL])}, or "
                f"put some there ({advice})."
            )
        return rows

    def write_splits(self, path: Path) -> None:
        """Write down which video is in which split, as a table that `metadata` can take over."""
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["video_id", "split"])
            writer.writerows((video.video_id, video.split) for video in self.videos)


def shown_name(name: str) -> str:
    """A dataset's name for others to read: a folder's without its path, else as it is."""
    return Path(name).resolve().name if is_local_path(name) else name


def known_dataset(name: str) -> str | None:
    """The folder name of a dataset of this package: `"VTT"` and `"msrvtt"` give `"msrvtt"`; None for one's own.

    Raises:
        PolyvidError: for a name that is neither.
    """
    code = ALIASES.get(name.lower(), name.lower())
    known = known_datasets()
    if code in known:
        return code
    if Path(name).exists() or "/" in name or is_local_path(name):
        return None
    nearest = difflib.get_close_matches(code, [*ALIASES, *known], n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise PolyvidError(
        f"Unknown dataset {name!r}: choose from {' '.join(known)} (or {' '.join(ALIASES)}), or give a folder with "
        f"{METADATA[0]}, or the id of a dataset on the Hub, owner/name.{hint}"
    )


def open_splits(
    name: str,
    config: str | None = None,
    data_dir: str | Path | None = None,
    splits: Sequence[str] | None = None,
    languages: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> Mapping[str, Iterable[Row]]:
    """Split → rows of a benchmark of this package, or of captioned videos of one's own.

    Args:
        name: of a benchmark, or as for `open_own`.
        config: default: the paper's protocol.
        data_dir: folder with the benchmark's official files, or with one's own videos.
        splits: only these.
        languages: only captions in these; default: all that people wrote.
        columns: of one's own captions.

    Raises:
        FileNotFoundError, PolyvidError: as for the builders, and as for `open_own`.
    """
    if known_dataset(name) is not None:
        known = canonical_benchmark(name)
        options: dict[str, Any] = {"splits": splits, "languages": languages and list(languages)}
        protocol = config or next(iter(protocols_of(known)))
        builder = load_builder(known)(config_name=protocol, data_dir=data_dir and str(data_dir), **options)
        return cast(Mapping[str, Iterable[Row]], builder.as_streaming_dataset())
    own = open_own(name, config, data_dir, columns)
    found = {split: own.rows(split) for split in splits or own.splits}
    for row in (row for rows in found.values() for row in rows):
        row["captions"] = [c for c in row["captions"] if languages is None or c["language"] in languages]
    return found


def open_own(
    name: str,
    config: str | None = None,
    data_dir: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    split_seed: int = 0,
) -> OwnDataset:
    """Open captioned videos of one's own. Captions are read, videos are not.

    Where neither a column `split` nor a folder nor the dataset says which split a video belongs to, the hash of
    (`split_seed`, video id) does: a tenth of the videos is for validation, a tenth for tests. Videos that are added
    later move no other video.

    Args:
        name: a folder or a Hub id.
        config: of a dataset that has several.
        data_dir: folder of the videos, if it is not the folder of the table.
        columns: what the columns are called, where it is something else, see `read_videos`.
        split_seed: for another draw.

    Raises:
        FileNotFoundError: if there is no such folder.
        PolyvidError: if it holds no captions, or wrong ones; names file, row and column.
        OSError: if the Hub cannot be reached, or wants a login.
    """
    check_source(name, "folder of captioned videos", "dataset")
    folder = Path(name)
    root: Path | None = Path(data_dir) if data_dir is not None else folder
    if folder.is_dir() and (tables := _tables_in(folder)):
        if config is not None:
            raise PolyvidError(f"{tables[0].name} has no configs: leave out {config!r}.")
        origin = " ".join(str(Path(folder.resolve().name) / Path(table.name).relative_to(folder)) for table in tables)
    elif folder.is_dir() and not any(path.suffix in READABLE for path in folder.rglob("*")):
        raise PolyvidError(f"{folder} holds no table of captions ({' or '.join(METADATA)}) and no dataset.")
    else:
        if data_dir is None and not folder.is_dir():
            root = None
        tables, origin = _load(name, config, columns or {}), name
        columns = {meaning: column for meaning, column in (columns or {}).items() if meaning != "video"}
    videos = read_videos(tables, columns)
    if all(video.split is None for video in videos):
        for video in videos:
            video.split = _drawn_split(video.video_id, split_seed)
        protocol = f"hashed, seed {split_seed}"
    else:
        protocol = "own splits"
    return OwnDataset(name, origin, videos, protocol, root)


def parse_columns(options: list[str]) -> dict[str, str]:
    """`["en=caption"]` -> `{"en": "caption"}`.

    Raises:
        PolyvidError: for an option that is not of this form.
    """
    found = {}
    for option in options:
        meaning, equals, column = option.partition("=")
        if not meaning or not equals or not column:
            raise PolyvidError(f"--column {option}: write meaning=column, such as en=caption or video_id=clip.")
        found[meaning] = column
    return found


def _tables_in(folder: Path) -> list[Table]:
    """The table of a folder, or those of its sub-folders, each for the split it is named after."""
    if (file := find_table(folder)) is not None:
        return [read_table(file)]
    found = []
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        if (file := find_table(part)) is not None:
            table = read_table(file, split_name(part.name))
            for _, row in table.rows:  # names of files are relative to the table
                if isinstance(row.get("file_name"), str) and row["file_name"]:
                    row["file_name"] = f"{part.name}/{row['file_name']}"
            found.append(table)
    return found


def _drawn_split(video_id: str, seed: int) -> str:
    digest = hashlib.blake2b(f"{seed} {video_id}".encode(), digest_size=8).digest()
    number, below = int.from_bytes(digest, "little") / 2**64, 0.0
    for split, share in SHARES.items():
        below += share
        if number < below:
            return split
    return "train"


def _load(name: str, config: str | None, columns: Mapping[str, str]) -> list[Table]:
    """The tables of what `load_dataset` reads, one a split. A single split named train says nothing about its rows."""
    from datasets import Video, load_dataset  # takes seconds
    from datasets.exceptions import DatasetNotFoundError

    try:
        found = load_dataset(name, config)
    except DatasetNotFoundError as error:
        raise FileNotFoundError(
            f"{' '.join(str(error).split())} What is private or gated needs `hf auth login`, or HF_TOKEN."
        ) from error
    except (ValueError, RuntimeError) as error:  # several configs, a script, ...
        raise PolyvidError(f"{name} cannot be loaded as a dataset: {error}") from error
    tables = []
    for split, rows in found.items():
        recorded = [column for column, feature in rows.features.items() if isinstance(feature, Video)]
        for column in recorded:
            rows = rows.cast_column(column, Video(decode=False))
        video = columns.get("video") or next(iter(recorded), None)
        if video is not None and video not in rows.column_names:
            raise PolyvidError(f"{name}, split {split} has no column {video!r} (data.columns.video).")
        table: pa.Table = rows.with_format("arrow")[:]  # mapped into memory: videos are not read
        values = table.drop_columns([*{*recorded, video} & {*table.column_names}]).to_pylist()
        if video is not None:
            for row, cell in zip(values, _cells(table[video], f"{name}, split {split}, column {video}"), strict=True):
                row["video"] = cell
        names = list(dict.fromkeys([*table.column_names, *(["video"] if video is not None else [])]))
        says_nothing = len(found) == 1 and split == "train"
        numbered = [(f"row {number}", row) for number, row in enumerate(values, 1)]
        tables.append(Table(f"{name}, split {split}", names, numbered, None if says_nothing else split_name(split)))
    return tables


def _cells(column: pa.ChunkedArray, where: str) -> list[VideoCell | None]:
    """The values of a column of videos: bytes, or a path and bytes of which one is missing."""
    kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        sizes = pc.binary_length(column).to_pylist()
        return [VideoCell(None, partial(_bytes_at, column, index), size) for index, size in enumerate(sizes)]
    if not (pa.types.is_struct(kind) and {kind.field(i).name for i in range(kind.num_fields)} >= {"bytes", "path"}):
        raise PolyvidError(f"{where} holds no videos but {kind}.")
    contents = pc.struct_field(column, "bytes")
    paths, sizes = pc.struct_field(column, "path").to_pylist(), pc.binary_length(contents).to_pylist()
    return [
        VideoCell(path, Path(path) if size is None and path else partial(_bytes_at, contents, index), size)
        for index, (path, size) in enumerate(zip(paths, sizes, strict=True))
    ]


def _bytes_at(column: pa.ChunkedArray, index: int) -> bytes:
    return bytes(column[index].as_py())
