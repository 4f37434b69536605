"""`polyvid evaluate` and `polyvid compare`: a model on a benchmark, with what it takes to repeat and compare it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from transformers import AutoModel, AutoProcessor
from transformers.utils import cached_file

from polyvid.dataset_scripts.benchmark import BenchmarkConfig
from polyvid.dataset_scripts.building import atomic_path, load_builder, write_json
from polyvid.dataset_scripts.protocols import ALIASES
from polyvid.dataset_scripts.schema import LANGUAGE_NAMES, LANGUAGES, canonical_language
from polyvid.dataset_scripts.translations import Translations
from polyvid.modeling import MMPModel, MMPProcessor
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.data.videos import VideoFeatures
from polyvid.train.recipe import Recipe, load_recipe
from polyvid.train.scoring.evaluation import TEXT_TO_VIDEO, rank_benchmark
from polyvid.train.scoring.quantization import quantize_text_tower
from polyvid.train.scoring.results import (
    RESULTS,
    SHOWN,
    environment,
    plot_recall,
    read_ranks,
    score_table,
    to_markdown,
    write_ranks,
)
from polyvid.train.scoring.significance import paired_test


def evaluate(
    model: Annotated[str, typer.Option(help="Folder or Hub id of an MMP model.")],
    benchmark: Annotated[
        str | None,
        typer.Option(help="vtt, vatex, m30k, youtube2text, fluent_emoji_9. Default: what it was trained on."),
    ] = None,
    languages: Annotated[str, typer.Option(help="Such as en,de; all: those there are captions in.")] = "all",
    features: Annotated[Path | None, typer.Option(help="Folder of feature shards of the benchmark's videos.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with the benchmark's official files.")] = None,
    translations: Annotated[
        Path | None, typer.Option(help="Translated captions. Default: the recipe's, if they are there.")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="Default: the paper's.")] = None,
    split: Annotated[str, typer.Option(help="The videos searched.")] = "test",
    caption_kind: Annotated[list[str] | None, typer.Option(help="Only captions with this id, such as name.")] = None,
    check_counts: Annotated[bool, typer.Option(help="Refuse files whose counts are not the protocol's.")] = True,
    name: Annotated[str | None, typer.Option(help="The run's name in tables. Default: its recipe's.")] = None,
    output: Annotated[Path | None, typer.Option(help="Default: outputs/results/<name>/<benchmark>.")] = None,
    device: Annotated[str | None, typer.Option(help="Default: cuda if there is one, else cpu.")] = None,
    int8: Annotated[bool, typer.Option(help="Also with texts encoded in int8: what that costs in recall.")] = False,
) -> None:
    """Search a benchmark with a model in every language: results.json, results.md, ranks.npz and a plot.

    Where the benchmark is the one the model was trained on, its recipe says where features and files are. Any other
    benchmark is a zero-shot test across datasets (Table 12), with features of the same extractors.
    """
    opened = open_benchmark(
        model, benchmark, features, protocol, split, languages, data_dir, translations, caption_kind, check_counts
    )
    wanted = LANGUAGES if languages == "all" else [canonical_language(code) for code in languages.split(",")]
    loaded, processor = load_model(model, device)
    quantized = quantize_text_tower(loaded) if int8 else None  # first, as it may refuse
    found = rank_benchmark(loaded, processor, opened.videos, opened.features, wanted, progress=True)
    if not found[TEXT_TO_VIDEO]:
        raise PolyvidError(f"{opened.protocol['benchmark']} {split} has no captions in {' '.join(wanted)}.")
    missing = [video["video_id"] for video in opened.videos if video["video_id"] not in opened.features]
    name = name or opened.name
    results = {
        "name": name,
        "model": model,
        "seed": opened.seed,
        "protocol": opened.protocol,
        "counts": {
            "videos": len(opened.videos),
            "videos_with_features": len(opened.videos) - len(missing),
            "queries": {language: len(ranks.ranks) for language, ranks in found[TEXT_TO_VIDEO].items()},
            "missing_videos": missing,
        },
        "scores": {
            "all": score_table(found, only_with_features=False),
            "with_features": score_table(found, only_with_features=True),
        },
        "intervals_95": {
            language: {score: ranks.interval(score) for score in SHOWN[:3]}
            for language, ranks in found[TEXT_TO_VIDEO].items()
        },
        "environment": environment(),
    }
    if quantized is not None:
        ranks_int8 = rank_benchmark(quantized, processor, opened.videos, opened.features, wanted, progress=True)
        results["int8"] = {"scores": score_table(ranks_int8, only_with_features=False)}
    output = output or RESULTS / name / opened.protocol["benchmark"]
    write_ranks(output / "ranks.npz", found)
    plot_recall(results, output / "recall.png")
    table = to_markdown(results)
    with atomic_path(output / "results.md") as temporary:
        temporary.write_text(table, encoding="utf-8")
    write_json(output / "results.json", results)  # last: its presence says that the evaluation is complete
    print(table)
    print(f"Written to {output}.")


def compare(
    first: Annotated[Path, typer.Argument(help="Folder of results made by polyvid evaluate.")],
    second: Annotated[Path, typer.Argument(help="Another, on the same benchmark.")],
    score: Annotated[str, typer.Option(help="R@1, R@5, R@10, MRR or MnR.")] = "R@1",
) -> None:
    """Test whether two runs differ, language by language: paired randomisation over videos, two-sided."""
    runs = [read_ranks(folder / "ranks.npz") for folder in (first, second)]
    print(f"| text to video | {first} | {second} | difference | p |\n|---|---:|---:|---:|---:|")
    for language, ranks in runs[0][TEXT_TO_VIDEO].items():
        other = runs[1][TEXT_TO_VIDEO].get(language)
        if other is None:
            continue
        if not np.array_equal(ranks.video_ids, other.video_ids):
            raise PolyvidError(f"{first} and {second} do not have the same {language} queries: nothing to compare.")
        difference, p = paired_test(ranks.ranks, other.ranks, score, ranks.video_ids)
        cells = [f"{run.scores()[score]:.2f}" for run in (ranks, other)] + [f"{difference:+.2f}", f"{p:.4f}"]
        print(f"| {LANGUAGE_NAMES[language]} | {' | '.join(cells)} |")


@dataclass(frozen=True)
class OpenedBenchmark:
    """What `open_benchmark` found: `name` and `seed` of the model's run, rows of `CAPTIONS`, the protocol, features."""

    name: str
    seed: int | None
    videos: list[dict[str, Any]]
    protocol: dict[str, Any]
    features: VideoFeatures


def open_benchmark(
    model: str,
    benchmark: str | None,
    features: Path | None,
    protocol: str | None,
    split: str,
    languages: str,
    data_dir: Path | None,
    translations: Path | None,
    caption_kinds: list[str] | None,
    check_counts: bool,
) -> OpenedBenchmark:
    """Find a benchmark's captions and features; what is not given comes from the model's recipe, if it trained on it.

    Raises:
        PolyvidError, FileNotFoundError: for what is unknown, missing or not as the protocol says.
    """
    recipe = recipe_of(model)
    benchmark = benchmark or (recipe.data.dataset if recipe else None)
    if benchmark is None:
        raise PolyvidError(f"{model} brings no recipe that names a benchmark: pass --benchmark.")
    benchmark = ALIASES.get(benchmark.lower(), benchmark.lower())
    if recipe is not None and recipe.data.dataset == benchmark:
        features = features or Path(recipe.data.features)
        protocol = protocol or recipe.data.config
        data_dir = data_dir or (Path(recipe.data.data_dir) if recipe.data.data_dir else None)
        if translations is None and recipe.data.translations and Path(recipe.data.translations).exists():
            translations = Path(recipe.data.translations)
        caption_kinds = caption_kinds or recipe.data.caption_kinds
    if features is None:
        raise PolyvidError(f"Pass --features: the folder with the features of the videos of {benchmark}.")
    videos, description = load_benchmark(
        benchmark, protocol, split, languages, data_dir, translations, caption_kinds, check_counts
    )
    name, seed = (recipe.name, recipe.training.seed) if recipe else (Path(model).name, None)
    return OpenedBenchmark(name, seed, videos, description, VideoFeatures(features))


def load_model(model: str, device: str | None) -> tuple[MMPModel, MMPProcessor]:
    """A checkpoint and its processor, on the GPU where there is one and no other device is asked for."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return (
        AutoModel.from_pretrained(model, dtype="float32").to(device),
        AutoProcessor.from_pretrained(model),
    )


def recipe_of(model: str) -> Recipe | None:
    """The recipe a checkpoint was trained by, if it brings one (`recipe.yaml` beside the weights)."""
    file = cached_file(
        model,
        "recipe.yaml",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return load_recipe(file) if file else None


def load_benchmark(
    benchmark: str,
    protocol: str | None,
    split: str,
    languages: str,
    data_dir: Path | None,
    translations: Path | None,
    caption_kinds: list[str] | None,
    check_counts: bool = True,
) -> tuple[list[dict], dict[str, Any]]:
    """The videos of a split with their captions, and what describes the protocol in `results.json`.

    Raises:
        PolyvidError, FileNotFoundError: unknown names, missing files, wrong counts; the builder's messages.
    """
    builder_class = load_builder(benchmark)
    options: dict[str, Any] = {"data_dir": str(data_dir) if data_dir else None}
    if issubclass(builder_class.BUILDER_CONFIG_CLASS, BenchmarkConfig):
        options["languages"] = None if languages == "all" else languages.split(",")  # None: those people wrote in
        if languages == "all" and translations:
            written = builder_class(config_name=protocol).protocol.languages
            translated = Translations(translations).languages
            options["languages"] = [language for language in LANGUAGES if language in (*written, *translated)]
        options["translations"] = str(translations) if translations else None
        options |= {"splits": [split], "check_counts": check_counts}
    builder = builder_class(config_name=protocol, **options)
    splits = builder.as_streaming_dataset()
    if split not in splits:
        raise PolyvidError(f"{benchmark} has no split {split!r}: choose from {' '.join(splits)}.")
    videos = list(splits[split])
    if caption_kinds:
        for video in videos:
            video["captions"] = [c for c in video["captions"] if c["caption_id"] in caption_kinds]
    sources = {}
    for video in videos:
        for caption in video["captions"]:
            sources.setdefault(caption["language"], set()).add(caption["source"])
    return videos, {
        "benchmark": benchmark,
        "protocol": builder.config.name,
        "split": split,
        "source": builder.config.description or builder.info.description,
        "caption_kinds": list(caption_kinds) if caption_kinds else None,
        "captions_by": {language: sorted(found) for language, found in sorted(sources.items())},
    }
