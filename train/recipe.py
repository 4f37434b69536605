"""Everything that decides what a training run does: one typed dataclass, filled from small YAML files.

    base: finetune.yaml          # optional: the recipe this one changes, a file next to it or a name that ships
    name: mmp
    model:
      init_from: outputs/demo/mmp_pretrain

and from the command line (`training.epochs=2`). Defaults are the paper's values for fine-tuning (§5.2, App. C).

How the files are found and read is in `recipe_files`.
"""

import difflib
import re
from collections.abc import Container
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from polyvid.dataset_scripts.building import known_datasets
from polyvid.dataset_scripts.protocols import ALIASES
from polyvid.dataset_scripts.schema import canonical_language
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.recipe_files import RecipeError, files_of, find_recipe, in_one_line, refuse_resolvers

# Fields of a model that a recipe with `init_from` need not repeat.
SHAPE = (
    "output_layer",
    "embed_dim",
    "video_feature_dim",
    "pooler_num_layers",
    "video_pooler_num_layers",
    "pooler_num_heads",
    "share_poolers",
    "video_kernel_size",
    "video_positions",
)
STARTS = ("random", "mean", "warm", "zero_shot")
EPOCH_UNITS = ("pairs", "sentences")
ALL_LANGUAGES = ["all"]  # in place of languages: all that the dataset has captions in


@dataclass
class ModelRecipe:
    """The model to train: a new one around `backbone`, or `init_from` where that is given."""

    backbone: str = "FacebookAI/xlm-roberta-large"  # Hub id or folder of a multilingual encoder
    init_from: str | None = None  # Hub id or folder of an MMP model to start from instead
    # SHAPE. None, where `init_from` or start=zero_shot is given and the recipe says nothing: as in the model it names.
    # In any other new model: all layers of the backbone, its width, and the width of the features.
    output_layer: int | None = 12  # layer of the backbone, counted from 1, whose output is used (App. D)
    freeze_below: int | None = 9  # last frozen layer (§5.2); null, or output_layer: the whole backbone is frozen
    embed_dim: int | None = 1024  # of pooling heads and shared space
    video_feature_dim: int | None = 1024  # width of the features of one second
    image_feature_dim: int | None = None  # §5.6: 2048 for Faster R-CNN regions
    pooler_num_layers: int | None = 2  # of the pooling heads (Table 2)
    video_pooler_num_layers: int | None = None  # of the video's, where it differs
    pooler_num_heads: int | None = 4  # attention heads of a pooling layer
    pooler_dropout: float = 0.3  # App. C
    share_poolers: bool | None = False  # Table 2, last row but one
    # Beyond the paper, see `polyvid.train.loop.warm_start` and `zero_shot_start`:
    start: str = "random"  # of heads and projections: random (§3.1), mean, warm, zero_shot (see the guide on training)
    start_penalty: float = 1.0  # of the ridge regression of a warm start
    lock_text: bool = False  # the whole text tower stays as it starts; needs freeze_below = output_layer
    video_kernel_size: int | None = None  # landmarks of a kernel map before the video projection
    video_positions: str | None = "none"  # of the seconds in the video's head: none (App. C) or sinusoidal


@dataclass
class DataRecipe:
    """Which clips and texts are trained on and validated with."""

    clips: str | None = None  # pre-training: folder of subtitles joined with features, streamed (§5.3)
    dataset: str | None = None  # else: a dataset of this package by name, a folder with metadata.csv, or a Hub id
    config: str | None = None  # the dataset's config: a protocol or a split
    data_dir: str | None = None  # where the dataset's official files are, or the videos of a folder of one's own
    columns: dict[str, str] = field(default_factory=dict)  # of one's own captions: {video_id: clip, de: German}
    split_seed: int = 0  # draws the splits of one's own captions, where nothing says them
    translations: str | None = None  # captions in languages nobody wrote any in, made by `polyvid translate`
    check_counts: bool = True  # refuse official files whose counts differ from the protocol's
    features: str | None = None  # folder of feature shards of the dataset's videos, or of the regions of its images
    video_encoders: list[str] | None = None  # make the features of one's own videos; default: those of `init_from`
    train_split: str = "train"  # clips to learn from
    validation_split: str | None = "validation"  # clips that select the model; null: the last model is kept
    validation_languages: list[str] = field(default_factory=lambda: ["en"])  # the first selects (App. D.1)
    languages: list[str] = field(default_factory=lambda: ["en"])  # of captions or subtitles, or [all]; see `epoch_unit`
    pivots: bool = False  # triples (x, v, y) with captions in two languages, for Eq. 4-6
    texts_only: bool = False  # captions without their videos, for the terms align and teach; beyond the paper
    parallel_texts: str | None = None  # with texts_only: a table of translations instead of a dataset's captions
    caption_kinds: list[str] | None = None  # only captions with these ids (Fluent-Emoji-9: name, keywords)
    landmark_splits: list[str] | None = None  # whose clips may be landmarks of the kernel map; default: train_split
    allow_other_encoders: bool = False  # train `init_from` on features of other networks than it was made for
    feature_power: float | None = 1.0  # exponent of features before normalising, 0.5: root; null: as in `init_from`
    epoch_unit: str = "pairs"  # what an epoch shows once; sentences: in one of `languages`, drawn again each epoch
    normalize_features: bool = False  # by mean and deviation of the training videos; the paper does not
    max_text_length: int = 96  # tokens
    max_video_length: int = 36  # seconds
    frozen_states: str | None = None  # file that keeps what frozen layers make of each text
    noise_cycle: int | None = None  # epochs after which noised views repeat, so that frozen_states can serve them


@dataclass
class ObjectiveRecipe:
    """§3.2, §3.3 and Table 3."""

    form: str = "joint"  # of the loss between two views: joint (Eq. 2), symmetric, triplet_hard, triplet_all
    terms: list[str] = field(default_factory=lambda: ["inter", "intra", "cross"])  # cross: only with pivot captions
    # Beyond the paper, between texts: align (NCE between translations), teach (distance to a teacher's English).
    align_weight: float = 1.0  # of the term align in the sum
    teach_weight: float = 1.0  # of the term teach in the sum
    teacher: str | None = None  # of the term teach: folder or Hub id of an MMP model; null: the model as it starts
    # Beyond the paper: distill (C2KD), whose teachers are MMP models that find videos with English captions.
    distill_teachers: list[str] = field(default_factory=list)  # folders or Hub ids
    distill_alpha: float = 0.5  # the loss is alpha times the other terms plus (1 - alpha) times distill
    distill_temperature: float = 0.1  # of both softmaxes
    distill_pool: str = "mean"  # of several teachers' similarities: mean, max, min
    temperature: float = 0.1  # of the softmax in Eq. 2
    margin: float = 0.2  # of the triplet forms
    mask_same_video: bool = True  # captions of one video are not each other's negatives; the paper keeps them
    mask_ratio: float = 0.05  # of tokens and seconds, for the noised views of Eq. 3


@dataclass
class TrainingRecipe:
    """App. C, "Training and Inference Details"."""

    epochs: int = 10  # passes over the training clips
    patience: int | None = None  # epochs without a better validation score, after which the run ends early
    batch_size: int = 128  # over all processes
    micro_batch_size: int | None = None  # GradCache: the same gradient in less memory
    learning_rate: float = 2e-4  # of Adam
    gradient_clip: float = 0.2  # global norm
    seed: int = 0  # of weights, order, sampling, noise and dropout
    schedule: str = "constant"  # of the learning rate: any name transformers' get_scheduler knows, over all steps
    warmup_steps: int = 0  # over which the learning rate rises from 0
    group_by: str | None = (
        None  # column of the dataset: clips with the same value there share a batch, as hard negatives
    )
    group_by_length: bool = False  # captions of similar length share a batch: less padding, but other negatives
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


def distilled(recipe: Recipe) -> bool:
    """Whether a run learned other languages than English from English teachers (C2KD): then it is not zero-shot."""
    return "distill" in recipe.objective.terms and set(recipe.data.languages) != {"en"}


DISTILLED = "translate-train + distillation"
"""What results and cards call such a run."""

NAME = re.compile(r"\w[\w.+=,@ -]*")  # of a run: it becomes part of file names


def load_recipe(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe, the recipes it is based on, and `key=value` overrides.

    Args:
        path: a file, or the name of a recipe that ships, such as `"demo/mmp"`.
        overrides: changes to it, such as `"training.epochs=2"`.

    Raises:
        RecipeError: for a missing or broken file, an unknown key (the message offers the nearest one), a value of the
            wrong type, a key without value, an unknown language, a resolver such as `${oc.env:HOME}`, a `base` outside
            the recipe's own folders, or a `name` that is no file name.
    """
    path = find_recipe(path)
    config: Any = OmegaConf.structured(Recipe)
    stated: Any = OmegaConf.create()
    for file, content in files_of(path):
        try:
            config, stated = OmegaConf.merge(config, content), OmegaConf.merge(stated, content)
        except OmegaConfBaseException as error:
            raise RecipeError(f"{file}: {_explain(error)}") from None
    for override in overrides:
        if "=" not in override:
            raise RecipeError(f"{override!r} is not of the form key=value, such as training.epochs=2.")
        try:
            change = OmegaConf.from_dotlist([override])
            refuse_resolvers("Command line", change)
            config, stated = OmegaConf.merge(config, change), OmegaConf.merge(stated, change)
        except OmegaConfBaseException as error:
            raise RecipeError(f"Command line, {override}: {_explain(error)}") from None
        except yaml.YAMLError as error:
            raise RecipeError(f"Command line, {override}: not valid YAML: {' '.join(str(error).split())}") from None

    try:
        missing = set(OmegaConf.missing_keys(config))
        if config.data.texts_only:
            missing |= {"data.dataset"} if config.data.dataset is None and config.data.parallel_texts is None else set()
        elif config.data.clips is None:
            dataset = config.data.dataset
            missing |= {"data.dataset"} if dataset is None else set()
            if config.data.features is None and (dataset is None or ALIASES.get(dataset, dataset) in known_datasets()):
                missing.add("data.features")  # those of one's own videos are made
        if missing:
            raise RecipeError(f"{path} gives no value for {', '.join(sorted(missing))}.")
        recipe = cast(Recipe, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise RecipeError(f"{path}: {_explain(error)}") from None
    except RecursionError:
        raise RecipeError(f"{path}: keys refer to each other in a circle.") from None
    if recipe.data.dataset is not None:
        recipe.data.dataset = ALIASES.get(recipe.data.dataset.lower(), recipe.data.dataset)
    if not NAME.fullmatch(recipe.name):
        raise RecipeError(
            f"{path}: name is {recipe.name!r}, but it becomes part of file names: use letters, digits and . _ - only."
        )
    if recipe.model.init_from is not None or recipe.model.start == "zero_shot":  # that model knows its shape
        own = stated.get("model") or {}
        for field_name in SHAPE:
            if own.get(field_name) is None:
                setattr(recipe.model, field_name, None)
    for key in ("languages", "validation_languages"):
        try:
            if getattr(recipe.data, key) != ALL_LANGUAGES:
                setattr(recipe.data, key, [canonical_language(language) for language in getattr(recipe.data, key)])
        except PolyvidError as error:
            raise RecipeError(f"{path}, data.{key}: {error}") from None
    _check_numbers(path, recipe)
    _check_zero_shot(path, recipe)
    _check_terms(path, recipe)
    return recipe


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the whole recipe, defaults included; `load_recipe` reads it back."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(recipe)), encoding="utf-8")


def differences(old: Recipe, new: Recipe, ignored: Container[str] = ()) -> list[str]:
    """What two recipes disagree about: `"training.epochs is 10 there and 20 here"`, but for the `ignored` keys."""
    found = []
    for key in _all_keys(Recipe):
        values = [OmegaConf.select(OmegaConf.structured(recipe), key) for recipe in (old, new)]
        if not is_dataclass(OmegaConf.get_type(values[0])) and values[0] != values[1] and key not in ignored:
            found.append(f"{key} is {values[0]} there and {values[1]} here")
    return found


def _check_numbers(path: Path, recipe: Recipe) -> None:
    """Refuses what types allow but no run survives."""
    training = recipe.training
    for name in ("epochs", "batch_size", "learning_rate", "gradient_clip", "keep_last", "log_steps", "divergence"):
        if not getattr(training, name) > 0:
            raise RecipeError(f"{path}: training.{name} must be greater than 0, not {getattr(training, name)}.")
    if training.patience is not None and training.patience < 1:
        raise RecipeError(f"{path}: training.patience must be at least 1 epoch, or null, not {training.patience}.")
    if training.patience is not None and recipe.data.validation_split is None:
        raise RecipeError(f"{path}: training.patience needs data.validation_split, which says what is better.")
    for name in ("num_workers", "warmup_steps", "save_minutes", "max_skipped_steps"):
        if getattr(training, name) < 0:
            raise RecipeError(f"{path}: training.{name} must not be negative, but is {getattr(training, name)}.")
    if recipe.data.clips is not None and recipe.data.pivots:
        raise RecipeError(f"{path}: data.pivots needs captions; clips come in one language each (§5.3).")
    if recipe.data.clips is not None and training.group_by_length:
        raise RecipeError(f"{path}: training.group_by_length needs captions; the lengths of clips are not known ahead.")
    if training.group_by is not None and (recipe.data.clips is not None or training.group_by_length):
        raise RecipeError(f"{path}: training.group_by needs captions, and training.group_by_length=false.")
    model, data = recipe.model, recipe.data
    if not 0 <= training.seed < 4e9:  # numpy takes 32 bits, and each process adds its rank
        raise RecipeError(f"{path}: training.seed must lie between 0 and 4 billion, but is {training.seed}.")
    if data.max_text_length < 3:
        raise RecipeError(f"{path}: data.max_text_length must be at least 3 tokens, not {data.max_text_length}.")
    if data.max_video_length < 1:
        raise RecipeError(f"{path}: data.max_video_length must be at least 1 second, not {data.max_video_length}.")
    if data.noise_cycle is not None and data.noise_cycle < 1:
        raise RecipeError(f"{path}: data.noise_cycle must be at least 1 epoch, or null, not {data.noise_cycle}.")
    if model.start not in STARTS:
        raise RecipeError(f"{path}: model.start must be {', '.join(STARTS[:-1])} or {STARTS[-1]}, not {model.start!r}.")
    if recipe.data.clips is not None and (model.start == "warm" or model.video_kernel_size is not None):
        raise RecipeError(f"{path}: model.start=warm and model.video_kernel_size need captions in memory, not clips.")
    if not model.start_penalty > 0:
        raise RecipeError(f"{path}: model.start_penalty must be greater than 0, not {model.start_penalty}.")
    if recipe.data.epoch_unit not in EPOCH_UNITS:
        raise RecipeError(f"{path}: data.epoch_unit must be {' or '.join(EPOCH_UNITS)}, not {recipe.data.epoch_unit}.")
    if not recipe.data.validation_languages:
        raise RecipeError(f"{path}: data.validation_languages is empty; the first of them selects the model.")


def _check_zero_shot(path: Path, recipe: Recipe) -> None:
    """A model that begins as a dual encoder sees features as the dual encoder does."""
    model, data = recipe.model, recipe.data
    if model.start != "zero_shot":
        return
    for key, wrong, value in (
        ("model.init_from", model.init_from is not None, "null"),
        ("model.image_feature_dim", model.image_feature_dim is not None, "null"),
        ("data.feature_power", data.feature_power not in (None, 1), "1"),
        ("data.normalize_features", data.normalize_features, "false"),
    ):
        if wrong:
            raise RecipeError(f"{path}: model.start=zero_shot begins as model.backbone alone: set {key}={value}.")


def _check_terms(path: Path, recipe: Recipe) -> None:
    """Refuse terms of the objective that these data cannot give."""
    objective, data, model = recipe.objective, recipe.data, recipe.model
    for name in ("align_weight", "teach_weight"):
        if not getattr(objective, name) > 0:
            raise RecipeError(
                f"{path}: objective.{name} must be greater than 0, not {getattr(objective, name)}; objective.terms "
                "decides which terms there are."
            )
    if ("distill" in objective.terms) != bool(objective.distill_teachers):
        raise RecipeError(
            f"{path}: objective.terms=distill and objective.distill_teachers need each other: "
            + ("name one model or more." if not objective.distill_teachers else "add distill to the terms.")
        )
    if "distill" in objective.terms and data.clips is not None:
        raise RecipeError(f"{path}: objective.terms=distill needs captions: subtitles have no English original.")
    if "distill" in objective.terms and "en" not in data.languages and data.languages != ALL_LANGUAGES:
        raise RecipeError(f"{path}: objective.terms=distill needs en in data.languages: it is what teachers read.")
    of_texts = [term for term in ("align", "teach") if term in objective.terms]
    if of_texts and not data.pivots:
        raise RecipeError(f"{path}: objective.terms={of_texts[0]} needs translations: set data.pivots=true.")
    if "teach" in of_texts and "en" not in data.languages and data.languages != ALL_LANGUAGES:
        raise RecipeError(f"{path}: objective.terms=teach needs en in data.languages: it is what the teacher reads.")
    if of_texts and model.lock_text:
        raise RecipeError(f"{path}: objective.terms={of_texts[0]} trains the text tower: set model.lock_text=false.")
    if data.parallel_texts is not None and not data.texts_only:
        raise RecipeError(f"{path}: data.parallel_texts has no videos: it needs data.texts_only=true.")
    if not data.texts_only:
        return
    if data.clips is not None:
        raise RecipeError(f"{path}: data.texts_only needs captions: subtitles of clips are no translations. Set one.")
    if not of_texts:
        raise RecipeError(f"{path}: data.texts_only needs align or teach in objective.terms.")
    if extra := [term for term in objective.terms if term in ("inter", "cross", "distill")]:
        raise RecipeError(f"{path}: objective.terms={extra[0]} needs videos, which data.texts_only leaves out.")
    if data.validation_split is not None and (data.dataset is None or data.features is None):
        raise RecipeError(
            f"{path}: data.validation_split searches videos, so it needs data.dataset and data.features; null keeps "
            "the last model."
        )


def _explain(error: OmegaConfBaseException) -> str:
    if isinstance(error, ConfigKeyError):
        known = _all_keys(Recipe)
        nearest = difflib.get_close_matches(str(error.full_key), known, n=1, cutoff=0.0)
        return f"there is no key {error.full_key!r}; did you mean {nearest[0]!r}?"
    return in_one_line(error)


def _all_keys(section: type | None, prefix: str = "") -> list[str]:
    keys = []
    for name, value in OmegaConf.structured(section)._content.items():
        keys.append(prefix + name)
        if is_dataclass(OmegaConf.get_type(value)):
            keys += _all_keys(OmegaConf.get_type(value), f"{prefix}{name}.")
    return keys
