"""Builds a trainer from a recipe: loads data, model and processor, and assembles the parts of the loop."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import LoggerType, set_seed
from transformers import AutoModel, AutoProcessor, AutoTokenizer, get_scheduler

from polyvid.dataset_scripts.building import find_shards
from polyvid.dataset_scripts.features import recorded_encoders
from polyvid.modeling import MMPFeatureExtractor, MMPModel, MMPObjective, MMPProcessor
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.provenance_mmp import refuse_other_encoders
from polyvid.train.data.batches import Batches, CaptionBatches, ClipBatches
from polyvid.train.data.captions import PivotSampler
from polyvid.train.data.clips import ClipDataset, ClipSampler
from polyvid.train.data.collate import MMPCollator
from polyvid.train.data.statistics import mean_and_std, streamed_features
from polyvid.train.data.videos import VideoFeatures, load_videos
from polyvid.train.loop.checkpoints import Checkpoints
from polyvid.train.loop.frozen_states import FrozenStates
from polyvid.train.loop.inputs import check_inputs
from polyvid.train.loop.processes import Processes, check_launch, check_sharding
from polyvid.train.loop.repository import ModelRepository
from polyvid.train.loop.step_log import StepLog
from polyvid.train.loop.trainer import Trainer
from polyvid.train.loop.validation import ValidationSet
from polyvid.train.loop.warm_start import Captions, correct_video_projection, mean_start, set_landmarks, warm_start
from polyvid.train.recipe import SHAPE, DataRecipe, ModelRecipe, ObjectiveRecipe, Recipe
from polyvid.train.scoring.baselines import captions_of_runs
from polyvid.train.scoring.sentences import SentenceVectors


def build_trainer(recipe: Recipe) -> Trainer:
    """Load everything a recipe names and assemble the trainer. Fills in the shapes that `recipe.model` leaves open.

    Raises:
        PolyvidError, FileNotFoundError, OSError: if data, a checkpoint or a backbone is missing or does not fit; the
            message says which.
    """
    check_inputs(recipe)
    training, data = recipe.training, recipe.data
    if unknown := sorted({*training.trackers} - {str(name) for name in LoggerType}):
        known = " ".join(sorted(str(name) for name in LoggerType))
        raise PolyvidError(f"training.trackers: there is no tracker {unknown[0]!r}; choose from {known}.")
    accelerator = Accelerator(
        step_scheduler_with_optimizer=False, log_with=training.trackers or None, project_dir=recipe.output_dir
    )
    check_launch(accelerator.num_processes)
    check_sharding(accelerator, data.frozen_states is not None)
    processes = Processes()
    videos = load_videos(data, data.train_split, data.languages) if data.clips is None else []
    features = VideoFeatures(data.features) if data.features is not None else None
    train_set = _train_set(recipe, videos, features, processes)
    validation_set = _validation_set(data, features)
    set_seed(training.seed)  # before the weights are drawn; the same on all processes
    model, processor = build_model(recipe.model)
    record_encoders(recipe, model)
    processor.max_text_length = data.max_text_length
    extractor = processor.feature_extractor
    extractor.max_length = data.max_video_length
    if recipe.model.init_from is None:
        extractor.feature_power = data.feature_power
    elif extractor.feature_power != data.feature_power:
        raise PolyvidError(
            f"{recipe.model.init_from} has feature_power={extractor.feature_power}, but the recipe sets "
            f"data.feature_power={data.feature_power}: set it to the model's."
        )
    if data.normalize_features and extractor.feature_mean is None:
        _normalize(recipe, processor, train_set, features, processes)
    if features is not None and data.clips is None:
        start(recipe, model, processor, videos, features)
    return assemble(recipe, model, processor, train_set, validation_set, accelerator, processes)


def assemble(
    recipe: Recipe,
    model: MMPModel,
    processor: MMPProcessor,
    train_set: PivotSampler | ClipDataset,
    validation_set: ValidationSet | None = None,
    accelerator: Accelerator | None = None,
    processes: Processes | None = None,
) -> Trainer:
    """Assemble the parts of the loop around a model and its data.

    Args:
        recipe: how to train; its sources of data and model are ignored.
        model: on any device; Accelerate moves it.
        processor: makes the batches, and is saved with the model.
        train_set: pairs or triples in memory, or clips to stream.
        validation_set: None keeps the last model.
        accelerator, processes: new ones by default.

    Raises:
        PolyvidError: if there are too few data for one batch.
    """
    accelerator = accelerator or Accelerator(step_scheduler_with_optimizer=False)
    processes = processes or Processes()
    training, data = recipe.training, recipe.data
    set_seed(training.seed, device_specific=True)  # for dropout, which must differ between processes
    model.config.temperature = recipe.objective.temperature  # used by `return_loss` and `logits_...`
    model.config.mask_ratio = recipe.objective.mask_ratio
    batches = _batches(recipe, processor, train_set, processes)
    # Fused, because it can be told on the device to skip a step, so the host need not wait.
    optimizer = torch.optim.Adam(parameter_groups(model, training.learning_rate), fused=True)
    total_steps = batches.steps(0) * training.epochs
    try:
        scheduler = get_scheduler(training.schedule, optimizer, training.warmup_steps, total_steps)
    except ValueError as error:  # an unknown name, or a schedule that needs more settings
        raise PolyvidError(f"training.schedule={training.schedule}: {error}") from error
    prepared, prepared_optimizer = accelerator.prepare(model, optimizer)
    steps_file = Path(recipe.output_dir) / "steps.jsonl" if processes.rank == 0 else None
    repository = ModelRepository(model.config, processor, recipe, processes.count)
    return Trainer(
        recipe=recipe,
        model=prepared,
        optimizer=prepared_optimizer,
        scheduler=scheduler,
        processor=processor,
        objective=_objective(recipe.objective, processes),
        batches=batches,
        validation_set=validation_set,
        frozen_states=FrozenStates(data.frozen_states, model) if data.frozen_states else None,
        checkpoints=Checkpoints(recipe, repository, processes),
        step_log=StepLog(steps_file, training, accelerator),
        accelerator=accelerator,
        processes=processes,
    )


def build_model(recipe: ModelRecipe) -> tuple[MMPModel, MMPProcessor]:
    """The pre-trained model `init_from`, or a new one around `backbone`. For images, `image_projection` is new (§5.6).

    Fills in the parts of the model's shape that the recipe leaves open.

    Raises:
        OSError: if there is no such model.
        PolyvidError: if the shape of the pre-trained model differs from the recipe.
    """
    model, processor = _new_model(recipe) if recipe.init_from is None else _pretrained_model(recipe.init_from, recipe)
    for name in SHAPE:
        if getattr(recipe, name) is None:
            setattr(recipe, name, getattr(model.config, name))
    return model, processor


def record_encoders(recipe: Recipe, model: MMPModel) -> None:
    """Let the model know which networks made the features that it is trained on. Regions of images are not such.

    Raises:
        PolyvidError: if it starts from a model that was made for features of others.
    """
    data, options = recipe.data, recipe.model
    folder = data.clips or data.features
    if folder is None or options.image_feature_dim is not None:
        return
    encoders = recorded_encoders(folder)
    if options.init_from is not None:
        refuse_other_encoders(
            folder,
            encoders,
            options.init_from,
            model.config.video_encoders,
            "extract features with the networks of that model, or set data.allow_other_encoders=true.",
            allow=data.allow_other_encoders,
        )
    model.config.video_encoders = encoders or model.config.video_encoders


def parameter_groups(model: MMPModel, learning_rate: float) -> list[dict[str, Any]]:
    """Trained parameters grouped by learning rate; the model defines which modules learn faster (§5.6)."""
    multipliers = model.learning_rate_multipliers
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(multipliers.get(name.split(".")[0], 1.0), []).append(parameter)
    return [{"params": parameters, "lr": learning_rate * factor} for factor, parameters in groups.items()]


def start(
    recipe: Recipe,
    model: MMPModel,
    processor: MMPProcessor,
    videos: list[dict[str, Any]],
    features: VideoFeatures,
) -> None:
    """Apply `model.start`, and set the kernel map of a new model. Does nothing for the random start of §3.1.

    Args:
        videos: the training split, as rows of `polyvid.dataset_scripts.schema.CAPTIONS`.

    Raises:
        PolyvidError: if the start does not fit the model, or there are too few clips for the kernel map's landmarks.
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


def _train_set(
    recipe: Recipe, videos: list[dict[str, Any]], features: VideoFeatures | None, processes: Processes
) -> PivotSampler | ClipDataset:
    data, seed = recipe.data, recipe.training.seed
    if data.clips is not None:
        sampler = ClipSampler(data.languages, seed, data.max_video_length)
        shards = find_shards(data.clips, data.train_split)
        return ClipDataset(shards, sampler, processes.rank, processes.count)
    if features is None:
        raise PolyvidError("data.features is missing: captions need the features of their videos.")
    return PivotSampler(videos, features, data.languages, data.pivots, data.epoch_unit, seed)


def _validation_set(data: DataRecipe, features: VideoFeatures | None) -> ValidationSet | None:
    """By default validated in English only, since the zero-shot setting has no other captions (App. D.1)."""
    if data.validation_split is None:
        return None
    if data.dataset is None or features is None:
        raise PolyvidError("data.validation_split needs data.dataset and data.features; null keeps the last model.")
    videos = load_videos(data, data.validation_split, data.validation_languages)
    return ValidationSet(videos, features, data.validation_languages)


def _batches(
    recipe: Recipe, processor: MMPProcessor, train_set: PivotSampler | ClipDataset, processes: Processes
) -> Batches:
    training, data = recipe.training, recipe.data
    limits = (data.max_text_length, data.max_video_length)
    collator = MMPCollator(processor, *limits, recipe.objective.mask_ratio, training.seed)
    if isinstance(train_set, ClipDataset):
        return ClipBatches(train_set, collator, training.batch_size, training.num_workers)
    return CaptionBatches(
        train_set,
        collator,
        training.batch_size,
        training.seed,
        processes.rank,
        processes.count,
        num_workers=training.num_workers,
        noise_cycle=data.noise_cycle,
        group_by_length=training.group_by_length,
    )


def _objective(recipe: ObjectiveRecipe, processes: Processes) -> MMPObjective:
    return MMPObjective(
        recipe.form,
        recipe.temperature,
        recipe.margin,
        tuple(recipe.terms),
        recipe.mask_same_video,
        raise_non_finite=False,  # handled on the device, see `Trainer.training_step`
        group=processes.group,
    )


def _new_model(recipe: ModelRecipe) -> tuple[MMPModel, MMPProcessor]:
    model = MMPModel.from_backbone(
        recipe.backbone,
        freeze_below=recipe.freeze_below,
        lock_text=recipe.lock_text,
        pooler_dropout=recipe.pooler_dropout,
        image_feature_dim=recipe.image_feature_dim,
        **{name: value for name in SHAPE if (value := getattr(recipe, name)) is not None},
    )
    extractor = MMPFeatureExtractor(recipe.image_feature_dim or model.config.video_feature_dim)
    return model, MMPProcessor(extractor, AutoTokenizer.from_pretrained(recipe.backbone))


def _pretrained_model(init_from: str, recipe: ModelRecipe) -> tuple[MMPModel, MMPProcessor]:
    changes = {name: getattr(recipe, name) for name in ("freeze_below", "lock_text", "pooler_dropout")}
    if recipe.image_feature_dim is not None:
        changes["image_feature_dim"] = recipe.image_feature_dim
    try:
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


def _normalize(
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
