"""The Transformer pooling head (§3.1, §3.3) against an independent implementation."""

import numpy as np
import pytest
import torch
from torch import nn

from polyvid.modeling.pooling_mmp import MMPPoolingHead, sinusoidal_positions
from tiny import EMBED_DIM, tiny_config

HEADS = 4


@pytest.fixture
def head():
    torch.manual_seed(0)
    head = MMPPoolingHead(tiny_config(), num_layers=2).eval()
    for parameter in head.parameters():  # biases and norms other than 0 and 1, so that forgetting one shows
        nn.init.normal_(parameter, std=0.3)
    return head


def reference(head, embeds, context=None):
    """One unpadded sequence, (length, dim), in numpy: every token of every layer, then the first one."""
    weights = {name: value.detach().double().numpy() for name, value in head.named_parameters()}

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name, x):
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = embeds
    for i in range(len(head.layers)):
        layer = f"layers.{i}"
        memory = x if context is None else np.concatenate([x, context])
        q, k, v = (linear(f"{layer}.attention.{n}_proj", s) for n, s in (("q", x), ("k", memory), ("v", memory)))
        heads = []
        for columns in np.split(np.arange(EMBED_DIM), HEADS):
            scores = np.exp(q[:, columns] @ k[:, columns].T / np.sqrt(len(columns)))
            heads.append(scores / scores.sum(-1, keepdims=True) @ v[:, columns])
        x = norm(f"{layer}.attention_norm", x + linear(f"{layer}.attention.out_proj", np.concatenate(heads, -1)))
        x = norm(
            f"{layer}.output_norm", x + linear(f"{layer}.output", np.maximum(linear(f"{layer}.intermediate", x), 0))
        )
    return x[0]


@pytest.mark.parametrize("conditioned", [False, True], ids=["plain", "conditioned"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padded_batches_equal_the_reference_row_by_row(head, conditioned, attention):
    rng = np.random.default_rng(0)
    lengths, seconds = [7, 1, 4], [2, 5, 1]
    embeds, context = rng.standard_normal((3, 7, EMBED_DIM)), rng.standard_normal((3, 5, EMBED_DIM))
    mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    context_mask = torch.arange(5) < torch.tensor(seconds)[:, None]
    head.layers[0].attention.config._attn_implementation = attention
    arguments = (torch.tensor(context).float(), context_mask) if conditioned else ()
    pooled = head(torch.tensor(embeds).float(), mask, *arguments)
    for row in range(3):
        video = context[row, : seconds[row]] if conditioned else None
        expected = reference(head, embeds[row, : lengths[row]], video)
        np.testing.assert_allclose(pooled[row].detach(), expected, atol=1e-5)


def test_it_is_torchs_post_norm_encoder_layer_in_training_too(head):
    """Dropout included: same places, same random numbers, where both compute all tokens (a single one here)."""
    torch.manual_seed(0)
    ours = MMPPoolingHead(tiny_config(pooler_dropout=0.3), num_layers=1)
    theirs = nn.TransformerEncoderLayer(EMBED_DIM, HEADS, 4 * EMBED_DIM, dropout=0.3, batch_first=True)
    layer, attention = ours.layers[0], ours.layers[0].attention
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
    pairs = (
        (theirs.self_attn.out_proj, attention.out_proj),
        (theirs.norm1, layer.attention_norm),
        (theirs.linear1, layer.intermediate),
        (theirs.linear2, layer.output),
        (theirs.norm2, layer.output_norm),
    )
    for their_module, our_module in pairs:
        their_module.load_state_dict(our_module.state_dict())
    single = torch.randn(5, 1, EMBED_DIM)
    outputs = []
    for module in (ours, theirs):
        torch.manual_seed(7)
        outputs.append(module.train()(single).reshape(5, EMBED_DIM))
    torch.testing.assert_close(*outputs)
    longer = torch.randn(5, 6, EMBED_DIM)
    torch.testing.assert_close(ours.eval()(longer), theirs.eval()(longer)[:, 0])


def test_without_positional_embeddings_the_order_after_the_first_token_does_not_matter(head):
    embeds = torch.randn(2, 6, EMBED_DIM)
    shuffled = embeds[:, [0, 4, 2, 5, 1, 3]]
    torch.testing.assert_close(head(embeds), head(shuffled))
    assert not torch.allclose(head(embeds), head(embeds.flip(1)), atol=1e-3)


def test_sinusoidal_positions_are_those_of_vaswani_et_al():
    """§3.5 of "Attention Is All You Need", entry by entry."""
    expected = np.empty((20, 7))
    for position in range(20):
        for column in range(7):
            angle = position / 10_000 ** (2 * (column // 2) / 7)
            expected[position, column] = np.sin(angle) if column % 2 == 0 else np.cos(angle)
    np.testing.assert_allclose(sinusoidal_positions(20, 7), expected, atol=1e-6)
