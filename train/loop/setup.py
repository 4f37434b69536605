"""Builds a trainer from a recipe: loads data, model and processor, and assembles the parts of the loop."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import LoggerType, set_seed
from transformers import get_scheduler

from polyvid.dataset_scripts.building import find_shards
from polyvid.modeling import MMPModel, MMPObjective, MMPProcessor
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.data.batches import Batches, CaptionBatches, ClipBatches
from polyvid.train.data.captions import PivotSampler
from polyvid.train.data.clips import ClipDataset, ClipSampler
from polyvid.train.data.collate import MMPCollator
from polyvid.train.data.own_features import Launch, complete_data
from polyvid.train.data.parallel import load_parallel_texts
from polyvid.train.data.videos import VideoFeatures, feature_width, load_videos
from polyvid.train.loop.checkpoints import Checkpoints
from polyvid.train.loop.frozen_states import FrozenStates
from polyvid.train.loop.inputs import check_inputs
from polyvid.train.loop.processes import Processes, check_launch, check_sharding
from polyvid.train.loop.repository import ModelRepository
from polyvid.train.loop.starting_model import build_model, normalize_features, record_encoders, start
from polyvid.train.loop.step_log import StepLog
from polyvid.train.loop.teachers import Teachers
from polyvid.train.loop.trainer import Trainer
from polyvid.train.loop.validation import ValidationSet
from polyvid.train.recipe import DataRecipe, ObjectiveRecipe, Recipe


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
    launch = Launch(processes.rank, processes.count, processes.wait)
    complete_data(data, recipe.model.init_from, launch)
    videos = _captioned(data)
    features = VideoFeatures(data.features) if data.features is not None else None
    train_set = _train_set(recipe, videos, features, processes)
    validation_set = _validation_set(data, features)
    if recipe.model.init_from is None and recipe.model.video_feature_dim is None and recipe.model.start != "zero_shot":
        recipe.model.video_feature_dim = feature_width(data, features)
    set_seed(training.seed)  # before the weights are drawn; the same on all processes
    model, processor = build_model(recipe.model)
    record_encoders(recipe, model)
    processor.max_text_length = data.max_text_length
    extractor = processor.feature_extractor
    extractor.max_length = data.max_video_length
    if data.feature_power is None:
        data.feature_power = extractor.feature_power
    if recipe.model.init_from is None:
        extractor.feature_power = data.feature_power
    elif extractor.feature_power != data.feature_power:
        raise PolyvidError(
            f"{recipe.model.init_from} has feature_power={extractor.feature_power}, but the recipe sets "
            f"data.feature_power={data.feature_power}: set it to the model's."
        )
    if data.normalize_features and extractor.feature_mean is None and (features is not None or data.clips is not None):
        normalize_features(recipe, processor, train_set, features, processes)
    if data.clips is None:
        start(recipe, model, processor, videos, features)
    teachers = Teachers.of(recipe, model, processor, train_set, features)
    return assemble(recipe, model, processor, train_set, validation_set, accelerator, processes, teachers)


def assemble(
    recipe: Recipe,
    model: MMPModel,
    processor: MMPProcessor,
    train_set: PivotSampler | ClipDataset,
    validation_set: ValidationSet | None = None,
    accelerator: Accelerator | None = None,
    processes: Processes | None = None,
    teachers: Teachers | None = None,
) -> Trainer:
    """Assemble the parts of the loop around a model and its data.

    Args:
        recipe: how to train; its sources of data and model are ignored.
        model: on any device; Accelerate moves it.
        processor: makes the batches, and is saved with the model.
        train_set: pairs or triples in memory, or clips to stream.
        validation_set: None keeps the last model.
        accelerator, processes: new ones by default.
        teachers: for the terms `teach` and `distill`.

    Raises:
        PolyvidError: if there are too few data for one batch.
    """
    accelerator = accelerator or Accelerator(step_scheduler_with_optimizer=False)
    processes = processes or Processes()
    training, data = recipe.training, recipe.data
    set_seed(training.seed, device_specific=True)  # for dropout, which must differ between processes
    model.config.temperature = recipe.objective.temperature  # used by `return_loss` and `logits_...`
    model.config.mask_ratio = recipe.objective.mask_ratio
    batches = _batches(recipe, processor, train_set, processes, teachers)
    if data.texts_only:
        freeze_video_tower(model)
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


def parameter_groups(model: MMPModel, learning_rate: float) -> list[dict[str, Any]]:
    """Trained parameters grouped by learning rate; the model defines which modules learn faster (§5.6)."""
    multipliers = model.learning_rate_multipliers
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(multipliers.get(name.split(".")[0], 1.0), []).append(parameter)
    return [{"params": parameters, "lr": learning_rate * factor} for factor, parameters in groups.items()]


def freeze_video_tower(model: MMPModel) -> None:
    """For texts without videos: what no batch reaches has no gradient, which DDP would wait for."""
    for name in ("video_projection", "image_projection", "video_pooler"):
        if hasattr(model, name):
            getattr(model, name).requires_grad_(False)


def _captioned(data: DataRecipe) -> list[dict[str, Any]]:
    """What captions are trained on: rows of `polyvid.dataset_scripts.schema.CAPTIONS`; none for streamed clips."""
    if data.clips is not None:
        return []
    if data.parallel_texts is not None:
        return load_parallel_texts(data.parallel_texts)
    return load_videos(data, data.train_split, data.languages)


def _train_set(
    recipe: Recipe, videos: list[dict[str, Any]], features: VideoFeatures | None, processes: Processes
) -> PivotSampler | ClipDataset:
    data, seed = recipe.data, recipe.training.seed
    if data.clips is not None:
        sampler = ClipSampler(data.languages, seed, data.max_video_length)
        shards = find_shards(data.clips, data.train_split)
        return ClipDataset(shards, sampler, processes.rank, processes.count)
    if features is None and not data.texts_only:
        raise PolyvidError("data.features is missing: captions need the features of their videos.")
    shown = None if data.texts_only else features
    with_english = not {"teach", "distill"}.isdisjoint(recipe.objective.terms)
    return PivotSampler(
        videos, shown, data.languages, data.pivots, data.epoch_unit, seed, with_english, recipe.training.group_by
    )


def _validation_set(data: DataRecipe, features: VideoFeatures | None) -> ValidationSet | None:
    """By default validated in English only, since the zero-shot setting has no other captions (App. D.1)."""
    if data.validation_split is None:
        return None
    if data.dataset is None or features is None:
        raise PolyvidError("data.validation_split needs data.dataset and data.features; null keeps the last model.")
    videos = load_videos(data, data.validation_split, data.validation_languages)
    return ValidationSet(videos, features, data.validation_languages)


def _batches(
    recipe: Recipe,
    processor: MMPProcessor,
    train_set: PivotSampler | ClipDataset,
    processes: Processes,
    teachers: Teachers | None = None,
) -> Batches:
    training, data = recipe.training, recipe.data
    limits = (data.max_text_length, data.max_video_length)
    collator = MMPCollator(processor, *limits, recipe.objective.mask_ratio, training.seed, teachers)
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
        weights={"align": recipe.align_weight, "teach": recipe.teach_weight},
        distill_alpha=recipe.distill_alpha,
        distill_temperature=recipe.distill_temperature,
        distill_pool=recipe.distill_pool,
    )
