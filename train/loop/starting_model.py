"""The model and processor that a run starts from: new around a backbone, or pre-trained; then its start, if warm."""

from typing import Any

from transformers import AutoModel, AutoProcessor

from polyvid.dataset_scripts.features import recorded_encoders
from polyvid.modeling import MMPConfig, MMPFeatureExtractor, MMPModel, MMPProcessor
from polyvid.modeling.backbone_mmp import load_backbone_config
from polyvid.modeling.dual_encoder_mmp import output_width
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.provenance_mmp import refuse_other_encoders
from polyvid.train.data.captions import PivotSampler
from polyvid.train.data.clips import ClipDataset
from polyvid.train.data.statistics import mean_and_std, streamed_features
from polyvid.train.data.videos import VideoFeatures, load_videos
from polyvid.train.loop.frozen_states import FrozenStates
from polyvid.train.loop.processes import Processes
from polyvid.train.loop.warm_start import (
    Captions,
    correct_video_projection,
    mean_start,
    set_landmarks,
    set_text_projection,
    warm_start,
)
from polyvid.train.loop.zero_shot_start import processor_of, zero_shot_model
from polyvid.train.recipe import SHAPE, ModelRecipe, Recipe
from polyvid.train.scoring.baselines import captions_of_runs
from polyvid.train.scoring.sentences import SentenceVectors


def build_model(recipe: ModelRecipe) -> tuple[MMPModel, MMPProcessor]:
    """The pre-trained model `init_from`, or a new one around `backbone`. For images, `image_projection` is new (§5.6).

    Fills in the parts of the model's shape that the recipe leaves open.

    Raises:
        OSError: if there is no such model.
        PolyvidError: if the shape of the pre-trained model differs from the recipe.
    """
    model, processor = _new_model(recipe) if recipe.init_from is None else _pretrained_model(recipe.init_from, recipe)
    for name in (*SHAPE, "freeze_below"):
        if getattr(recipe, name) is None:
            setattr(recipe, name, getattr(model.config, name))
    return model, processor


def record_encoders(recipe: Recipe, model: MMPModel) -> None:
    """Let the model know which networks made the features that it is trained on. Regions of images are not such.

    Raises:
        PolyvidError: if it starts from a model that was made for features of others, or as another dual encoder.
    """
    data, options = recipe.data, recipe.model
    folder = data.clips or data.features
    if folder is None or options.image_feature_dim is not None:
        return
    encoders = recorded_encoders(folder)
    if options.init_from is not None or options.start == "zero_shot":
        refuse_other_encoders(
            folder,
            encoders,
            options.init_from or options.backbone,
            model.config.video_encoders,
            "extract features with the networks of that model, or set data.allow_other_encoders=true.",
            allow=data.allow_other_encoders,
        )
    model.config.video_encoders = encoders or model.config.video_encoders


def normalize_features(
    recipe: Recipe,
    processor: MMPProcessor,
    train_set: PivotSampler | ClipDataset,
    features: VideoFeatures | None,
    processes: Processes,
) -> None:
    """Give the processor the statistics of the training videos (never validation or test videos)."""
    data, model = recipe.data, recipe.model
    if model.init_from is not None and model.image_feature_dim is None:
        raise PolyvidError(
            f"{model.init_from} was trained on features that were not normalised, and needs such features. Set "
            "data.normalize_features=false, or pre-train with data.normalize_features=true; a model keeps its "
            "statistics."
        )
    assert data.feature_power is not None  # filled in with that of the model
    statistics = None
    if processes.rank == 0:
        if isinstance(train_set, ClipDataset):
            statistics = mean_and_std(streamed_features(train_set.files, recipe.training.seed), data.feature_power)
        elif features is not None:
            statistics = mean_and_std((features[name] for name in train_set.video_ids), data.feature_power)
    mean, std = processes.from_main(statistics)
    processor.feature_extractor = MMPFeatureExtractor(
        processor.feature_extractor.feature_size,
        data.max_video_length,
        feature_mean=mean,
        feature_std=std,
        feature_power=data.feature_power,
    )


def start(
    recipe: Recipe,
    model: MMPModel,
    processor: MMPProcessor,
    videos: list[dict[str, Any]],
    features: VideoFeatures | None,
) -> None:
    """Apply `model.start`, and set the kernel map of a new model. Does nothing for the random start of §3.1.

    Args:
        videos: the training split, as rows of `polyvid.dataset_scripts.schema.CAPTIONS`.
        features: None for texts alone, which start the text tower only.

    Raises:
        PolyvidError: if the start does not fit the model, or there are too few clips for the kernel map's landmarks.
    """
    options, data = recipe.model, recipe.data
    is_new = options.init_from is None
    if features is None:
        _start_text(recipe, model, processor, videos)
        return
    if options.video_kernel_size is not None and is_new:
        splits = data.landmark_splits or [data.train_split]
        clips = [row["video_id"] for split in splits for row in load_videos(data, split, data.languages)]
        set_landmarks(model, processor, [clip for clip in clips if clip in features], features, recipe.training.seed)
    if options.start == "mean" and is_new:
        mean_start(model)
    elif options.start == "warm":
        if model.config.residual_pooling is not None:
            raise PolyvidError(
                f"{options.init_from} began as a dual encoder, for which there is no closed form: set "
                "model.start=random."
            )
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


def _start_text(recipe: Recipe, model: MMPModel, processor: MMPProcessor, videos: list[dict[str, Any]]) -> None:
    """`start` without features."""
    if recipe.model.init_from is not None:
        return
    if recipe.model.video_kernel_size is not None:
        raise PolyvidError("model.video_kernel_size draws its landmarks from clips: set data.features too.")
    if recipe.model.start in ("mean", "warm"):
        mean_start(model)
    if recipe.model.start == "warm":
        captions = Captions.of(captions_of_runs([(recipe.data, videos)]))
        set_text_projection(model, captions, SentenceVectors(model, processor))


def _new_model(recipe: ModelRecipe) -> tuple[MMPModel, MMPProcessor]:
    if recipe.start == "zero_shot":
        return zero_shot_model(recipe)
    if None in (recipe.output_layer, recipe.embed_dim):  # all of the backbone, and as wide as it is
        text: Any = load_backbone_config(recipe.backbone)
        recipe.output_layer = recipe.output_layer or text.num_hidden_layers
        recipe.embed_dim = recipe.embed_dim or output_width(text)
    model = MMPModel.from_backbone(
        recipe.backbone,
        freeze_below=_last_frozen(recipe, recipe.output_layer),
        lock_text=recipe.lock_text,
        pooler_dropout=recipe.pooler_dropout,
        image_feature_dim=recipe.image_feature_dim,
        **{name: value for name in SHAPE if (value := getattr(recipe, name)) is not None},
    )
    return model, processor_of(recipe.backbone, model)


def _last_frozen(recipe: ModelRecipe, output_layer: int | None) -> int | None:
    return output_layer if recipe.freeze_below is None else recipe.freeze_below


def _pretrained_model(init_from: str, recipe: ModelRecipe) -> tuple[MMPModel, MMPProcessor]:
    changes = {name: getattr(recipe, name) for name in ("lock_text", "pooler_dropout")}
    if recipe.image_feature_dim is not None:
        changes["image_feature_dim"] = recipe.image_feature_dim
    try:
        changes["freeze_below"] = _last_frozen(recipe, MMPConfig.from_pretrained(init_from).output_layer)
        model = AutoModel.from_pretrained(init_from, dtype="float32", **changes)
        processor = AutoProcessor.from_pretrained(init_from)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise OSError(f"Cannot load {init_from!r} to start from: train it first. ({reason})") from None
    for name in SHAPE:
        was, now = getattr(model.config, name), getattr(recipe, name)
        if name == "video_pooler_num_layers" and now is not None:  # None: as many as for text
            was = was or model.config.pooler_num_layers
        if now is not None and was != now:
            raise PolyvidError(
                f"{init_from} has {name}={was}, but the recipe sets model.{name}={now}: remove it from the recipe."
            )
    feature_size = recipe.image_feature_dim or model.config.video_feature_dim
    if feature_size != processor.feature_extractor.feature_size:  # from videos to images: their statistics differ
        processor.feature_extractor = MMPFeatureExtractor(feature_size)
    return model, processor
