"""Tests a model on an opened benchmark and writes a folder of results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polyvid.dataset_scripts.building import atomic_path, write_json
from polyvid.dataset_scripts.locking import locked
from polyvid.modeling import MMPModel, MMPProcessor
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.dual_encoders.models import DualEncoder
from polyvid.train.loading import load_model
from polyvid.train.scoring.benchmark import OpenedBenchmark
from polyvid.train.scoring.closed_forms import score_closed_forms
from polyvid.train.scoring.corrections import Corrections
from polyvid.train.scoring.embedder import Embedder
from polyvid.train.scoring.evaluation import TEXT_TO_VIDEO, count_blank_captions, rank_benchmark
from polyvid.train.scoring.quantization import quantize_text_tower
from polyvid.train.scoring.recall_plot import plot_recall
from polyvid.train.scoring.results import RESULTS, SHOWN, environment, score_table, to_markdown, write_ranks
from polyvid.train.scoring.sentences import SentenceVectors
from polyvid.train.scoring.text_ceilings import text_ceilings


def measure(
    model: str,
    opened: OpenedBenchmark,
    name: str | None = None,
    output: Path | None = None,
    device: str | None = None,
    int8: bool = False,
    closed_forms: bool = False,
    corrections: Corrections | None = None,
    dual_encoder: DualEncoder | None = None,
    ceilings: bool = True,
) -> tuple[str, Path]:
    """Search a benchmark in both directions, and write `results.json`, `results.md`, `ranks.npz` and `recall.png`.

    Args:
        model: folder or Hub id.
        opened: as returned by `open_benchmark`.
        name: of the run in tables. Default: the recipe's.
        output: folder for the results. Default: `outputs/results/<name>/<benchmark>`.
        device: default: cuda if there is one, else cpu.
        int8: also search with text encoded in int8.
        closed_forms: also search by regression, see `score_closed_forms`.
        corrections: also search with these corrections of scores.
        dual_encoder: searches in place of an MMP model.
        ceilings: also search English captions with those in other languages (see `text_ceilings`).

    Returns:
        The results as Markdown, and the folder.

    Raises:
        PolyvidError: if there are no captions or no features, if these are of networks that the model was not made for,
            if corrections are measured with the queries of this test, or if another run is writing to the folder.
        OSError: if the model cannot be loaded or the results cannot be written.
    """
    name = name or opened.name
    if closed_forms and opened.trained_on is None:
        raise PolyvidError(f"{model} was not trained on {opened.protocol['benchmark']}: leave out --closed-forms.")
    if corrections is not None:
        corrections.bank.check_untested(opened.videos, opened.languages)
    output = output or RESULTS / name / opened.protocol["benchmark"]
    with locked(output, "polyvid evaluate"):
        searching: Embedder
        processor: MMPProcessor | None = None
        loaded: MMPModel | None = None
        quantized: MMPModel | None = None
        if dual_encoder is not None:
            searching, made_by = dual_encoder, dual_encoder.facts()
        else:
            loaded, processor = load_model(model, device)
            searching = loaded
            opened.check_encoders(model, loaded)
            quantized = quantize_text_tower(loaded) if int8 else None  # first, because it may raise
            made_by = {
                "of_model": loaded.config.video_encoders,
                "of_features": opened.features.encoders,
                "others_allowed": opened.allow_other_encoders,
            }
        search = (processor, opened.videos, opened.features, opened.languages)
        found = rank_benchmark(searching, *search, progress="evaluate")
        if not found[TEXT_TO_VIDEO]:
            raise PolyvidError(
                f"{opened.protocol['benchmark']} {opened.protocol['split']} has no captions in "
                f"{' '.join(opened.languages) or 'any language'}."
            )
        missing = [video["video_id"] for video in opened.videos if video["video_id"] not in opened.features]
        results: dict[str, Any] = {
            "name": name,
            "model": model,
            "seed": opened.seed,
            "label": opened.label,
            "protocol": opened.protocol,
            "video_encoders": made_by,
            "counts": {
                "videos": len(opened.videos),
                "videos_with_features": len(opened.videos) - len(missing),
                "queries": {language: len(ranks.ranks) for language, ranks in found[TEXT_TO_VIDEO].items()},
                "blank_captions": count_blank_captions(opened.videos, opened.languages),
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
            ranks_int8 = rank_benchmark(quantized, *search, progress="evaluate int8")
            results["int8"] = {"scores": score_table(ranks_int8, only_with_features=False)}
        if closed_forms and opened.trained_on is not None and loaded is not None and processor is not None:
            results["closed_forms"] = score_closed_forms(
                loaded, processor, opened.trained_on, opened.features, opened.videos, list(found[TEXT_TO_VIDEO])
            )
        if corrections is not None:
            ranks = rank_benchmark(
                searching, *search, progress="evaluate corrected", corrections=corrections.fitted(searching, processor)
            )
            results["corrected"] = corrections.record() | {
                "scores": score_table(ranks, only_with_features=False),
                "intervals_95": {
                    language: {score: of_language.interval(score) for score in SHOWN[:3]}
                    for language, of_language in ranks[TEXT_TO_VIDEO].items()
                },
            }
        if ceilings and loaded is not None and processor is not None:
            results["text_ceilings"] = _text_ceilings(loaded, processor, opened)
        table = to_markdown(results)
        write_ranks(output / "ranks.npz", found)
        plot_recall(results, output / "recall.png")
        with atomic_path(output / "results.md") as temporary:
            temporary.write_text(table, encoding="utf-8")
        write_json(output / "results.json", results)  # last: its presence marks the evaluation as complete
    return table, output


def _text_ceilings(model: MMPModel, processor: MMPProcessor, opened: OpenedBenchmark) -> dict[str, dict[str, float]]:
    def embed(texts: Sequence[str]) -> np.ndarray:
        return SentenceVectors(model, processor)(texts)  # a new one each time: it keeps what it has computed

    found = text_ceilings(embed, opened.videos, opened.languages, progress="text ceilings")
    return {language: ranks.scores() for language, ranks in found.items()}
