"""`polyvid index` and `polyvid search`: a collection of videos made searchable, and searched, from a terminal."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from pyarrow import csv as arrow_csv
from pyarrow import json as arrow_json
from tqdm import tqdm

from polyvid.dataset_scripts.building import find_shards
from polyvid.dataset_scripts.features import features_from_row
from polyvid.modeling import VideoIndex
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.scoring.evaluate import load_model

READERS = {".csv": arrow_csv.read_csv, ".jsonl": arrow_json.read_json, ".parquet": pq.read_table}


def index(
    features: Annotated[Path, typer.Argument(help="Folder of feature shards, made by polyvid extract.")],
    output: Annotated[Path, typer.Argument(help="The index, such as videos.safetensors.")],
    model: Annotated[str, typer.Option(help="Folder or Hub id of an MMP model.")],
    metadata: Annotated[
        Path | None,
        typer.Option(help="To filter by: a .csv, .jsonl or .parquet with a column video_id and one for each property."),
    ] = None,
    moment_seconds: Annotated[
        int | None, typer.Option(help="Index every second, with the seconds that follow up to this many.")
    ] = None,
    storage: Annotated[str, typer.Option(help="float32, float16 or int8.")] = "float16",
    engine: Annotated[str, typer.Option(help="exact, faiss, lance; auto: exact up to a million rows.")] = "auto",
    codes: Annotated[
        str | None, typer.Option(help="What faiss or lance compares before re-ranking: float16, int8 or binary.")
    ] = None,
    uri: Annotated[str | None, typer.Option(help="With --engine lance: a folder, s3://..., gs://..., db://...")] = None,
    table: Annotated[str | None, typer.Option(help="With --engine lance: the table's name.")] = None,
    push_to_hub: Annotated[str | None, typer.Option(help="Also upload it to this dataset repository.")] = None,
    device: Annotated[str | None, typer.Option(help="Default: cuda if there is one, else cpu.")] = None,
) -> None:
    """Make a collection of videos searchable: embed their features with a model and write an index.

    Stopped, the same command goes on where it was.
    """
    known = read_metadata(metadata) if metadata else {}
    shards = find_shards(features)
    loaded, processor = load_model(model, device)
    weights = [path.stat() for path in sorted(Path(model).glob("*.safetensors"))]
    settings = [model, [(s.st_size, s.st_mtime_ns) for s in weights], moment_seconds, storage]
    run = hashlib.blake2b(json.dumps(settings).encode(), digest_size=8).hexdigest()
    parts = output.with_name(f".{output.name}.parts")  # what other settings left there is not used
    found = []
    with tqdm(total=sum(pq.read_metadata(shard).num_rows for shard in shards), unit=" videos") as progress:
        for name, shard, group in _row_groups(shards):
            part = parts / run / f"{name}.safetensors"
            if not part.exists():
                rows = pq.ParquetFile(shard).read_row_group(group).to_pylist()
                videos = {row["video_id"]: features_from_row(row) for row in rows}
                if videos:
                    built = VideoIndex.build(
                        loaded,
                        videos,
                        processor=processor,
                        moment_seconds=moment_seconds,
                        storage=storage,
                        engine="exact",
                    )
                    built.save(part)
            if part.exists():
                found.append(VideoIndex.load(part, loaded, processor))
                progress.update(len(found[-1].video_ids))
    if not found:
        raise PolyvidError(f"No video in {features}.")
    whole = VideoIndex.cat(found, known)
    given = {"codes": codes, "uri": uri, "table": table}
    whole = whole.with_engine(engine, **{name: value for name, value in given.items() if value is not None})
    whole.save(output)
    shutil.rmtree(parts)
    if known and (unknown := sum(video_id not in known for part in found for video_id in part.video_ids)):
        print(f"{unknown} videos have no metadata in {metadata}.")
    print(f"{output}: {len(whole):,} {'moments' if moment_seconds else 'videos'}, engine {whole.engine.name}.")
    if push_to_hub:
        print(whole.push_to_hub(push_to_hub))


def search(
    index: Annotated[
        str, typer.Argument(help="File made by polyvid index, or the Hub id of a dataset that holds one.")
    ],
    query: Annotated[list[str], typer.Argument(help="What to look for, in any language; several in quotes.")],
    k: Annotated[int, typer.Option("--k", "-k", help="How many videos or moments.")] = 10,
    lang: Annotated[str | None, typer.Option(help="Only videos whose metadata language is this.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="category=sport, category=sport,music, duration=10..60, upload_date=2019-01-01.. ; repeat."),
    ] = None,
    seconds: Annotated[str | None, typer.Option(help="Only moments within these seconds of a video: 0..30.")] = None,
    one_per_video: Annotated[bool, typer.Option(help="Of each video only its best moment.")] = False,
    model: Annotated[str | None, typer.Option(help="Default: the one that made the index.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line a query instead of a table.")] = False,
) -> None:
    """Find videos, or moments of videos, with words in any language."""
    opened = VideoIndex.load(index, *(load_model(model, None) if model else ()))
    filters = parse_where(where or [], opened.engine.kinds)
    span = None if seconds is None else _range("--seconds", seconds, float)
    for text, hits in zip(query, opened.search(query, k, lang, filters, span, one_per_video), strict=True):
        print(json.dumps({"query": text, "hits": hits}, ensure_ascii=False) if as_json else _table(text, hits))


def read_metadata(path: Path) -> dict[str, dict[str, Any]]:
    """`{video_id: {column: value}}` of a table; dates become ISO texts.

    Raises:
        PolyvidError: for another kind of file, one without `video_id` or that cannot be read, and for a video twice.
        FileNotFoundError: there is no such file.
    """
    if path.suffix not in READERS:
        raise PolyvidError(f"Metadata in {path}: it must be one of {' '.join(READERS)}.")
    if not path.exists():
        raise FileNotFoundError(f"No metadata at {path}.")
    try:
        rows = READERS[path.suffix](str(path))
    except pa.ArrowInvalid as error:
        raise PolyvidError(f"Metadata in {path} cannot be read: {error}") from error
    if "video_id" not in rows.column_names:
        raise PolyvidError(f"Metadata in {path} has no column video_id; it has {' '.join(rows.column_names)}.")
    found: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows.to_pylist(), 1):
        video_id = str(row.pop("video_id"))
        if video_id in found:
            raise PolyvidError(f"Metadata in {path}: video {video_id!r} stands twice, again in row {number}.")
        found[video_id] = {k: v.isoformat() if hasattr(v, "isoformat") else v for k, v in row.items()}
    return found


def parse_where(filters: list[str], kinds: dict[str, type]) -> dict[str, object]:
    """`["category=sport,music", "duration=10.."]` as `VideoIndex.search` takes it; numbers where the index has numbers.

    Raises:
        PolyvidError: for what is not `column=...`, and for a text where the index has numbers.
    """
    found: dict[str, object] = {}
    for text in filters:
        column, equals, value = text.partition("=")
        if not equals:
            raise PolyvidError(f"--where {text}: write column=value, column=one,of,these or column=low..high.")
        kind = kinds.get(column, str)
        if ".." in value:
            found[column] = _range(f"--where {column}", value, kind)
        else:
            found[column] = [_value(f"--where {column}", part, kind) for part in value.split(",")]
    return found


def _range(name: str, text: str, kind: type) -> tuple:
    low, dots, high = text.partition("..")
    if not dots:
        raise PolyvidError(f"{name} {text}: write low..high; either may be left out.")
    return tuple(_value(name, end, kind) if end else None for end in (low, high))


def _value(name: str, text: str, kind: type) -> str | float:
    try:
        return kind(text)
    except ValueError:
        raise PolyvidError(f"{name}: {text!r} is not a number.") from None


def _row_groups(shards: list[Path]) -> Iterator[tuple[str, Path, int]]:
    """The units of work: a name that changes with the shard, the shard, and the row group's number."""
    for shard in shards:
        stat = shard.stat()
        for group in range(pq.read_metadata(shard).num_row_groups):
            yield f"{shard.stem}-{group:05d}-{stat.st_size}-{stat.st_mtime_ns}", shard, group


def _table(query: str, hits: list[dict]) -> str:
    if not hits:
        return f"{query}\n  nothing\n"
    lines = [query]
    for rank, hit in enumerate(hits, 1):
        when = f"  {hit['start']}–{hit['end']} s" if "start" in hit else ""
        known = {name: value for name, value in hit.get("metadata", {}).items() if value is not None}
        about = "".join(f"  {name}={value}" for name, value in known.items())
        lines.append(f"{rank:4}  {hit['score']:.3f}  {hit['video_id']}{when}{about}")
    return "\n".join(lines) + "\n"
