"""Models of the real architecture, small enough for a test: random weights, a vocabulary of a few words."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from polyvid.modeling import MMPConfig, MMPFeatureExtractor, MMPModel, MMPProcessor

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
WORDS = "a the dog cat man woman runs sleeps in park ein der hund katze läuft 狗 跑".split()
VIDEO_FEATURE_DIM = 10
EMBED_DIM = 16

_SHAPE = dict(
    vocab_size=64,
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=64,
    bos_token_id=0,
    pad_token_id=1,
    eos_token_id=2,
)
BACKBONES = {
    "bert": _SHAPE | dict(model_type="bert"),
    "xlm-roberta": _SHAPE | dict(model_type="xlm-roberta"),
    "deberta-v2": _SHAPE
    | dict(model_type="deberta-v2", relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"])
    | dict(norm_rel_ebd="layer_norm", share_att_key=True),
    # windows of 4 tokens in every second layer, shorter than the texts of the tests
    "modernbert": _SHAPE
    | dict(model_type="modernbert", local_attention=4, global_attn_every_n_layers=2, cls_token_id=0, sep_token_id=2),
}


def tiny_config(backbone: str = "xlm-roberta", **fields) -> MMPConfig:
    """Layer 3 of 4, the first two frozen."""
    defaults = dict(output_layer=3, freeze_below=2, embed_dim=EMBED_DIM, video_feature_dim=VIDEO_FEATURE_DIM)
    return MMPConfig(text_config=BACKBONES[backbone], **(defaults | fields))


def tiny_model(backbone: str = "xlm-roberta", seed: int = 0, **fields) -> MMPModel:
    """In evaluation mode."""
    torch.manual_seed(seed)
    return MMPModel(tiny_config(backbone, **fields)).eval()


def tiny_processor(**extractor_arguments) -> MMPProcessor:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*SPECIAL, *WORDS])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict(zip(names, SPECIAL, strict=True)))
    return MMPProcessor(MMPFeatureExtractor(**(dict(feature_size=VIDEO_FEATURE_DIM) | extractor_arguments)), fast)


def tiny_batch(rows: int = 3, tokens: int = 12, seconds: int = 9, seed: int = 1) -> dict[str, torch.Tensor]:
    """Texts and videos of different lengths, padded."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, tokens + 1, (rows,), generator=generator)
    durations = torch.randint(1, seconds + 1, (rows,), generator=generator)
    lengths[0], durations[-1] = tokens, seconds
    attention_mask = (torch.arange(tokens) < lengths[:, None]).long()
    video_mask = (torch.arange(seconds) < durations[:, None]).long()
    input_ids = torch.randint(len(SPECIAL), 64, (rows, tokens), generator=generator)
    video_features = torch.randn(rows, seconds, VIDEO_FEATURE_DIM, generator=generator)
    return {
        "input_ids": torch.where(attention_mask.bool(), input_ids, 1),
        "attention_mask": attention_mask,
        "video_features": video_features * video_mask[..., None],
        "video_mask": video_mask,
    }


def enable_checkpointing(model: MMPModel, options: dict | None = None) -> None:
    """Recompute activations in the backward pass; transformers changed the name of this in 5.23."""
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)(options)
