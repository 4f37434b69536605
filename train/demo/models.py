"""The models that the demo compares: which recipes make each of them, and what they are called."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from polyvid.train.recipe import Recipe, load_recipe

CONFIGS = Path(__file__).parents[1] / "configs" / "demo"

MODELS = {"none": "no pre-training", "mp": "MP", "mmp": "MMP"}
CONTROL = "mmp_keywords"  # MMP without names in pre-training: subtitles do not contain a benchmark's captions either
LABELS = MODELS | {CONTROL: "MMP, keywords only"}

Start = Literal["warm", "random"]  # see `polyvid.train.loop.warm_start`; random is the paper's (§3.1)
STAGES: dict[str, tuple[str, ...]] = {  # model → the stages of its training
    "none": ("none",),
    "mp": ("mp_pretrain", "mp"),
    "mmp": ("mmp_pretrain", "mmp"),
    CONTROL: ("mmp_pretrain", "mmp"),
}
CHANGES = {CONTROL: {"mmp_pretrain": ["data.caption_kinds=[keywords]"]}}  # model → stage → overrides


def stages_of(model: str, folder: Path, start: Start = "warm") -> list[tuple[Path, list[str]]]:
    """The recipe file of each stage of a model's training and the overrides that it needs.

    Args:
        model: a key of `STAGES`.
        folder: each stage writes to a folder of its own here, named after the stage, and starts from the one before.
        start: of the first stage.
    """
    stages: list[tuple[Path, list[str]]] = []
    before: Path | None = None
    for stage in STAGES[model]:
        overrides = [f"output_dir={folder / stage}", *CHANGES.get(model, {}).get(stage, [])]
        if before is not None:
            overrides.append(f"model.init_from={before}")
        stages.append((CONFIGS / f"{stage}{'_warm' if start == 'warm' else ''}.yaml", overrides))
        before = folder / stage
    return stages


def recipes_of(model: str, folder: Path, overrides: Sequence[str] = (), start: Start = "warm") -> list[Recipe]:
    """The recipes of a model's stages, with `key=value` overrides for all of them. Other arguments as `stages_of`."""
    return [load_recipe(file, [*overrides, *own]) for file, own in stages_of(model, folder, start)]
