"""The models that the demo compares: which recipes make each of them, and what they are called."""

from collections.abc import Sequence
from pathlib import Path

from polyvid.train.recipe import Recipe, load_recipe

CONFIGS = Path(__file__).parents[1] / "configs" / "demo"

MODELS = {"none": "no pre-training", "mp": "MP", "mmp": "MMP"}
CONTROL = (
    "mmp_keywords"  # MMP that never sees a name in pre-training, as subtitles never contain a benchmark's captions
)
LABELS = MODELS | {CONTROL: "MMP, keywords only"}

STAGES: dict[str, tuple[str, ...]] = {  # model → its recipes, in the order in which they run
    "none": ("none",),
    "mp": ("mp_pretrain", "mp"),
    "mmp": ("mmp_pretrain", "mmp"),
    CONTROL: ("mmp_pretrain", "mmp"),
}
CHANGES = {CONTROL: {"mmp_pretrain": ["data.caption_kinds=[keywords]"]}}  # model → recipe → overrides


def recipes_of(model: str, overrides: Sequence[str] = (), folder: Path | None = None) -> list[Recipe]:
    """The recipes of a model's stages.

    Args:
        model: a key of `STAGES`.
        overrides: `key=value` for all stages.
        folder: where the stages write, each into a folder of its own and starting from the one before; default: as the
            files say.
    """
    recipes: list[Recipe] = []
    for stage in STAGES[model]:
        changes = [*overrides, *CHANGES.get(model, {}).get(stage, [])]
        if folder is not None:
            changes.append(f"output_dir={folder / stage}")
            if recipes:
                changes.append(f"model.init_from={recipes[-1].output_dir}")
        recipes.append(load_recipe(CONFIGS / f"{stage}.yaml", changes))
    return recipes
