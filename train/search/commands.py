"""`polyvid index` and `polyvid search`: make a collection of videos searchable, and search it, from a terminal."""

import os
import sys
import unicodedata
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.moments_mmp import window_lengths
from polyvid.modeling.paths_mmp import check_local_path
from polyvid.modeling.video_index_mmp import VideoIndex
from polyvid.train.errors import visible
from polyvid.train.search.collection import Collection, Settings, open_collection
from polyvid.train.search.metadata import parse_range, parse_where, read_metadata
from polyvid.train.search.player import play as play_video
from polyvid.train.search.results import as_json as json_line
from polyvid.train.search.results import table, with_paths
from polyvid.train.search.sources import Source, find_source
from polyvid.train.search.text_tower import compare_tower, known_tower
from polyvid.train.search.trained_on import trained_on_drawings
from polyvid.train.wording import counted


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
        typer.Option(
            help="Folder or Hub id of an MMP model or a dual encoder such as SigLIP. To change an index, default: "
            "the one that made it."
        ),
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
    hubness: Annotated[
        str | None,
        typer.Option(help="Correct scores for videos near every query (QB-Norm): gated, as published, or always."),
    ] = None,
    language_offsets: Annotated[
        bool, typer.Option(help="Keep the offset of each language from English, for search --query-language.")
    ] = False,
    query_bank: Annotated[
        str,
        typer.Option(help="Texts that both are measured with: training, the captions the model learned, or a table."),
    ] = "training",
    push_to_hub: Annotated[str | None, typer.Option(help="Also upload it to this dataset repository.")] = None,
    device: Annotated[str | None, typer.Option(help="Default: cuda if there is one, else cpu.")] = None,
) -> None:
    """Make a collection of videos searchable: embed their features with a model and write an index.

    If it is stopped, the same command resumes.
    """
    from polyvid.dataset_scripts.building import find_shards
    from polyvid.train.dual_encoders.searching import load_searching_model
    from polyvid.train.loading import recipe_of
    from polyvid.train.search.indexing import change_index, index_features  # seconds that a search has no use for

    *features, output = paths
    if len(features) > 1 or (add and refresh) or not (features or remove):
        raise PolyvidError("Pass FEATURES and INDEX, or INDEX --remove ID; and either --add or --refresh.")
    for folder in features:  # what is missing is named before the model is loaded
        find_shards(folder)
    if add or refresh or remove:
        check_local_path(output, "video index")
    known = read_metadata(metadata) if metadata else None
    wanted = hubness is not None or language_offsets
    if (wanted and (add or refresh or remove)) or (query_bank != "training" and not wanted):
        raise PolyvidError("--hubness and --language-offsets are for a new index, and --query-bank is for these two.")
    if hubness is not None and engine == "lance":
        raise PolyvidError("--hubness needs the videos in the index: choose another --engine than lance.")
    if add or refresh or remove:
        if features and not (add or refresh):
            raise PolyvidError("With FEATURES, --remove also needs --add or --refresh.")
        source = features[0] if features else None
        changed, added, removed = change_index(output, source, model, device, known, remove or (), refresh)
        print(f"{_summary(output, changed)} Added or replaced {counted(added, 'video')}, removed {removed}.")
        return
    if model is None:
        raise PolyvidError("A new index needs --model.")
    given = {"codes": codes, "uri": uri, "table": table}
    lengths = None if moment_seconds is None else [_seconds(text) for text in moment_seconds.split(",")]
    correct = None
    if wanted:
        from polyvid.train.scoring.corrections import Corrections, QueryBank

        bank = QueryBank.of(query_bank, recipe_of(model), is_strangers=not Path(model).exists())
        correct = Corrections(bank, hubness, offsets=language_offsets).apply
    whole, unknown = index_features(
        features[0],
        output,
        *load_searching_model(model, device),
        metadata=known,
        moment_seconds=lengths,
        storage=storage,
        engine=engine,
        options={name: value for name, value in given.items() if value is not None},
        allow_other_encoders=allow_other_encoders,
        correct=correct,
    )
    if unknown:
        print(f"{counted(unknown, 'video')} without metadata in {metadata}.")
    print(_summary(output, whole))
    if push_to_hub:
        print(whole.push_to_hub(push_to_hub))


def _summary(output: Path, index: VideoIndex) -> str:
    rows = counted(len(index), "moment" if "start" in index.engine.kinds else "video")
    return f"{output}: {rows}, engine {index.engine.name}."


def parse_lengths(text: str | None) -> tuple[int, ...] | None:
    """The value of `--moment-seconds`.

    Raises:
        PolyvidError: if it is not a list of lengths.
    """
    return None if text is None else window_lengths([_seconds(length) for length in text.split(",")])


def _seconds(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise PolyvidError(f"--moment-seconds: {text!r} is not a whole number.") from None


def search(
    target: Annotated[
        str,
        typer.Argument(
            metavar="VIDEOS|INDEX",
            help="Folder of videos, a list of them (a path or `id<TAB>path` per line), a pattern such as '*.mp4', or "
            "one video; or an index: a file made by polyvid index, or the Hub id of a dataset that holds one.",
        ),
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
    query_language: Annotated[
        str | None, typer.Option(help="Of the queries, for an INDEX that keeps offsets of languages: such as sw.")
    ] = None,
    uncorrected: Annotated[
        bool, typer.Option(help="By the cosine alone, where scores are corrected or longer moments preferred.")
    ] = False,
    max_overlap: Annotated[
        float, typer.Option(help="How much moments of a video may overlap: 0, not at all, to 1, one second apart.")
    ] = 0.0,
    model: Annotated[
        str | None,
        typer.Option(help="Folder or Hub id. Default: the model that made the index. Needed to search videos first."),
    ] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(help="For a model that does not say which networks made its features; as in polyvid extract."),
    ] = None,
    moment_seconds: Annotated[
        str | None,
        typer.Option(metavar="SECONDS", help="Lengths of the moments of VIDEOS, when they are first searched."),
    ] = None,
    index: Annotated[
        Path | None, typer.Option(help="Where to keep the index of VIDEOS. Default: in the user's cache folder.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option(help="Try VIDEOS that could not be read before again.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Decoding processes. Default: one fewer than the cores.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Default: cuda if there is one, else cpu.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line a query instead of a table.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write a page with players that start at the moment.")] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Show that page in the browser.")] = False,
    play: Annotated[int | None, typer.Option(metavar="RANK", help="Play this hit of the first query.")] = None,
) -> None:
    """Find videos, or moments of videos, with words in any language.

    Videos are made searchable when they are first searched, which takes time; after that, only those that are new or
    changed. If it is stopped, the same command resumes.
    """
    for text in query:
        if not text.strip():
            raise PolyvidError("The query is empty: say what to look for.")
        if any(unicodedata.category(character) == "Cs" for character in text):
            raise PolyvidError(f"The query {text[:40]!r} is not valid Unicode: it holds half of a surrogate pair.")
    source = find_source(target)
    if uncorrected and query_language:
        raise PolyvidError("Pass --uncorrected or --query-language, which is a correction.")
    if source is None and (html or open_page or play or index or encoder or moment_seconds or retry_failed):
        raise PolyvidError(f"{target} is an index, which does not say where its videos are: this option needs VIDEOS.")
    if source is None:
        from polyvid.dataset_scripts.hub import check_source

        check_source(target, "video index", "dataset")  # before the model is loaded
        towers: tuple[Any, ...] = ()
        if model:
            # It takes seconds, which a search in a warm index has no use for.
            from polyvid.train.dual_encoders.searching import load_searching_model

            towers = load_searching_model(model, device)
        opened, is_loaded = VideoIndex.load(target, *towers), bool(towers)
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        decoding = max(1, cores - 1) if workers is None else workers
        settings = Settings(model, tuple(encoder) if encoder else None, parse_lengths(moment_seconds), device, decoding)
        found = open_collection(source, index or source.index_path(), settings, retry_failed)
        opened, is_loaded = found.index, found.done > 0
        say_what_was_done(source, found)
    filters = parse_where(where or [], opened.engine.kinds)
    span = None if seconds is None else parse_range("--seconds", seconds, float)
    tower = None if is_loaded else known_tower(opened)
    if tower:
        opened.read_queries_with(tower, tower)
    elif not is_loaded:
        from polyvid.train.dual_encoders.searching import read_queries

        read_queries(opened, device)
    answers = opened.search(
        query, k, lang, filters, span, one_per_video, max_overlap, query_language, corrected=not uncorrected
    )
    results = [
        (text, with_paths(hits, source.files) if source else hits) for text, hits in zip(query, answers, strict=True)
    ]
    if warning := trained_on_drawings(opened.made_by):
        print(warning, file=sys.stderr)
    for text, hits in results:
        print(json_line(text, hits) if as_json else table(text, hits))
    if html or open_page:
        from polyvid.train.search.page import write_page

        page = html or source.index_path().with_suffix(".html")  # type: ignore[union-attr]
        write_page(page, results)
        print(page, file=sys.stderr)
        if open_page and not webbrowser.open(page.resolve().as_uri()):
            raise PolyvidError(f"There is no browser to open {page} with.")
    if play is not None:
        hits = results[0][1]
        if not 1 <= play <= len(hits):
            raise PolyvidError(f"--play {play}: the hits have ranks 1 to {len(hits)}.")
        print(play_video(Path(hits[play - 1]["path"]), hits[play - 1].get("start", 0)), file=sys.stderr)
    if not tower:
        compare_tower(opened)  # the next search need not load the model


def say_what_was_done(source: Source, found: Collection) -> None:
    """What was done, and what could not be read, to stderr."""
    for video_id, reason in found.failures.items():
        print(visible(f"not read: {source.files[video_id]}: {reason}"), file=sys.stderr)
    if found.done or found.removed or found.failures:
        parts = [f"{len(found.index.video_ids)} searched"]
        parts += [f"{found.done} of them new or changed"] if found.done else []
        parts += [f"{len(found.failures)} could not be read"] if found.failures else []
        parts += [f"{found.removed} no longer there"] if found.removed else []
        print(f"{source.name}: {counted(len(source.files), 'video')}: {', '.join(parts)}.", file=sys.stderr)
