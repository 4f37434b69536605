"""The demo's models over several seeds and splits: how much of a difference is noise.

    make demo-seeds

One run trains a model with one seed on one split, and its scores are kept in a file of their own at once: a command
that was stopped resumes with the runs that are missing. `mmp_keywords` is the control: MMP that never sees a name in
pre-training, only keywords, as subtitles never contain the captions of a benchmark.
"""

import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import typer

from polyvid.dataset_scripts.building import write_json
from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.dataset_scripts.workers import end_with_parent
from polyvid.train.demo.models import CONTROL, STAGES, Start, recipes_of
from polyvid.train.demo.report import seeds_table
from polyvid.train.demo.run import OUTPUT, SEEDS, prepare
from polyvid.train.scoring.results import environment

FOLDER = OUTPUT.parent / "demo_seeds"
SPLITS = ["split_0", "split_1", "split_2"]


def score_run(model: str, split: str, seed: int, start: Start) -> dict[str, dict[str, float]]:
    """Train a model and score it on the test clips of its split: language → R@1, R@5, R@10."""
    import torch
    from transformers import AutoModel, AutoProcessor

    from polyvid.train.data.videos import VideoFeatures, load_videos
    from polyvid.train.loop.setup import build_trainer
    from polyvid.train.scoring.evaluation import evaluate_retrieval

    torch.set_num_threads(1)  # splits are trained side by side
    folder = FOLDER / split / f"{start}_{model}_{seed}"
    changes = [f"data.config={split}", f"training.seed={seed}", f"data.frozen_states={_frozen_states(split)}"]
    recipes = recipes_of(model, folder, changes, start)
    for recipe in recipes:
        trainer = build_trainer(recipe)
        if not trainer.checkpoints.is_finished():
            trainer.fit()
    last = recipes[-1]
    trained = AutoModel.from_pretrained(last.output_dir)
    processor = AutoProcessor.from_pretrained(last.output_dir)
    assert last.data.features is not None
    videos, features = load_videos(last.data, "test"), VideoFeatures(last.data.features)
    scores = evaluate_retrieval(trained, processor, videos, features, LANGUAGES)
    shutil.rmtree(folder)  # half a gigabyte; the scores are what is kept
    return scores


def run_split(split: str, seeds: int, start: Start, scores: Path) -> None:
    """All missing runs and baselines of a split, one after the other: they share what frozen layers computed."""
    import torch

    from polyvid.train.demo.baselines import score_baselines

    torch.set_num_threads(1)
    path = scores / f"baselines_{split}.json"
    if not path.exists():
        changes = [f"data.config={split}", f"data.frozen_states={_frozen_states(split)}"]
        write_json(path, score_baselines(list(STAGES), FOLDER / split, changes))
    for model, seed in sorted(((model, seed) for model in STAGES for seed in range(seeds)), key=_controls_last):
        path = scores / start / f"{model}_{split}_{seed}.json"
        if not path.exists():
            write_json(path, score_run(model, split, seed, start))


def collect(scores: Path) -> dict[str, dict]:
    """What a results file holds, from the files of `run_split`.

    Returns:
        `runs` and `random_start` (`{model}_{split}_{seed}` → language → scores; of warm and of random starts) and
        `baselines` (baseline → `{model}_{split}` → language → scores).
    """
    found: dict[str, dict] = {"runs": {}, "random_start": {}, "baselines": {}}
    for name, start in (("runs", "warm"), ("random_start", "random")):
        for path in sorted((scores / start).glob("*.json")):
            found[name][path.stem] = json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(scores.glob("baselines_*.json")):
        split = path.stem.removeprefix("baselines_")
        for kind, by_model in json.loads(path.read_text(encoding="utf-8")).items():
            of_kind = found["baselines"].setdefault(kind, {})
            of_kind.update({f"{model}_{split}": scores_of for model, scores_of in by_model.items()})
    return found


def _frozen_states(split: str) -> Path:
    """The split's own file of frozen states, which begins as a copy of what the demo has computed."""
    folder = FOLDER / split
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(OUTPUT.glob("frozen_states.*")):
        if not (folder / path.name).exists():
            shutil.copy(path, folder / path.name)
    return folder / "frozen_states"


def _controls_last(run: tuple[str, int]) -> tuple[bool, int]:
    model, seed = run
    return model == CONTROL, seed


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    splits: Annotated[list[str], typer.Option(help="Splits of Fluent-Emoji-9.")] = SPLITS,
    start: Annotated[Start, typer.Option(help="Of heads and projections; random is the paper's.")] = "warm",
    results: Annotated[Path, typer.Option(help="Results file; runs that are there already are kept.")] = SEEDS,
) -> None:
    """Train every model with several seeds on several splits, a split on each core; keep all scores in one file."""
    prepare()
    scores = FOLDER / "scores"
    context, processes = get_context("spawn"), min(len(splits), os.cpu_count() or 1)
    with ProcessPoolExecutor(processes, context, initializer=end_with_parent) as pool:
        for job in [pool.submit(run_split, split, seeds, start, scores) for split in splits]:
            job.result()
    known = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    command = f"python -m polyvid.train.demo.seeds --start {start} --seeds {seeds}"
    known.setdefault("commands", {})[start] = command + "".join(f" --splits {split}" for split in splits)
    known.setdefault("revisions", {})[start] = environment()["git_revision"]
    for name, found in collect(scores).items():
        known[name] = known.get(name, {}) | found
    write_json(results, known)
    print(seeds_table(known))


if __name__ == "__main__":
    typer.run(main)
