"""Statistics of a built Multi-HowTo100M as in the paper's App. B: Table 8, Fig. 5, Fig. 6, and languages per video."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer
from tqdm import tqdm

from polyvid.dataset_scripts.building import atomic_path, find_shards, write_json
from polyvid.dataset_scripts.hub import check_source
from polyvid.dataset_scripts.locking import locked
from polyvid.dataset_scripts.schema import canonical_language, in_table_order, language_name
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.paths_mmp import check_local_path

VIDEO_BIN, VIDEO_BINS = 50, 100  # Fig. 5: tokens per video in steps of 50, the last bin takes what is beyond 5,000
SUBTITLE_BINS = 60  # Fig. 6: tokens per subtitle, one by one
LINES = ("-", "--", ":", "-.")  # the first ten languages have solid lines; with more, colours repeat
SECTION = re.compile(r"<!-- statistics -->.*?<!-- /statistics -->", re.DOTALL)


def statistics(
    dataset_dir: Annotated[Path, typer.Argument(help="Folder made by `polyvid build multi_howto100m`.")],
    tokenizer: Annotated[
        str, typer.Option(help="Tokenizer whose tokens are counted: a Hub id or folder.")
    ] = "xlm-roberta-large",
) -> None:
    """Count videos, subtitles and tokens per language, plot their distributions, and put all of it into the card.

    Writes statistics/<language>.json, statistics/languages_per_video.json, two PNGs and the card's section
    "Statistics". A language that was counted already (same tokenizer, same shards) is not counted again.
    """
    check_local_path(dataset_dir, "dataset")
    check_source(tokenizer, "tokenizer")
    with locked(dataset_dir, "polyvid statistics"):
        counted = _write_statistics(dataset_dir, tokenizer)
    print(f"{len(counted)} languages counted; see {dataset_dir / 'README.md'}")


def _write_statistics(dataset_dir: Path, tokenizer: str) -> dict[str, dict]:
    languages = _languages(dataset_dir)
    if not languages:
        raise FileNotFoundError(f"{dataset_dir} holds no language of Multi-HowTo100M: run `polyvid build` first.")
    load = cache(partial(_load_tokenizer, tokenizer))
    counted = {language: _count_once(dataset_dir, language, tokenizer, load) for language in languages}
    languages_per_video = count_languages_per_video(dataset_dir)
    write_json(dataset_dir / "statistics" / "languages_per_video.json", languages_per_video)
    plot_distributions(counted, dataset_dir / "statistics")
    card = dataset_dir / "README.md"
    if not card.exists():
        raise FileNotFoundError(f"{card} is missing: `polyvid build` writes it.")
    text = card.read_text(encoding="utf-8")
    if not SECTION.search(text):
        raise PolyvidError(f"{card} lacks the section between <!-- statistics --> and <!-- /statistics -->.")
    with atomic_path(card) as temporary:
        section = to_markdown(counted, languages_per_video, tokenizer)
        temporary.write_text(SECTION.sub(lambda _: section, text), encoding="utf-8")
    return counted


def _languages(dataset_dir: Path) -> list[str]:
    """Those with a config of their own and those of the config `all`."""
    found = {folder.name for folder in dataset_dir.iterdir() if folder.is_dir() and folder.name != "all"}
    if (dataset_dir / "all").is_dir():
        found |= set(pq.read_schema(find_shards(dataset_dir / "all")[0]).names) - {"video_id"}
    return in_table_order(name for name in found if _is_language(name))


def _is_language(name: str) -> bool:
    try:
        return canonical_language(name) == name
    except PolyvidError:
        return False


def _source(dataset_dir: Path, language: str) -> Path | None:
    """The folder with this language's shards: its own config, or `all`."""
    return next((dataset_dir / name for name in (language, "all") if _has(dataset_dir / name, language)), None)


def _has(folder: Path, language: str) -> bool:
    return folder.is_dir() and (folder.name == language or language in pq.read_schema(find_shards(folder)[0]).names)


def _subtitle_lists(dataset_dir: Path, language: str) -> Iterator[tuple[pa.Array, pa.Array]]:
    """Per row group, video ids and texts (a list per video), of the videos that have subtitles in the language."""
    source = _source(dataset_dir, language)
    assert source is not None, "only languages with a source are counted"
    column = "text" if source.name == language else f"{language}.text"
    for shard in tqdm(find_shards(source), desc=language, unit=" shards"):
        file = pq.ParquetFile(shard)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["video_id", column])
            texts = table.column(1).combine_chunks()
            texts = pc.struct_field(texts, "text") if source.name == "all" else texts
            present = pc.greater(pc.list_value_length(texts), 0)
            yield table["video_id"].combine_chunks().filter(present), texts.filter(present)


def count_tokens(dataset_dir: Path, language: str, tokenizer: Callable[..., Any]) -> dict[str, Any]:
    """Counts of one language: videos, subtitles, tokens (without special tokens) and the two histograms.

    `tokens_per_video[i]` counts videos with 50·i to 50·i + 49 tokens, `tokens_per_subtitle[i]` subtitles of i tokens;
    the last bins also count what is beyond.
    """
    videos = subtitles = tokens = 0
    per_video, per_subtitle = np.zeros(VIDEO_BINS, np.int64), np.zeros(SUBTITLE_BINS, np.int64)
    for video_ids, texts in _subtitle_lists(dataset_dir, language):
        if not len(video_ids):
            continue
        encoded = tokenizer(texts.flatten().to_pylist(), add_special_tokens=False, return_attention_mask=False)
        lengths = np.array([len(ids) for ids in encoded["input_ids"]])
        first = np.cumsum([0, *pc.list_value_length(texts).to_pylist()])[:-1]
        of_video = np.add.reduceat(lengths, first)
        videos, subtitles, tokens = videos + len(video_ids), subtitles + len(lengths), tokens + int(lengths.sum())
        per_video += np.bincount(np.minimum(of_video // VIDEO_BIN, VIDEO_BINS - 1), minlength=VIDEO_BINS)
        per_subtitle += np.bincount(np.minimum(lengths, SUBTITLE_BINS - 1), minlength=SUBTITLE_BINS)
    return {
        "videos": videos,
        "subtitles": subtitles,
        "tokens": tokens,
        "tokens_per_video": per_video.tolist(),
        "tokens_per_subtitle": per_subtitle.tolist(),
    }


def _load_tokenizer(name: str) -> Callable[..., Any]:
    """A tokenizer by Hub id or folder; models of this package need no code of their own.

    Raises:
        PolyvidError: when it needs the code of its repository, which is not run here.
    """
    from transformers import AutoTokenizer  # takes a second to import

    from polyvid.modeling import MMPModel  # noqa: F401  using a name registers the models of the package

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise PolyvidError(
            f"The tokenizer of {name} needs code from its repository, which is not run: choose another tokenizer."
        ) from error


def _count_once(dataset_dir: Path, language: str, tokenizer_name: str, load: Callable[[], Any]) -> dict[str, Any]:
    path = dataset_dir / "statistics" / f"{language}.json"
    source = _source(dataset_dir, language)
    assert source is not None, "only languages with a source are counted"
    shards = [[shard.name, shard.stat().st_size] for shard in find_shards(source)]
    key = {"tokenizer": tokenizer_name, "shards": shards}
    if path.exists() and key.items() <= (counted := json.loads(path.read_text(encoding="utf-8"))).items():
        return counted
    counted = key | count_tokens(dataset_dir, language, load())
    write_json(path, counted)
    return counted


def count_languages_per_video(dataset_dir: Path) -> dict[str, int]:
    """`{"9": number of videos with subtitles in nine languages, ...}`; the paper: "each with subtitles in 7-9"."""
    languages_of: Counter[str] = Counter()
    for language in _languages(dataset_dir):
        for video_ids, _ in _subtitle_lists(dataset_dir, language):
            languages_of.update(video_ids.to_pylist())
    counts = Counter(languages_of.values())
    return {str(number): counts[number] for number in sorted(counts, reverse=True)}


def plot_distributions(counted: dict[str, dict], folder: Path) -> None:
    """`tokens_per_video.png` (Fig. 5) and `tokens_per_subtitle.png` (Fig. 6), a line per language."""
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    many = len(counted) > 10  # more than there are colours
    for name, step in (("tokens_per_video", VIDEO_BIN), ("tokens_per_subtitle", 1)):
        figure = Figure(figsize=(9, max(4, 1 + 0.23 * len(counted))) if many else (7, 4), layout="constrained")
        axes = figure.subplots()
        for number, (language, counts) in enumerate(counted.items()):
            share, line = np.array(counts[name]) / sum(counts[name]), LINES[number // 10 % 4]
            axes.plot(np.arange(len(share)) * step, 100 * share, line, label=language_name(language), linewidth=1.2)
        axes.set(xlabel=name.replace("_", " "), ylabel=f"% of {name.split('_')[-1]}s", xlim=(0, None), ylim=(0, None))
        place = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if many else {"ncols": 2}
        axes.legend(frameon=False, **place)
        axes.spines[["top", "right"]].set_visible(False)
        with atomic_path(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=150, format="png")


def to_markdown(counted: dict[str, dict], languages_per_video: dict[str, int], tokenizer_name: str) -> str:
    """The card's section, in the shape of Table 8."""
    lines = [
        "| Language | videos | #subtitle | #tokens | tokens/video | tokens/subtitle |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for language, counts in counted.items():
        videos, subtitles, tokens = counts["videos"], counts["subtitles"], counts["tokens"]
        lines.append(
            f"| {language_name(language)} | {videos:,} | {subtitles:,} | {tokens:,} "
            f"| {tokens / max(videos, 1):.1f} | {tokens / max(subtitles, 1):.1f} |"
        )
    languages = ", ".join(f"{number}: {videos:,}" for number, videos in languages_per_video.items())
    return "\n".join(
        [
            "<!-- statistics -->",
            *lines,
            "",
            f"Tokens are those of `{Path(tokenizer_name).name if Path(tokenizer_name).is_dir() else tokenizer_name}`, "
            "without special tokens.",
            f"Videos by number of languages: {languages}.",
            "",
            "![Distribution of tokens per video](statistics/tokens_per_video.png)",
            "![Distribution of tokens per subtitle](statistics/tokens_per_subtitle.png)",
            "<!-- /statistics -->",
        ]
    )
