"""The main job on the embedded benchmark: clips → features → pre-train → fine-tune → search in nine languages.

`make demo` runs it. Every stage skips what is there already, so a demo that was stopped resumes.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from transformers import AutoConfig, AutoModel, AutoProcessor

from polyvid.dataset_scripts.building import write_json
from polyvid.dataset_scripts.locking import locked
from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.train.data.videos import VideoFeatures, load_videos
from polyvid.train.demo.baselines import score_baselines
from polyvid.train.demo.models import CONFIGS, MODELS, recipes_of, stages_of
from polyvid.train.demo.offline_backbone import convert
from polyvid.train.demo.report import (
    ceilings_sentence,
    plot_recall_by_language,
    published_table,
    recall_table,
    seeds_table,
)
from polyvid.train.extraction.bundling import bundle_encoders
from polyvid.train.extraction.extract import extract
from polyvid.train.launching import run_to_end
from polyvid.train.recipe import Recipe, load_recipe
from polyvid.train.scoring.contact_sheet import plot_contact_sheet
from polyvid.train.scoring.evaluation import TEXT_TO_VIDEO, Ranks, rank_benchmark
from polyvid.train.scoring.sentences import SentenceVectors
from polyvid.train.scoring.text_ceilings import text_ceilings

TRAIN = Path(__file__).parents[1]
OUTPUT = Path("outputs/demo")
SEEDS = TRAIN.parent / "hub_cards" / "results" / "demo_seeds.json"
CLIPS = TRAIN.parent / "dataset_scripts" / "fluent_emoji_9" / "clips"


class Stages:
    """Prints and keeps how long each stage took; a stage that is skipped keeps the time of its first run."""

    def __init__(self, path: Path):
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        print(f"── {name}", flush=True)
        started = time.monotonic()
        yield
        elapsed = time.monotonic() - started
        self.seconds[name] = max(elapsed, self.seconds.get(name, 0.0))
        write_json(self.path, self.seconds)
        print(f"   {elapsed:.0f} s", flush=True)


def main() -> None:
    with locked(OUTPUT, "polyvid demo"):  # two at once would train on each other's checkpoints
        run()


def run() -> None:
    """All stages, one after the other."""
    stage = prepare()
    for name in MODELS:
        for config, overrides in stages_of(name, OUTPUT):
            with stage(f"train {config.stem}"):
                train(config, overrides)
    for name in MODELS:
        bundle_encoders(AutoConfig.from_pretrained(OUTPUT / name).video_encoders, OUTPUT / name)
    with stage("evaluate"):
        results = evaluate_models()
    with stage("report"):
        write_report(results, stage.seconds)
    print()
    print((OUTPUT / "report.md").read_text(encoding="utf-8"))


def prepare() -> Stages:
    """Text backbone and features of the clips, from which all models start."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    stage = Stages(OUTPUT / "seconds.json")
    with stage("text backbone"):
        convert(OUTPUT / "backbone")
    with stage("video features"):
        extract(CLIPS, OUTPUT / "features", ["efficientnet-lite0"], num_shards=4, workers=1)
    return stage


def train(config: Path, overrides: Sequence[str] = ()) -> None:
    """Run a recipe as a user would, in one process on the CPU, whatever `accelerate config` has set up."""
    command = [sys.executable, str(TRAIN / "train.py"), "--config", str(config), *overrides]
    code = run_to_end(command, {"ACCELERATE_USE_CPU": "true"})
    if code:
        raise SystemExit(code)


def evaluate_models() -> dict:
    """Scores of each model and baseline on the test clips, in each language, and the clip to show; kept in a file.

    Returns:
        What `results.json` holds: `protocol`, `scores` (model → language → scores), `baselines` (baseline → model whose
        data it was fitted on → language → scores), `text_ceilings` (language → scores) and `shown_clip`.
    """
    path = OUTPUT / "results.json"
    if path.exists():
        return json.loads(path.read_text())
    recipe = load_recipe(CONFIGS / "finetune.yaml", [f"output_dir={OUTPUT}"])
    videos = load_videos(recipe.data, "test")
    assert recipe.data.features is not None
    features = VideoFeatures(recipe.data.features)
    found = {}
    for name in MODELS:
        model = AutoModel.from_pretrained(OUTPUT / name)
        processor = AutoProcessor.from_pretrained(OUTPUT / name)
        found[name] = rank_benchmark(model, processor, videos, features, LANGUAGES)[TEXT_TO_VIDEO]
    ceilings = text_ceilings(SentenceVectors(model, processor), videos, LANGUAGES)  # of the backbone, frozen in all
    results = {
        "protocol": {"dataset": "fluent_emoji_9", "config": "split_0", "split": "test", "clips": len(videos)},
        "scores": {name: {lang: ranks.scores() for lang, ranks in found[name].items()} for name in MODELS},
        "baselines": score_baselines(list(MODELS), OUTPUT),
        "text_ceilings": {language: ranks.scores() for language, ranks in ceilings.items()},
        "shown_clip": best_found_clip(found["mmp"]),
    }
    write_json(path, results)
    return results


def best_found_clip(found: dict[str, Ranks]) -> str:
    """The video with the highest mean reciprocal rank over all languages."""
    reciprocal = np.sum([1 / ranks.ranks for ranks in found.values()], axis=0)  # one caption per clip and language
    return str(next(iter(found.values())).video_ids[reciprocal.argmax()])


def write_report(results: dict, seconds: dict[str, float]) -> None:
    """`report.md` and its two pictures from what `evaluate_models` returns and the seconds of each stage."""
    scores, baselines = results["scores"], results["baselines"]
    recipe = recipes_of("mmp", OUTPUT)[-1]
    videos = load_videos(recipe.data, "test")
    assert recipe.data.features is not None
    features = VideoFeatures(recipe.data.features)
    plot_recall_by_language(scores, OUTPUT / "recall_by_language.png")
    model = AutoModel.from_pretrained(OUTPUT / "mmp")
    processor = AutoProcessor.from_pretrained(OUTPUT / "mmp")
    plot_contact_sheet(model, processor, videos, features, results["shown_clip"], OUTPUT / "contact_sheet.png")
    trained = trained_parts(recipe)
    times = "\n".join(f"| {name} | {value:.0f} |" for name, value in seconds.items())
    (OUTPUT / "report.md").write_text(
        f"""# Fluent-Emoji-9: zero-shot cross-lingual text-to-video search

{len(videos)} test clips; every caption is a query over all of them (chance: R@1 {100 / len(videos):.2f}).
All three models saw drawings of emoji alone, so their scores say nothing of natural video.
All were fine-tuned on English names only. {trained}
The baselines are closed forms without training: regression from a clip's mean features to the backbone's mean-pooled
sentence vectors, fitted on exactly the clips and captions of the model named.

{recall_table(scores, "R@1", baselines)}

{recall_table(scores, "R@5", baselines)}

{recall_table(scores, "R@10", baselines)}

{ceilings_sentence(results.get("text_ceilings", {}))}

The paper's Table 4 (XLM-R, VTT, another task and scale) for the shape:

{published_table()}

{spread_over_seeds()}

![R@1 by language](recall_by_language.png)

The test clip that MMP finds best, searched by its name in nine languages. It is the best case; the tables show all.

![One clip searched in nine languages](contact_sheet.png)

Search with the trained model:

```python
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained("{OUTPUT}/mmp", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{OUTPUT}/mmp", trust_remote_code=True)
text_embeds = model.encode_texts(["ein Stück Pizza", "bánh pizza"], processor)
video_embeds = model.encode_videos(["a.mp4"], processor)
```

Or search a folder of your own videos: `polyvid search my_videos/ "ein Stück Pizza" --model {OUTPUT}/mmp`.

| stage | seconds |
|---|---:|
{times}
""",
        encoding="utf-8",
    )


def spread_over_seeds() -> str:
    """What `make demo-seeds` found, if it has run."""
    if not SEEDS.exists():
        return "One split and one seed; `make demo-seeds` measures the spread over seeds and splits."
    measured = json.loads(SEEDS.read_text(encoding="utf-8"))
    commands = ", ".join(f"`{command}`" for command in measured["commands"].values())
    return (
        "This is one split and one seed. Over several of both (mean ± standard deviation; keywords only: no names in "
        f"pre-training; {commands}):\n\n{seeds_table(measured)}"
    )


def trained_parts(recipe: Recipe) -> str:
    """A sentence that says what training changed."""
    model = recipe.model
    if model.lock_text:
        return (
            "Training changed the video tower alone; text is the frozen backbone's mean over tokens, projected on "
            "principal components. Video began as a kernel regression. Both starts go beyond the paper, whose random "
            "start `none.yaml`, `mp.yaml`, `mmp.yaml` and `paper_*.yaml` keep."
        )
    if model.freeze_below is None or model.freeze_below == model.output_layer:
        return (
            f"Training changed the projections and the pooling heads; all {model.output_layer} layers of the text "
            "backbone were frozen (`paper_*.yaml` train layers 10–12, as §5.2 does)."
        )
    layers = f"layers {model.freeze_below + 1}–{model.output_layer}"
    return f"Training changed {layers} of the text backbone, the projections and the pooling heads."


if __name__ == "__main__":
    main()
