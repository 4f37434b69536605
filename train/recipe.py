"""Everything that decides what a training run does: one typed dataclass, filled from small YAML files.

    base: finetune.yaml          # optional: another recipe this one changes, relative to this file
    name: mmp
    model:
      init_from: outputs/demo/mmp_pretrain

and from the command line (`training.epochs=2`). Defaults are the paper's values for fine-tuning (§5.2, App. C).
"""

import difflib
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from mmp.dataset_scripts.schema import canonical_language


class RecipeError(ValueError):
    """A recipe that cannot be run; the message names file and key."""


@dataclass
class ModelRecipe:
    """The model to train: a new one around `backbone`, or `init_from` where that is given."""

    backbone: str = "FacebookAI/xlm-roberta-large"  # Hub id or folder of a multilingual encoder
    init_from: str | None = None  # Hub id or folder of an MMP model to start from instead
    output_layer: int = 12  # App. D
    freeze_below: int = 9  # §5.2; equal to output_layer: the whole backbone is frozen
    embed_dim: int = 1024
    video_feature_dim: int = 1024
    image_feature_dim: int | None = None  # §5.6: 2048 for Faster R-CNN regions
    pooler_num_layers: int = 2
    pooler_num_heads: int = 4
    pooler_dropout: float = 0.3
    share_poolers: bool = False  # Table 2, last row but one


@dataclass
class DataRecipe:
    """Which clips and texts are trained on and validated with."""

    dataset: str = MISSING  # a folder of dataset_scripts/, by name
    config: str | None = None  # the dataset's config: a protocol or a split
    data_dir: str | None = None  # where the dataset's official files are, if it does not bring its own
    features: str = MISSING  # folder of feature shards made by `mmp extract`
    train_split: str = "train"
    validation_split: str | None = "validation"
    languages: list[str] = field(default_factory=lambda: ["en"])  # drawn from uniformly, one per clip
    pivots: bool = False  # triples (x, v, y) with captions in two languages, for Eq. 4-6
    caption_kinds: list[str] | None = None  # only captions with these ids (Fluent-Emoji-9: name, keywords)
    normalize_features: bool = False  # by mean and deviation of the training clips; the paper does not
    max_text_length: int = 96  # tokens
    max_video_length: int = 36  # seconds
    frozen_states: str | None = None  # file that keeps what frozen layers make of each text
    noise_cycle: int | None = None  # epochs after which noised views repeat, so that frozen_states can serve them


@dataclass
class ObjectiveRecipe:
    """§3.2, §3.3 and Table 3."""

    form: str = "joint"  # of the loss between two views: joint (Eq. 2), symmetric, triplet_hard, triplet_all
    terms: list[str] = field(default_factory=lambda: ["inter", "intra", "cross"])  # cross: only with pivot captions
    temperature: float = 0.1
    margin: float = 0.2  # of the triplet forms
    mask_same_video: bool = False  # captions of one video are not each other's negatives
    mask_ratio: float = 0.05  # of tokens and seconds, for the noised views of Eq. 3


@dataclass
class TrainingRecipe:
    """App. C, "Training and Inference Details"."""

    epochs: int = 10
    batch_size: int = 128  # over all processes
    micro_batch_size: int | None = None  # GradCache: the same gradient in less memory
    learning_rate: float = 2e-4
    gradient_clip: float = 0.2  # global norm
    seed: int = 0
    save_minutes: float = 15.0  # time between checkpoints for resuming


@dataclass
class Recipe:
    name: str = MISSING
    output_dir: str = MISSING
    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    objective: ObjectiveRecipe = field(default_factory=ObjectiveRecipe)
    training: TrainingRecipe = field(default_factory=TrainingRecipe)


def load_recipe(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe file, the recipes it is based on, and `key=value` overrides.

    Raises:
        RecipeError: for a missing or broken file, an unknown key (the message offers the nearest one), a value of the
            wrong type, a key without value, or an unknown language.
    """
    path = Path(path)
    config = OmegaConf.structured(Recipe)
    for file in _with_bases(path):
        try:
            content = OmegaConf.load(file)
            content.pop("base", None)
            config = OmegaConf.merge(config, content)
        except yaml.YAMLError as error:
            raise RecipeError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
        except OmegaConfBaseException as error:
            raise RecipeError(f"{file}: {_explain(error)}") from None
    for override in overrides:
        if "=" not in override:
            raise RecipeError(f"{override!r} is not of the form key=value, such as training.epochs=2.")
        try:
            config = OmegaConf.merge(config, OmegaConf.from_dotlist([override]))
        except OmegaConfBaseException as error:
            raise RecipeError(f"Command line, {override}: {_explain(error)}") from None

    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise RecipeError(f"{path} gives no value for {', '.join(missing)}.")
    recipe: Recipe = OmegaConf.to_object(config)
    try:
        recipe.data.languages = [canonical_language(language) for language in recipe.data.languages]
    except ValueError as error:
        raise RecipeError(f"{path}, data.languages: {error}") from None
    return recipe


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the whole recipe, defaults included; `load_recipe` reads it back."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(recipe)), encoding="utf-8")


def _with_bases(path: Path) -> list[Path]:
    """The file and its bases, the most basic one first."""
    chain: list[Path] = []
    while path is not None:
        if not path.is_file():
            raise RecipeError(f"There is no recipe {path}" + (f" (the base of {chain[-1]})." if chain else "."))
        if path in chain:
            raise RecipeError(f"{path} is based on itself.")
        chain.append(path)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except yaml.YAMLError as error:
            raise RecipeError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict):
            raise RecipeError(f"{path} is not a recipe: it holds no keys.")
        path = path.parent / content["base"] if "base" in content else None
    return chain[::-1]


def _explain(error: OmegaConfBaseException) -> str:
    if isinstance(error, ConfigKeyError):
        known = _all_keys(Recipe)
        nearest = difflib.get_close_matches(error.full_key, known, n=1, cutoff=0.0)
        return f"there is no key {error.full_key!r}; did you mean {nearest[0]!r}?"
    return f"{error.full_key}: {str(error).splitlines()[0]}"


def _all_keys(section: type, prefix: str = "") -> list[str]:
    keys = []
    for name, value in OmegaConf.structured(section)._content.items():
        keys.append(prefix + name)
        if OmegaConf.is_config(value) and OmegaConf.is_dict(value):
            keys += _all_keys(OmegaConf.get_type(value), f"{prefix}{name}.")
    return keys
