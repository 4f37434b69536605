"""How much of what was learned from emoji holds for other pictures: `make leaderboard`.

    python -m polyvid.train.demo.leaderboard --model outputs/demo/mmp --model outputs/demo/none
    python -m polyvid.train.demo.leaderboard --seeds 3

Models, and the closed forms that they have to beat, search four sets of pictures: the test clips of Fluent-Emoji-9, the
same concepts drawn by Noto (`unseen_style`), and the photos and drawings of Tux-8 in eight and in nine languages. With
`--seeds`, the demo's three models are trained first, on Fluent alone and on three styles, once for each seed. Every row
is kept in a file of its own at once, so a command that was stopped resumes with the rows that are missing. Delete
`outputs/leaderboard` to measure all of them again.

The table is `hub_cards/results/leaderboard.md`, made from `leaderboard.json` beside it.
"""

import json
import os
import re
import shutil
import statistics
import time
from collections import ChainMap
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from polyvid.dataset_scripts.building import write_json
from polyvid.dataset_scripts.locking import locked
from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.demo.leaderboard_table import STYLES, TESTS, Pictures, to_markdown
from polyvid.train.demo.models import MODELS, stages_of
from polyvid.train.demo.run import OUTPUT, TRAIN, prepare, train
from polyvid.train.demo.script import run_script, write_results
from polyvid.train.scoring.baselines import LABELS, Baseline
from polyvid.train.scoring.evaluation import TEXT_TO_VIDEO, Ranks
from polyvid.train.scoring.results import environment
from polyvid.train.scoring.significance import bootstrap_interval

FOLDER = OUTPUT.parent / "leaderboard"
RESULTS = TRAIN.parent / "hub_cards" / "results" / "leaderboard.json"
WORD = re.compile(r"[^\W_]+")
TRAINING = {"split_0": "Fluent", "unseen_style": "Fluent, Twemoji, OpenMoji"}  # config → the styles that it trains on


def main(
    model: Annotated[
        list[str] | None, typer.Option(help="Folder or Hub id of a model, such as outputs/demo/mmp; may be repeated.")
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=0, help="Train the demo's models this many times on each set of styles, and score them.")
    ] = 0,
    results: Annotated[Path, typer.Option(help="Results file; the table is written beside it, as .md.")] = RESULTS,
) -> None:
    """Score closed forms and models on the pictures they were trained on and on others."""
    from polyvid.train.loading import recipe_of

    for folder in model or []:
        recipe_of(folder)  # a model that is not there is named now, not after hours of work
    prepare()
    with locked(FOLDER, "python -m polyvid.train.demo.leaderboard"):
        ready = {pictures.folder: make(pictures) for pictures in {t.folder: t for t in TESTS.values()}.values()}
        videos = {test: load(pictures) for test, pictures in TESTS.items() if ready[pictures.folder]}
        score_closed_forms(videos)
        for folder in model or []:
            score_model(folder, videos)
        train_models(seeds, videos)
        content = collect()
    write_results(results, content, to_markdown)


def make(pictures: Pictures) -> bool:
    """Get pictures and their features, unless they are there. Returns False, and says why, if that fails."""
    if pictures.folder is None:
        return True
    from polyvid.dataset_scripts.fetch import fetch
    from polyvid.train.extraction.extract import extract

    try:
        fetch(pictures.dataset, pictures.folder)
    except PolyvidError as error:
        print(f"{pictures.title}: left out. {error}")
        return False
    if pictures.dataset == "fluent_emoji_9" and not pictures.features.exists():
        shutil.copytree(OUTPUT / "features", pictures.features)  # the demo's clips are among them
    extract(pictures.folder, pictures.features, ["efficientnet-lite0"], num_shards=4, workers=1)
    return True


def load(pictures: Pictures, split: str = "test") -> list[dict[str, Any]]:
    """The videos of a set, with the captions that search for them."""
    from polyvid.train.data.videos import load_videos
    from polyvid.train.recipe import DataRecipe

    folder = str(pictures.folder) if pictures.folder else None
    data = DataRecipe(
        dataset=pictures.dataset, config=pictures.config, data_dir=folder, caption_kinds=pictures.caption_kinds
    )
    return load_videos(data, split)


def score_closed_forms(videos: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """A row for each closed form, setting of pre-training and set of styles; and the text ceilings of all tests."""
    from polyvid.train.data.videos import VideoFeatures
    from polyvid.train.demo.baselines import fit_baselines, sentence_vectors
    from polyvid.train.scoring.text_ceilings import text_ceilings

    names = trained_names()
    folders = {TESTS[test].features for test in videos}
    features: Mapping[str, np.ndarray] = ChainMap(*(VideoFeatures(folder) for folder in folders))  # type: ignore[arg-type]
    with sentence_vectors("none", FOLDER) as embed:
        for config, styles in TRAINING.items():
            if config != "split_0" and "noto" not in videos:
                continue
            changes = changes_of(config)
            missing = [name for name in MODELS if not all(row_file(kind, name, config).exists() for kind in LABELS)]
            started = time.process_time()
            for kind, name, baseline in fit_baselines(missing, FOLDER, features, embed, changes) if missing else ():
                minutes = (time.process_time() - started) / 60
                found = {test: ranks_of(baseline, rows) for test, rows in videos.items()}
                row = row_of(LABELS[kind], MODELS[name], styles, None, minutes)
                write_json(row_file(kind, name, config), row | {"tests": scores_of(found, videos, names)})
                started = time.process_time()
        ceilings = {
            name: {language: ranks.scores() for language, ranks in text_ceilings(embed, rows, LANGUAGES).items()}
            for name, rows in videos.items()
        }
    write_json(FOLDER / "text_ceilings.json", ceilings)


def ranks_of(baseline: Baseline, videos: Sequence[Mapping[str, Any]]) -> dict[str, Ranks]:
    """What a closed form finds, as models' ranks are given."""
    return {
        language: Ranks(ranks, np.ones(len(ranks), dtype=bool), video_ids)
        for language, (ranks, video_ids) in baseline.ranks(videos).items()
    }


def train_models(seeds: int, videos: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """A row for each of the demo's models, set of styles and seed. A model is deleted once it is scored."""
    for config in TRAINING:
        if config != "split_0" and "noto" not in videos:
            continue
        for seed, name in product(range(seeds), MODELS):
            folder = FOLDER / "models" / name
            stages = stages_of(name, folder)
            if row_file(stages[-1][0].stem, str(seed), config).exists():
                continue
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped: its minutes are not known
            started = cpu_minutes_of_children()
            for recipe, own in stages:
                train(recipe, [*changes_of(config), f"training.seed={seed}", *own])
            score_model(str(folder / name), videos, cpu_minutes_of_children() - started)
            shutil.rmtree(folder)


def changes_of(config: str) -> list[str]:
    """What makes a recipe of the demo train on the styles of a config."""
    changes = {"data.config": config}
    if config != "split_0":
        changes |= {"data.data_dir": str(STYLES), "data.features": str(TESTS["noto"].features)}
    return [f"{key}={value}" for key, value in changes.items()]


def cpu_minutes_of_children() -> float:
    """CPU minutes of all processes that this one has started and waited for."""
    times = os.times()
    return (times.children_user + times.children_system) / 60


def score_model(
    folder: str, videos: Mapping[str, Sequence[Mapping[str, Any]]], cpu_minutes: float | None = None
) -> None:
    """A row for a model, kept under the name of its recipe, its seed and the config that it was trained on.

    Args:
        folder: of the model, or its Hub id.
        videos: test → videos to search.
        cpu_minutes: that training took, if known.
    """
    from polyvid.train.loading import load_model, recipe_of
    from polyvid.train.scoring.benchmark import open_benchmark
    from polyvid.train.scoring.evaluation import rank_benchmark

    recipe = recipe_of(folder)
    name, seed = (recipe.name, recipe.training.seed) if recipe else (Path(folder).name, None)
    styles = TRAINING.get(recipe.data.config or "split_0", recipe.data.config or "") if recipe else ""
    path = row_file(name, str(seed), recipe.data.config or "split_0" if recipe else "")
    if path.exists():
        return
    model, processor = load_model(folder)
    found: dict[str, Mapping[str, Ranks]] = {}
    for test, pictures in TESTS.items():
        if test in videos:
            opened = open_benchmark(
                folder,
                benchmark=pictures.dataset,
                features=pictures.features,
                protocol=pictures.config,
                data_dir=pictures.folder,
                caption_kinds=pictures.caption_kinds,
            )
            opened.check_encoders(folder, model)
            search = rank_benchmark(model, processor, videos[test], opened.features, LANGUAGES, progress=test)
            found[test] = search[TEXT_TO_VIDEO]
    row = row_of(name, MODELS.get(name.removesuffix("_warm"), ""), styles, seed, cpu_minutes)
    write_json(path, row | {"tests": scores_of(found, videos, trained_names())})


def row_of(method: str, pretraining: str, styles: str, seed: int | None, cpu_minutes: float | None) -> dict[str, Any]:
    """What a row says besides its scores."""
    return {
        "method": method,
        "pre-training": pretraining,
        "styles": styles,
        "seed": seed,
        "cpu_minutes": None if cpu_minutes is None else round(cpu_minutes, 2),
        "revision": environment()["git_revision"],
    }


def row_file(*parts: str) -> Path:
    """Where a row is kept until the table is made."""
    return FOLDER / "rows" / f"{'_'.join(re.sub(r'[^A-Za-z0-9-]', '-', part) for part in parts)}.json"


def trained_names() -> set[str]:
    """The English names that training has seen, in small letters."""
    training = [video for split in ("pretrain", "finetune") for video in load(TESTS["fluent"], split)]
    return {c["text"].casefold() for video in training for c in video["captions"] if c["language"] == "en"}


def shows_a_trained_name(video: Mapping[str, Any], names: set[str]) -> bool:
    """Whether an English caption contains a name that was trained on, as whole words.

    >>> captions = [{"language": "en", "text": "A hot-air balloon."}]
    >>> [shows_a_trained_name({"captions": captions}, names) for names in ({"balloon"}, {"ball"}, {"hot air balloon"})]
    [True, False, True]
    """

    def words(text: str) -> str:
        return f" {' '.join(WORD.findall(text.casefold()))} "

    captions = [words(caption["text"]) for caption in video["captions"] if caption["language"] == "en"]
    return any(words(name) in caption for name in names for caption in captions)


def scores_of(
    found: Mapping[str, Mapping[str, Ranks]], videos: Mapping[str, Sequence[Mapping[str, Any]]], names: set[str]
) -> dict[str, dict[str, Any]]:
    """What a row says of each test.

    Args:
        found: test → language → ranks.
        videos: test → the videos that were searched.
        names: as `trained_names` returns them.

    Returns:
        test → `videos` (their number), `R@1` by language, its `mean` over languages, the mean's 95 % `interval`
        (videos resampled), and for Tux-8 the mean over videos with a `trained` name and over those with `new` ones.
    """
    scores: dict[str, dict[str, Any]] = {}
    for test, by_language in found.items():
        ranks = np.concatenate([own.ranks for own in by_language.values()])
        video_ids = np.concatenate([own.video_ids for own in by_language.values()])
        scores[test] = {
            "videos": len(videos[test]),
            "R@1": {language: own.scores()["R@1"] for language, own in by_language.items()},
            "mean": statistics.mean(own.scores()["R@1"] for own in by_language.values()),
            "interval": bootstrap_interval(ranks, "R@1", video_ids),
        }
        if TESTS[test].dataset == "tux8":
            trained = {video["video_id"] for video in videos[test] if shows_a_trained_name(video, names)}
            known = np.isin(video_ids, sorted(trained))
            for label, chosen in (("trained", known), ("new", ~known)):
                mean = 100 * float((ranks[chosen] == 1).mean()) if chosen.any() else None
                scores[test][label] = {"videos": len(set(video_ids[chosen])), "mean": mean}
    return scores


def collect() -> dict[str, Any]:
    """What the results file holds: `rows`, `text_ceilings` and where they come from."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((FOLDER / "rows").glob("*.json"))]
    ceilings = json.loads((FOLDER / "text_ceilings.json").read_text(encoding="utf-8"))
    return {"rows": rows, "text_ceilings": ceilings, "environment": environment()}


if __name__ == "__main__":
    run_script(main)
