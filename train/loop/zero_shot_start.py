"""A start beyond §3.1 for `model.start=zero_shot`: the new model embeds as a dual encoder such as CLIP, until trained.

So training can only be compared upward from what everybody has without it. The features of the videos must be the dual
encoder's own, one vector a second, as `polyvid extract --encoder NAME` makes them.
"""

from typing import Any

import torch
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoModel, AutoTokenizer

from polyvid.modeling import MMPFeatureExtractor, MMPModel, MMPProcessor
from polyvid.modeling.dual_encoder_mmp import text_config_of
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.frame_encoders_mmp import source_of
from polyvid.modeling.paths_mmp import refuse_pickled_weights
from polyvid.train.dual_encoders.models import embed_texts, padding_of
from polyvid.train.recipe import SHAPE, ModelRecipe

SAMPLES = ("a dog runs", "ein Hund läuft", "chó chạy trong công viên", "狗在跑", "собака бежит по снегу")


def zero_shot_model(recipe: ModelRecipe) -> tuple[MMPModel, MMPProcessor]:
    """A new model from the dual encoder `backbone`, and its processor.

    Raises:
        OSError: if there is no such model.
        PolyvidError: if it is no dual encoder of a known family, if the recipe wants another shape, or if texts are not
            embedded as by the dual encoder.
    """
    name = recipe.backbone
    refuse_pickled_weights(name)
    dual_encoder = AutoModel.from_pretrained(name, dtype="float32", use_safetensors=True).eval()
    if text_config_of(dual_encoder.config) is dual_encoder.config:
        raise PolyvidError(
            f"{name} is a {dual_encoder.config.model_type}, but model.start=zero_shot needs a dual encoder of texts "
            "and images: AltCLIP, Chinese-CLIP, CLIP, Meta CLIP 2, SigLIP or SigLIP 2."
        )
    tokenizer = AutoTokenizer.from_pretrained(name)
    with torch.no_grad():
        expected = embed_texts(dual_encoder, tokenizer, SAMPLES)
    record = source_of(name, dual_encoder)
    options = {} if recipe.freeze_below is None else {"freeze_below": recipe.freeze_below}
    heads = ("pooler_num_layers", "video_pooler_num_layers", "pooler_num_heads", "share_poolers", "video_positions")
    model = MMPModel.from_dual_encoder(
        dual_encoder,
        lock_text=recipe.lock_text,
        pooler_dropout=recipe.pooler_dropout,
        **options,
        **{key: value for key in heads if (value := getattr(recipe, key)) is not None},
    )
    model.config.video_encoders = [record]
    for key in SHAPE:
        wanted, has = getattr(recipe, key), getattr(model.config, key)
        if wanted not in (None, has):
            raise PolyvidError(
                f"model.start=zero_shot takes the shape of {name}, whose {key} is {has}, but the recipe sets "
                f"model.{key}={wanted}: remove it from the recipe."
            )
    processor = processor_of(name, model)
    _check(name, model, processor, expected)
    return model, processor


def processor_of(backbone: str, model: MMPModel) -> MMPProcessor:
    """A processor for a new model; the texts of a dual encoder are padded and cut as it needs them."""
    tokenizer: Any = AutoTokenizer.from_pretrained(backbone)
    text_padding = None
    config = AutoConfig.from_pretrained(backbone)
    if text_config_of(config) is not config:
        options = padding_of(config, tokenizer)
        tokenizer.model_max_length = options["max_length"]
        text_padding = options["max_length"] if options["padding"] == "max_length" else None
    extractor = MMPFeatureExtractor(model.config.image_feature_dim or model.config.video_feature_dim)
    return MMPProcessor(extractor, tokenizer, text_padding=text_padding)


def _check(name: str, model: MMPModel, processor: MMPProcessor, expected: torch.Tensor) -> None:
    """Tokenizers may end a text in a way that the dual encoder was not trained with: compared, not believed."""
    cosines = normalize(model.encode_texts(SAMPLES, processor), dim=-1) * normalize(expected.cpu(), dim=-1)
    if not (cosines.sum(-1) > 1 - 1e-4).all():
        raise PolyvidError(
            f"The text tower of {name} does not embed texts as {name} itself does (cosine "
            f"{cosines.sum(-1).min():.4f}): its texts do not end as expected, so model.start=zero_shot cannot use it."
        )
