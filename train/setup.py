"""A trainer from a recipe: data, model and processor put together."""

from transformers import AutoModel, AutoProcessor, AutoTokenizer

from mmp.modeling import MMPFeatureExtractor, MMPModel, MMPProcessor
from mmp.train.data import VideoFeatures, load_videos
from mmp.train.pivot_sampler import PivotSampler
from mmp.train.recipe import ModelRecipe, Recipe
from mmp.train.trainer import Trainer


def build_trainer(recipe: Recipe) -> Trainer:
    """Everything a recipe names, loaded.

    Raises:
        ValueError, FileNotFoundError, OSError: for data, checkpoints or backbones that are missing or do not fit; the
            message says which.
    """
    data = recipe.data
    features = VideoFeatures(data.features)
    videos = load_videos(data, data.train_split)
    train_set = PivotSampler(videos, features, data.languages, data.pivots, recipe.training.seed)
    validation_set = None
    if data.validation_split is not None:
        # Selection by English alone: in the zero-shot setting there is nothing else (App. D.1).
        validation_set = PivotSampler(load_videos(data, data.validation_split), features, ["en"])
    model, processor = build_model(recipe.model)
    if data.normalize_features and processor.feature_extractor.feature_mean is None:
        mean, std = features.mean_and_std(train_set.video_ids)
        extractor = MMPFeatureExtractor(recipe.model.video_feature_dim, feature_mean=mean, feature_std=std)
        processor.feature_extractor = extractor
    return Trainer(recipe, model, processor, train_set, validation_set)


def build_model(model: ModelRecipe) -> tuple[MMPModel, MMPProcessor]:
    """The pre-trained model `init_from`, or a new one around `backbone`."""
    if model.init_from is not None:
        try:
            return (
                AutoModel.from_pretrained(model.init_from, dtype="float32"),
                AutoProcessor.from_pretrained(model.init_from),
            )
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise OSError(f"Cannot load {model.init_from!r} to start from: train it first. ({reason})") from None
    new = MMPModel.from_backbone(
        model.backbone,
        output_layer=model.output_layer,
        freeze_below=model.freeze_below,
        embed_dim=model.embed_dim,
        video_feature_dim=model.video_feature_dim,
        image_feature_dim=model.image_feature_dim,
        pooler_num_layers=model.pooler_num_layers,
        pooler_num_heads=model.pooler_num_heads,
        pooler_dropout=model.pooler_dropout,
        share_poolers=model.share_poolers,
    )
    extractor = MMPFeatureExtractor(feature_size=model.video_feature_dim)
    return new, MMPProcessor(extractor, AutoTokenizer.from_pretrained(model.backbone))
