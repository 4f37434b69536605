"""Can a model tell in which order things happen? Mean pooling, the paper's heads, and heads with positions.

    python -m polyvid.train.demo.motion --seeds 3

The clips of Emoji-Motion differ from one another in the order of their frames alone. A caption has to be nearer to its
own clip than to the one with the same frames in another order: chance is 50 %. Models are trained with English captions
and tested in nine languages. Every row is kept in a file of its own at once, so a command that was stopped resumes.
Delete `outputs/motion` to measure all of them again.

The table is `hub_cards/results/motion.md`, made from `motion.json` beside it.
"""

import json
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch.nn.functional import normalize

from polyvid.dataset_scripts.building import write_json
from polyvid.dataset_scripts.emoji_motion import emoji_motion
from polyvid.dataset_scripts.emoji_motion.emoji_motion import QUESTIONS, SPLITS
from polyvid.dataset_scripts.features import SETTINGS
from polyvid.dataset_scripts.locking import locked
from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.train.data.videos import VideoFeatures, load_videos
from polyvid.train.demo.models import CONFIGS
from polyvid.train.demo.motion_table import to_markdown
from polyvid.train.demo.offline_backbone import convert
from polyvid.train.demo.run import CLIPS, OUTPUT, TRAIN
from polyvid.train.demo.script import run_script, write_results
from polyvid.train.extraction.extract import extract
from polyvid.train.extraction.shards import FeatureShards
from polyvid.train.loop.frozen_states import FrozenStates
from polyvid.train.loop.setup import build_trainer
from polyvid.train.loop.starting_model import build_model
from polyvid.train.recipe import Recipe, load_recipe
from polyvid.train.scoring.baselines import Baseline, captions_of_runs, root_of_means
from polyvid.train.scoring.ranking import TIE, ranks_of_targets
from polyvid.train.scoring.results import environment
from polyvid.train.scoring.sentences import SentenceVectors
from polyvid.train.scoring.significance import bootstrap_interval

FOLDER = OUTPUT.parent / "motion"
RESULTS = TRAIN.parent / "hub_cards" / "results" / "motion.json"
HEADS = ("none", "sinusoidal")  # values of model.video_positions

Videos = Sequence[Mapping[str, Any]]
Features = Mapping[str, np.ndarray]


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Train each model this many times.")] = 3,
    results: Annotated[Path, typer.Option(help="Results file; the table is written beside it, as .md.")] = RESULTS,
) -> None:
    """Score mean pooling, the paper's heads and heads with positions on Emoji-Motion."""
    with locked(FOLDER, "python -m polyvid.train.demo.motion"):
        convert(OUTPUT / "backbone")
        arrange_features()
        for config in QUESTIONS:
            write_row(f"{config}_mean", lambda config=config: score_mean_pooling(config))  # type: ignore[misc]
        for seed, config, positions in product(range(seeds), QUESTIONS, HEADS):
            recipe = recipe_of(config, positions, seed)
            write_row(f"{config}_{positions}_{seed}", lambda recipe=recipe: score_heads(recipe))  # type: ignore[misc]
        rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((FOLDER / "rows").glob("*.json"))]
    content = {"rows": rows, "environment": environment()}
    write_results(results, content, to_markdown)


def recipe_of(config: str, positions: str, seed: int) -> Recipe:
    """The recipe `demo/motion` for a config of Emoji-Motion."""
    changes = {
        "output_dir": FOLDER / "model",
        "data.config": config,
        "data.features": FOLDER / "features",
        "data.frozen_states": FOLDER / "frozen_states",
        "model.video_positions": positions,
        "training.seed": seed,
    }
    return load_recipe(CONFIGS / "motion.yaml", [f"{key}={value}" for key, value in changes.items()])


def arrange_features() -> None:
    """Features of single frames, put into the order in which the clips of Emoji-Motion show them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    listed = FOLDER / "clips.txt"
    clips = emoji_motion.chosen_clips(Path(emoji_motion.__file__).parent)
    listed.write_text("".join(f"{clip}\t{CLIPS / clip}.mp4\n" for clip in clips), encoding="utf-8")
    extract(listed, FOLDER / "frames", ["efficientnet-lite0"], num_shards=4, per="frame", workers=1)
    frames = VideoFeatures(FOLDER / "frames")
    shown = {
        video["video_id"]: video["frames"]
        for config in QUESTIONS
        for split in SPLITS
        for video in load_videos(recipe_of(config, "none", 0).data, split)
    }
    shards = FeatureShards(FOLDER / "features", 1, "python -m polyvid.train.demo.motion")
    shards.check_settings(json.loads((FOLDER / "frames" / SETTINGS).read_text(encoding="utf-8")))
    shards.fill(
        dict.fromkeys(shown, FOLDER / "frames"),
        lambda jobs: ((video_id, in_order(frames, shown[video_id])) for video_id, _ in jobs),
        [0],
    )


def in_order(frames: Features, shown: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The features of the frames that a clip shows: (frames, dim).

    Args:
        frames: clip of Fluent-Emoji-9 → (its frames, dim).
        shown: the column `frames` of Emoji-Motion.
    """
    return np.stack([frames[frame["video_id"]][frame["index"]] for frame in shown])


def write_row(name: str, measure: Callable[[], dict[str, Any]]) -> None:
    """Keep what `measure` finds, with the minutes of CPU that it takes; nothing if that was done before."""
    path = FOLDER / "rows" / f"{name}.json"
    if not path.exists():
        print(f"── {name}", flush=True)
        started = time.process_time()
        found = measure()
        minutes = round((time.process_time() - started) / 60, 2)
        write_json(path, found | {"cpu_minutes": minutes, "revision": environment()["git_revision"]})


def score_heads(recipe: Recipe) -> dict[str, Any]:
    """Train a model and score it."""
    shutil.rmtree(recipe.output_dir, ignore_errors=True)  # of a run that was stopped
    trainer = build_trainer(recipe)
    trainer.fit()
    model, processor = trainer.accelerator.unwrap_model(trainer.model).eval(), trainer.processor
    states = FrozenStates(Path(str(recipe.data.frozen_states)), model)
    texts = SentenceVectors(model, processor, states)
    videos, features = load_videos(recipe.data, "test"), VideoFeatures(str(recipe.data.features))
    embeds = model.encode_videos([features[video["video_id"]] for video in videos], processor)
    found = scores_of(videos, embeds, lambda captions, language: torch.from_numpy(texts.embeddings(captions)))
    states.save()
    shutil.rmtree(recipe.output_dir)
    kept = {"config": recipe.data.config, "heads": recipe.model.video_positions, "seed": recipe.training.seed}
    return kept | found


def score_mean_pooling(config: str) -> dict[str, Any]:
    """Ridge regression from the mean of a clip's features to the sentence vector of its caption."""
    recipe = recipe_of(config, "none", 0)
    data = recipe.data
    backbone, processor = build_model(recipe.model)
    processor.max_text_length = data.max_text_length
    states = FrozenStates(Path(str(data.frozen_states)), backbone)
    texts, features = SentenceVectors(backbone, processor, states), VideoFeatures(str(data.features))
    training, validation = (captions_of_runs([(data, load_videos(data, split))]) for split in ("train", "validation"))
    ridge = Baseline("ridge", training, validation, features, texts)
    videos = load_videos(data, "test")
    means = ridge.scaler.transform(root_of_means(features, [video["video_id"] for video in videos]))
    embeds = torch.from_numpy(ridge.regression.predict(means))
    found = scores_of(
        videos, embeds, lambda captions, language: torch.from_numpy(ridge.space(texts(captions), language))
    )
    states.save()
    return {"config": config, "heads": "mean", "seed": None} | found


def scores_of(
    videos: Videos, video_embeds: torch.Tensor, embed: Callable[[list[str], str], torch.Tensor]
) -> dict[str, Any]:
    """What a row says of a model.

    Args:
        videos: rows of Emoji-Motion, with one caption in each language.
        video_embeds: (videos, dim).
        embed: captions, their language → (captions, dim).

    Returns:
        `videos` (their number); `questions`: question → `accuracy` by language in percent, its `mean` over languages
        and the mean's 95 % `interval` (groups of clips resampled); `groups` (their number); and `R@1` by language, of
        groups: how often the best clip is the right one or has the same frames.
    """
    row_of = {video["video_id"]: row for row, video in enumerate(videos)}
    groups = np.array([video["group"] for video in videos])
    _, group = np.unique(groups, return_inverse=True)
    of_clip = torch.from_numpy(group)
    twins: dict[str, list[int]] = {}
    for video in videos:
        for twin in video["twins"]:
            twins.setdefault(twin["question"], []).append(row_of[twin["video_id"]])
    gained: dict[str, dict[str, np.ndarray]] = {question: {} for question in twins}
    recall: dict[str, float] = {}
    for language in LANGUAGES:
        texts = embed([_caption(video, language) for video in videos], language)
        recall[language] = 100 * float((ranks_of_targets(texts, video_embeds, of_clip, of_clip) == 1).mean())
        for question, rows in twins.items():
            gained[question][language] = told_apart(texts, video_embeds, video_embeds[rows])
    questions = {}
    for question, by_language in gained.items():
        accuracy = {language: 100 * float(gains.mean()) for language, gains in by_language.items()}
        with np.errstate(divide="ignore"):
            ranks = 1 / np.concatenate(list(by_language.values()))  # whose reciprocal the interval is of
        interval = bootstrap_interval(ranks, "MRR", np.tile(groups, len(by_language)))
        questions[question] = {
            "accuracy": accuracy,
            "mean": statistics.mean(accuracy.values()),
            "interval": [100 * bound for bound in interval],
        }
    return {"videos": len(videos), "groups": len(set(groups)), "questions": questions, "R@1": recall}


def told_apart(texts: torch.Tensor, own: torch.Tensor, twins: torch.Tensor) -> np.ndarray:
    """1 where a text is nearer to its own clip than to the twin, 0 where it is not, 0.5 for ties: (texts,).

    >>> told_apart(torch.eye(2), torch.eye(2), torch.tensor([[0.0, 1.0], [0.0, 1.0]])).tolist()
    [1.0, 0.5]
    """
    queries = normalize(texts.double(), dim=-1)
    nearer, other = ((queries * normalize(videos.double(), dim=-1)).sum(-1).numpy() for videos in (own, twins))
    return np.where(np.abs(nearer - other) <= TIE, 0.5, nearer > other)


def _caption(video: Mapping[str, Any], language: str) -> str:
    return next(caption["text"] for caption in video["captions"] if caption["language"] == language)


if __name__ == "__main__":
    run_script(main)
