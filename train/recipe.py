"""Everything that decides what a training run does: one typed dataclass, filled from small YAML files.

    base: finetune.yaml          # optional: another recipe this one changes, relative to this file
    name: mmp
    model:
      init_from: outputs/demo/mmp_pretrain

and from the command line (`training.epochs=2`). Defaults are the paper's values for fine-tuning (§5.2, App. C).
"""

import difflib
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from polyvid.dataset_scripts.schema import canonical_language
from polyvid.modeling.errors_mmp import PolyvidError


class RecipeError(PolyvidError):
    """A recipe that cannot be run; the message names file and key."""


@dataclass
class ModelRecipe:
    """The model to train: a new one around `backbone`, or `init_from` where that is given."""

    backbone: str = "FacebookAI/xlm-roberta-large"  # Hub id or folder of a multilingual encoder
    init_from: str | None = None  # Hub id or folder of an MMP model to start from instead
    output_layer: int = 12  # layer of the backbone, counted from 1, whose output is used (App. D)
    freeze_below: int = 9  # last frozen layer (§5.2); equal to output_layer: the whole backbone is frozen
    embed_dim: int = 1024  # of pooling heads and shared space
    video_feature_dim: int = 1024  # width of the features of one second
    image_feature_dim: int | None = None  # §5.6: 2048 for Faster R-CNN regions
    pooler_num_layers: int = 2  # of the pooling heads (Table 2)
    video_pooler_num_layers: int | None = None  # of the video's, where it differs
    pooler_num_heads: int = 4  # attention heads of a pooling layer
    pooler_dropout: float = 0.3  # App. C
    share_poolers: bool = False  # Table 2, last row but one


@dataclass
class DataRecipe:
    """Which clips and texts are trained on and validated with."""

    clips: str | None = None  # pre-training: folder of subtitles joined with features, streamed (§5.3)
    dataset: str | None = None  # else: a folder of dataset_scripts/, by name
    config: str | None = None  # the dataset's config: a protocol or a split
    data_dir: str | None = None  # where the dataset's official files are, if it does not bring its own
    translations: str | None = None  # captions in languages nobody wrote any in, made by `polyvid translate`
    check_counts: bool = True  # refuse official files whose counts differ from the protocol's
    features: str | None = None  # folder of feature shards of the dataset's videos, or of the regions of its images
    train_split: str = "train"  # clips to learn from
    validation_split: str | None = "validation"  # clips that select the model; null: the last model is kept
    validation_languages: list[str] = field(default_factory=lambda: ["en"])  # the first selects (App. D.1)
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
    temperature: float = 0.1  # of the softmax in Eq. 2
    margin: float = 0.2  # of the triplet forms
    mask_same_video: bool = False  # captions of one video are not each other's negatives
    mask_ratio: float = 0.05  # of tokens and seconds, for the noised views of Eq. 3


@dataclass
class TrainingRecipe:
    """App. C, "Training and Inference Details"."""

    epochs: int = 10  # passes over the training clips
    batch_size: int = 128  # over all processes
    micro_batch_size: int | None = None  # GradCache: the same gradient in less memory
    learning_rate: float = 2e-4  # of Adam
    gradient_clip: float = 0.2  # global norm
    seed: int = 0  # of weights, order, sampling, noise and dropout
    schedule: str = "constant"  # of the learning rate: any name transformers' get_scheduler knows, over all steps
    warmup_steps: int = 0  # over which the learning rate rises from 0
    group_by_length: bool = False  # captions of like length share a batch: less padding, but other negatives
    num_workers: int = 0  # processes that read and tokenize, for each training process
    save_minutes: float = 15.0  # time between checkpoints for resuming
    keep_last: int = 2  # checkpoints for resuming that are kept
    log_steps: int = 50  # steps between looks at the loss: each waits for the device
    trackers: list[str] = field(default_factory=list)  # of Accelerate: tensorboard, trackio, wandb, ...
    max_skipped_steps: int = 10  # in a row, for a gradient that is not finite, before the run stops
    divergence: float = 1.5  # the run stops when the mean of `log_steps` losses is above the first and x times the best


@dataclass
class Recipe:
    """A training run."""

    name: str = MISSING  # of the run, in progress bars and trackers
    output_dir: str = MISSING  # Hub repository of the trained model, and what is needed to resume
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

    missing = set(OmegaConf.missing_keys(config))
    if config.data.clips is None:
        missing |= {f"data.{key}" for key in ("dataset", "features") if config.data[key] is None}
    if missing:
        raise RecipeError(f"{path} gives no value for {', '.join(sorted(missing))}.")
    recipe: Recipe = OmegaConf.to_object(config)
    for key in ("languages", "validation_languages"):
        try:
            setattr(recipe.data, key, [canonical_language(language) for language in getattr(recipe.data, key)])
        except ValueError as error:
            raise RecipeError(f"{path}, data.{key}: {error}") from None
    _check_numbers(path, recipe)
    return recipe


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the whole recipe, defaults included; `load_recipe` reads it back."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(recipe)), encoding="utf-8")


def differences(old: Recipe, new: Recipe, ignored: Container[str] = ()) -> list[str]:
    """What two recipes disagree about: `"training.epochs is 10 there and 20 here"`, but for the `ignored` keys."""
    found = []
    for key in _all_keys(Recipe):
        values = [OmegaConf.select(OmegaConf.structured(recipe), key) for recipe in (old, new)]
        if not OmegaConf.is_dict(values[0]) and values[0] != values[1] and key not in ignored:
            found.append(f"{key} is {values[0]} there and {values[1]} here")
    return found


def _check_numbers(path: Path, recipe: Recipe) -> None:
    """Refuses what types allow but no run survives."""
    training = recipe.training
    for name in ("epochs", "batch_size", "learning_rate", "gradient_clip", "keep_last", "log_steps", "divergence"):
        if not getattr(training, name) > 0:
            raise RecipeError(f"{path}: training.{name} must be greater than 0, not {getattr(training, name)}.")
    for name in ("num_workers", "warmup_steps", "save_minutes", "max_skipped_steps"):
        if getattr(training, name) < 0:
            raise RecipeError(f"{path}: training.{name} must not be negative, but is {getattr(training, name)}.")
    if recipe.data.clips is not None and recipe.data.pivots:
        raise RecipeError(f"{path}: data.pivots needs captions; clips come in one language each (§5.3).")
    if recipe.data.clips is not None and training.group_by_length:
        raise RecipeError(f"{path}: training.group_by_length needs captions; the lengths of clips are not known ahead.")
    if not recipe.data.validation_languages:
        raise RecipeError(f"{path}: data.validation_languages is empty; the first of them selects the model.")


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
