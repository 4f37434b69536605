"""Tiny random dual encoders of each family, saved as transformers saves them."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from tiny import WORDS

SPECIAL = ["<s>", "<pad>", "<unk>"]
END = 63  # the highest id, as in CLIP, which takes a text to end at its highest id
TEXT = dict(vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
TEXT |= dict(max_position_embeddings=77, bos_token_id=0, pad_token_id=1, eos_token_id=END)
VISION = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
VISION |= dict(image_size=32, patch_size=8)
CONFIGS = {
    "clip": dict(text_config=TEXT, vision_config=VISION, projection_dim=12),
    "siglip": dict(text_config=TEXT | dict(projection_size=16), vision_config=VISION),
    "siglip2": dict(
        text_config=TEXT | dict(projection_size=16),
        vision_config={k: v for k, v in VISION.items() if k != "image_size"} | dict(num_patches=16),
    ),
    "metaclip_2": dict(text_config=TEXT, vision_config=VISION, projection_dim=12),
    "altclip": dict(
        text_config=TEXT | dict(project_dim=12, type_vocab_size=1, max_position_embeddings=100),
        vision_config=VISION,
        projection_dim=12,
    ),
    "chinese_clip": dict(text_config=TEXT, vision_config=VISION, projection_dim=12),
    "xclip": dict(
        text_config=TEXT,
        vision_config=VISION
        | dict(num_frames=4, mit_hidden_size=12, mit_intermediate_size=16, mit_num_hidden_layers=1)
        | dict(mit_num_attention_heads=2),
        projection_dim=12,
        prompt_num_attention_heads=2,
    ),
    "videoprism": dict(
        text_config=TEXT,
        vision_config=dict(hidden_size=16, intermediate_size=24, num_attention_heads=2, image_size=32, num_frames=4)
        | dict(tubelet_size=[1, 8, 8], num_spatial_layers=1, num_temporal_layers=1, num_auxiliary_layers=1),
    ),
}
IMAGE_PROCESSORS = {
    "siglip": "SiglipImageProcessor",
    "siglip2": "Siglip2ImageProcessor",
    "chinese_clip": "ChineseCLIPImageProcessor",
}


def tokenizer():
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS, *"video of 0 1 2 3 4 5 6 7 8 9".split()])}
    vocabulary["</s>"] = END
    found = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", END)]
    )
    names = ("bos_token", "pad_token", "unk_token")
    options = dict(model_max_length=77, model_input_names=["input_ids", "attention_mask"])
    special = dict(zip(names, SPECIAL, strict=True)) | {"eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=found, **options, **special)


def save_dual_encoder(family: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(family, **CONFIGS[family])).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    if family != "videoprism":
        pixels = {"image_processor_type": IMAGE_PROCESSORS.get(family, "CLIPImageProcessor")}
        size = {"height": 32, "width": 32}
        pixels |= {"patch_size": 8, "max_num_patches": 16} if family == "siglip2" else {"size": size, "crop_size": size}
        (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
