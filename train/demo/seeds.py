"""The demo's arms over several seeds and splits: how much of a difference is noise.

    make demo-seeds

One run trains an arm with one seed on one split and is kept in the results file at once, so a stopped command goes on
with the runs that are missing. `mmp_keywords` is the control: MMP that never sees a name in pre-training, only
keywords, as subtitles never contain the captions of a benchmark.
"""

import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import typer

from polyvid.dataset_scripts.building import write_json
from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.train.demo.report import CONTROL, seeds_table
from polyvid.train.demo.run import CONFIGS, OUTPUT, SEEDS, prepare

ARMS = {  # arm → its pre-training recipe and changes to it, None for no pre-training
    "none": None,
    "mp": ("mp_pretrain", []),
    "mmp": ("mmp_pretrain", []),
    CONTROL: ("mmp_pretrain", ["data.caption_kinds=[keywords]"]),
}


def run_arm(arm: str, split: str, seed: int) -> dict[str, dict[str, float]]:
    """Train one arm and score it on the test clips of its split: language → R@1, R@5, R@10."""
    import torch
    from transformers import AutoModel, AutoProcessor

    from polyvid.train.data.videos import VideoFeatures, load_videos
    from polyvid.train.loop.setup import build_trainer
    from polyvid.train.recipe import load_recipe
    from polyvid.train.scoring.evaluation import evaluate_retrieval

    torch.set_num_threads(1)  # splits are trained side by side
    folder = OUTPUT.parent / "demo_seeds" / split
    changes = [f"data.config={split}", f"training.seed={seed}", f"data.frozen_states={folder / 'frozen_states'}"]
    folder.mkdir(parents=True, exist_ok=True)
    for path in OUTPUT.glob("frozen_states.*"):  # what the demo computed already
        if not (folder / path.name).exists():
            shutil.copy(path, folder / path.name)
    if ARMS[arm] is None:
        stages = [("none", [])]
    else:
        name, more = ARMS[arm]
        stages = [(name, more), ("mp", [f"model.init_from={folder / arm / name}"])]
    for name, more in stages:
        recipe = load_recipe(CONFIGS / f"{name}.yaml", [*changes, f"output_dir={folder / arm / name}", *more])
        trainer = build_trainer(recipe)
        if not trainer.checkpoints.is_finished():
            trainer.fit()
    model = AutoModel.from_pretrained(recipe.output_dir)
    processor = AutoProcessor.from_pretrained(recipe.output_dir)
    videos, features = load_videos(recipe.data, "test"), VideoFeatures(recipe.data.features)
    scores = evaluate_retrieval(model, processor, videos, features, LANGUAGES)
    shutil.rmtree(folder / arm)  # half a gigabyte; the scores are what is kept
    return scores


def run_split(split: str, seeds: int, folder: Path) -> None:
    """All runs of a split that are missing, one after the other: they share what frozen layers computed."""
    for arm, seed in sorted(((arm, seed) for arm in ARMS for seed in range(seeds)), key=_controls_last):
        path = folder / f"{arm}_{split}_{seed}.json"
        if not path.exists():
            write_json(path, run_arm(arm, split, seed))


def _controls_last(run: tuple[str, int]) -> tuple[bool, int]:
    arm, seed = run
    return arm == CONTROL, seed


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    splits: Annotated[list[str], typer.Option(help="Splits of Fluent-Emoji-9.")] = ("split_0", "split_1"),
    results: Annotated[Path, typer.Option(help="Results file.")] = SEEDS,
) -> None:
    """Train every arm with several seeds on several splits, a split per core; keep all scores in one file."""
    prepare()
    parts = OUTPUT.parent / "demo_seeds" / "scores"
    with ProcessPoolExecutor(len(splits), mp_context=get_context("spawn")) as pool:
        for job in [pool.submit(run_split, split, seeds, parts) for split in splits]:
            job.result()
    runs = {path.stem: json.loads(path.read_text()) for path in sorted(parts.glob("*.json"))}
    command = f"python -m polyvid.train.demo.seeds --seeds {seeds} " + " ".join(f"--splits {split}" for split in splits)
    write_json(results, {"command": command, "runs": runs})
    print(seeds_table(runs))


if __name__ == "__main__":
    typer.run(main)
