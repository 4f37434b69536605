"""`polyvid index` and `polyvid search`: make a collection of videos searchable, and search it, from a terminal."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from polyvid.dataset_scripts.building import find_shards
from polyvid.modeling import VideoIndex
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.paths_mmp import check_local_path
from polyvid.train.loading import load_model
from polyvid.train.search.indexing import change_index, index_features
from polyvid.train.search.metadata import parse_range, parse_where, read_metadata


def index(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[FEATURES] INDEX",
            help="Folder of feature shards, made by polyvid extract, and the index, such as videos.safetensors.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Folder or Hub id of an MMP model. To change an index, default: the one that made it."),
    ] = None,
    add: Annotated[bool, typer.Option(help="Add the videos of FEATURES to INDEX, or replace them there.")] = False,
    refresh: Annotated[
        bool,
        typer.Option(
            help="Bring INDEX up to date with FEATURES: add videos that are new or in newer shards, remove others."
        ),
    ] = False,
    remove: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Remove this video from INDEX; may be repeated.")
    ] = None,
    metadata: Annotated[
        Path | None,
        typer.Option(
            help="What to filter by: a .csv, .jsonl or .parquet with a column video_id and one for each property."
        ),
    ] = None,
    moment_seconds: Annotated[
        str | None,
        typer.Option(
            metavar="SECONDS",
            help="Index moments: one for each second, of this many seconds; or of several lengths, such as 4,8,16. "
            "Default: whole videos.",
        ),
    ] = None,
    storage: Annotated[str, typer.Option(help="float32, float16 or int8.")] = "float16",
    engine: Annotated[
        str, typer.Option(help="exact, faiss or lance. auto: exact up to a million rows, then faiss.")
    ] = "auto",
    codes: Annotated[
        str | None, typer.Option(help="What faiss or lance compares before re-ranking: float16, int8 or binary.")
    ] = None,
    uri: Annotated[str | None, typer.Option(help="With --engine lance: a folder, s3://..., gs://..., db://...")] = None,
    table: Annotated[str | None, typer.Option(help="With --engine lance: the table's name.")] = None,
    allow_other_encoders: Annotated[
        bool, typer.Option(help="Embed features of networks that the model was not made for; the index says so.")
    ] = False,
    push_to_hub: Annotated[str | None, typer.Option(help="Also upload it to this dataset repository.")] = None,
    device: Annotated[str | None, typer.Option(help="Default: cuda if there is one, else cpu.")] = None,
) -> None:
    """Make a collection of videos searchable: embed their features with a model and write an index.

    If it is stopped, the same command resumes.
    """
    *features, output = paths
    if len(features) > 1 or (add and refresh) or not (features or remove):
        raise PolyvidError("Pass FEATURES and INDEX, or INDEX --remove ID; and either --add or --refresh.")
    for folder in features:  # what is missing is named before the model is loaded
        find_shards(folder)
    if add or refresh or remove:
        check_local_path(output, "video index")
    known = read_metadata(metadata) if metadata else None
    if add or refresh or remove:
        if features and not (add or refresh):
            raise PolyvidError("With FEATURES, --remove also needs --add or --refresh.")
        source = features[0] if features else None
        changed, added, removed = change_index(output, source, model, device, known, remove or (), refresh)
        print(f"{_summary(output, changed)} Added or replaced {added} videos, removed {removed}.")
        return
    if model is None:
        raise PolyvidError("A new index needs --model.")
    given = {"codes": codes, "uri": uri, "table": table}
    lengths = None if moment_seconds is None else [_seconds(text) for text in moment_seconds.split(",")]
    whole, unknown = index_features(
        features[0],
        output,
        *load_model(model, device),
        metadata=known,
        moment_seconds=lengths,
        storage=storage,
        engine=engine,
        options={name: value for name, value in given.items() if value is not None},
        allow_other_encoders=allow_other_encoders,
    )
    if unknown:
        print(f"{unknown} videos have no metadata in {metadata}.")
    print(_summary(output, whole))
    if push_to_hub:
        print(whole.push_to_hub(push_to_hub))


def _summary(output: Path, index: VideoIndex) -> str:
    rows = "moments" if "start" in index.engine.kinds else "videos"
    return f"{output}: {len(index):,} {rows}, engine {index.engine.name}."


def _seconds(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise PolyvidError(f"--moment-seconds: {text!r} is not a whole number.") from None


def search(
    index: Annotated[
        str, typer.Argument(help="File made by polyvid index, or the Hub id of a dataset that holds one.")
    ],
    query: Annotated[list[str], typer.Argument(help="What to look for, in any language; several in quotes.")],
    k: Annotated[int, typer.Option("--k", "-k", help="How many videos or moments.")] = 10,
    lang: Annotated[str | None, typer.Option(help="Only videos whose metadata language is this.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="category=sport, category=sport,music, duration=10..60 or upload_date=2019-01-01.. ; may be repeated."
        ),
    ] = None,
    seconds: Annotated[str | None, typer.Option(help="Only moments within these seconds of a video: 0..30.")] = None,
    one_per_video: Annotated[bool, typer.Option(help="Only the best moment of each video.")] = False,
    max_overlap: Annotated[
        float, typer.Option(help="How much moments of a video may overlap: 0, not at all, to 1, one second apart.")
    ] = 0.0,
    model: Annotated[str | None, typer.Option(help="Folder or Hub id. Default: the model that made the index.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line a query instead of a table.")] = False,
) -> None:
    """Find videos, or moments of videos, with words in any language."""
    check_local_path(index, "video index")  # before the model is loaded
    opened = VideoIndex.load(index, *(load_model(model) if model else ()))
    filters = parse_where(where or [], opened.engine.kinds)
    span = None if seconds is None else parse_range("--seconds", seconds, float)
    for text, hits in zip(query, opened.search(query, k, lang, filters, span, one_per_video, max_overlap), strict=True):
        print(json.dumps({"query": text, "hits": hits}, ensure_ascii=False) if as_json else _table(text, hits))


def _table(query: str, hits: list[dict[str, Any]]) -> str:
    if not hits:
        return f"{query}\n  nothing found\n"
    lines = [query]
    for rank, hit in enumerate(hits, 1):
        when = f"  {hit['start']}–{hit['end']} s" if "start" in hit else ""
        known = {name: value for name, value in hit.get("metadata", {}).items() if value is not None}
        about = "".join(f"  {name}={value}" for name, value in known.items())
        lines.append(f"{rank:4}  {hit['score']:.3f}  {hit['video_id']}{when}{about}")
    return "\n".join(lines) + "\n"
