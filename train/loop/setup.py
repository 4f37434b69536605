"""A trainer from a recipe: data, model and processor put together."""

from typing import Any

from accelerate import Accelerator
from transformers import AutoModel, AutoProcessor, AutoTokenizer

from polyvid.dataset_scripts.building import find_shards
from polyvid.modeling import MMPFeatureExtractor, MMPModel, MMPProcessor
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.data.captions import PivotSampler
from polyvid.train.data.clips import ClipDataset, ClipSampler
from polyvid.train.data.videos import VideoFeatures, load_videos
from polyvid.train.loop.frozen_states import FrozenStates
from polyvid.train.loop.processes import check_launch, check_sharding
from polyvid.train.loop.trainer import Trainer
from polyvid.train.loop.validation import ValidationSet
from polyvid.train.loop.warm_start import Captions, correct_video_projection, mean_start, set_landmarks, warm_start
from polyvid.train.recipe import DataRecipe, ModelRecipe, Recipe
from polyvid.train.scoring.baselines import captions_of_runs
from polyvid.train.scoring.sentences import SentenceVectors

SHAPE = (
    "output_layer",
    "embed_dim",
    "video_feature_dim",
    "pooler_num_layers",
    "video_pooler_num_layers",
    "pooler_num_heads",
    "share_poolers",
    "video_kernel_size",
)


def build_trainer(recipe: Recipe) -> Trainer:
    """Everything a recipe names, loaded.

    Raises:
        PolyvidError, FileNotFoundError, OSError: for data, checkpoints or backbones that are missing or do not fit; the
            message says which.
    """
    training, data = recipe.training, recipe.data
    accelerator = Accelerator(
        step_scheduler_with_optimizer=False, log_with=training.trackers or None, project_dir=recipe.output_dir
    )
    check_launch(accelerator.num_processes)
    check_sharding(accelerator, data.frozen_states is not None)
    features = VideoFeatures(data.features) if data.features is not None else None
    if data.clips is not None:
        sampler = ClipSampler(data.languages, training.seed, data.max_video_length, data.max_text_length)
        shards = find_shards(data.clips, data.train_split)
        train_set = ClipDataset(shards, sampler, accelerator.process_index, accelerator.num_processes)
    else:
        videos = load_videos(data, data.train_split, data.languages)
        train_set = PivotSampler(videos, features, data.languages, data.pivots, training.seed)
    validation_set = _validation_set(data, features)
    model, processor = build_model(recipe.model)
    processor.max_text_length = data.max_text_length
    extractor = processor.feature_extractor
    extractor.max_length = data.max_video_length
    if recipe.model.init_from is None:
        extractor.feature_power = data.feature_power
    elif extractor.feature_power != data.feature_power:
        raise PolyvidError(
            f"{recipe.model.init_from} has feature_power={extractor.feature_power}, the recipe says "
            f"data.feature_power={data.feature_power}."
        )
    if data.normalize_features and extractor.feature_mean is None:
        if data.clips is not None:
            raise PolyvidError("data.normalize_features needs features in memory, not streamed clips.")
        mean, std = features.mean_and_std(train_set.video_ids, data.feature_power)
        processor.feature_extractor = MMPFeatureExtractor(
            extractor.feature_size,
            data.max_video_length,
            feature_mean=mean,
            feature_std=std,
            feature_power=data.feature_power,
        )
    if data.clips is None:
        start(recipe, model, processor, videos, features)
    return Trainer(recipe, model, processor, train_set, validation_set, accelerator)


def start(
    recipe: Recipe,
    model: MMPModel,
    processor: MMPProcessor,
    videos: list[dict[str, Any]],
    features: VideoFeatures,
) -> None:
    """Carry out `model.start` and fill the kernel map of a new model; nothing for the random start of §3.1.

    Args:
        videos: rows of `polyvid.dataset_scripts.schema.CAPTIONS`, of the training split.

    Raises:
        PolyvidError: for a start that does not fit the model, or too few clips for the kernel map's landmarks.
    """
    options, data = recipe.model, recipe.data
    is_new = options.init_from is None
    if options.video_kernel_size is not None and is_new:
        splits = data.landmark_splits or [data.train_split]
        clips = [row["video_id"] for split in splits for row in load_videos(data, split, data.languages)]
        set_landmarks(model, processor, [clip for clip in clips if clip in features], features, recipe.training.seed)
    if options.start == "mean" and is_new:
        mean_start(model)
    elif options.start == "warm":
        states = FrozenStates(data.frozen_states, model) if data.frozen_states is not None else None
        used = captions_of_runs([(data, videos)])
        (warm_start if is_new else correct_video_projection)(
            model,
            processor,
            Captions.of(used, features),
            features,
            SentenceVectors(model, processor, states),
            options.start_penalty,
        )
        if states is not None:
            states.save()


def _validation_set(data: DataRecipe, features: VideoFeatures | None) -> ValidationSet | None:
    """By default searched in English alone: in the zero-shot setting there is nothing else (App. D.1)."""
    if data.validation_split is None:
        return None
    if data.dataset is None or features is None:
        raise PolyvidError("data.validation_split needs data.dataset and data.features; null keeps the last model.")
    videos = load_videos(data, data.validation_split, data.validation_languages)
    return ValidationSet(videos, features, data.validation_languages)


def build_model(recipe: ModelRecipe) -> tuple[MMPModel, MMPProcessor]:
    """The pre-trained model `init_from`, or a new one around `backbone`; with images, `image_projection` is new (§5.6).

    Raises:
        OSError: if there is no such model.
        PolyvidError: if the pre-trained model has another shape than the recipe says.
    """
    feature_size = recipe.image_feature_dim or recipe.video_feature_dim
    if recipe.init_from is None:
        shape = {name: getattr(recipe, name) for name in SHAPE}
        model = MMPModel.from_backbone(
            recipe.backbone,
            freeze_below=recipe.freeze_below,
            lock_text=recipe.lock_text,
            pooler_dropout=recipe.pooler_dropout,
            image_feature_dim=recipe.image_feature_dim,
            **shape,
        )
        return model, MMPProcessor(MMPFeatureExtractor(feature_size), AutoTokenizer.from_pretrained(recipe.backbone))
    changes = {name: getattr(recipe, name) for name in ("freeze_below", "lock_text", "pooler_dropout")}
    if recipe.image_feature_dim is not None:
        changes["image_feature_dim"] = recipe.image_feature_dim
    try:
        model = AutoModel.from_pretrained(recipe.init_from, dtype="float32", **changes)
        processor = AutoProcessor.from_pretrained(recipe.init_from)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise OSError(f"Cannot load {recipe.init_from!r} to start from: train it first. ({reason})") from None
    for name in SHAPE:
        was, now = getattr(model.config, name), getattr(recipe, name)
        if name == "video_pooler_num_layers":  # None: as many as the text's
            was, now = was or model.config.pooler_num_layers, now or recipe.pooler_num_layers
        if was != now:
            raise PolyvidError(f"{recipe.init_from} has {name}={was}, the recipe says model.{name}={now}.")
    if feature_size != processor.feature_extractor.feature_size:  # from videos to images: their statistics differ
        processor.feature_extractor = MMPFeatureExtractor(feature_size)
    return model, processor
