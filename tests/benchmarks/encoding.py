"""What the shortcuts of encoding save: `python tests/benchmarks/encoding.py`. Prints ratios against one baseline.

Texts have the lengths of the English Multi30K test captions where those files are available (`../shared/data`), else
lengths drawn around 14 tokens; videos have 5 to 36 seconds. Weights are random: they do not change the time.
"""

import gzip
import sys
import time
from pathlib import Path

import numpy as np
import torch

from polyvid.modeling import MMPConfig, MMPModel

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import tiny_processor  # noqa: E402

CAPTIONS = Path(__file__).parents[3] / "shared/data/multi30k/task1/test_2016_flickr.en.gz"
TEXTS, VIDEOS, BATCH = 64, 64, 32


def texts(rng: np.random.Generator) -> list[str]:
    """Texts of one known word, so that the tokenizer of the tests serves; + 2 for what XLM-R splits."""
    if CAPTIONS.exists():
        with gzip.open(CAPTIONS, "rt", encoding="utf-8") as file:
            return ["dog " * (len(line.split()) + 2) for line in file][:TEXTS]
    return ["dog " * n for n in rng.poisson(12, TEXTS) + 1]


def build(depth: int) -> MMPModel:
    """The shape of multilingual-e5-small, with a small vocabulary: looking up a token costs the same."""
    text = dict(model_type="bert", vocab_size=1000, hidden_size=384, num_attention_heads=12, intermediate_size=1536)
    text["num_hidden_layers"] = depth
    return MMPModel(MMPConfig(text_config=text, output_layer=depth, freeze_below=9)).eval()


@torch.inference_mode()
def in_order(embed, processor, **arguments) -> None:
    """Batches of 32 rows as they come."""
    kind, rows = next((kind, rows) for kind, rows in arguments.items() if kind in ("text", "videos"))
    for start in range(0, len(rows), BATCH):
        embed(**processor(return_tensors="pt", **arguments | {kind: rows[start : start + BATCH]}))


@torch.inference_mode()
def every_token(head, embeds, mask) -> torch.Tensor:
    """The pooling head without its shortcut: the last layer computes all tokens, all but the first for nothing."""
    for layer in head.layers:
        embeds = layer(embeds, embeds, mask)
    return embeds[:, 0]


def report(title: str, runs: dict) -> None:
    print(f"\n{title}")
    baseline = None
    for name, (function, *arguments) in runs.items():
        start = time.process_time()
        function(*arguments)
        seconds = time.process_time() - start
        baseline = baseline or seconds
        print(f"  {name:50} {seconds:7.2f} s  {baseline / seconds:6.2f} x", flush=True)


def main() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    processor = tiny_processor(feature_size=1024)
    whole, model, captions = build(24), build(12), texts(rng)
    padded = dict(text=captions, padding="max_length", max_text_length=96)
    runs = {
        "24 layers, padded to 96 tokens": (lambda: in_order(whole.get_text_features, processor, **padded),),
        "12 layers, padded to 96 tokens": (lambda: in_order(model.get_text_features, processor, **padded),),
        "12 layers, padded to the longest": (lambda: in_order(model.get_text_features, processor, text=captions),),
    }
    for tokens in (512, 2048):
        runs[f"encode_texts: sorted, {tokens} tokens a batch"] = (model.encode_texts, captions, processor, tokens)
    mean = np.mean([len(caption.split()) + 2 for caption in captions])
    report(f"Texts: {TEXTS} captions of {mean:.1f} tokens on average, CPU time", runs)

    videos = [rng.standard_normal((n, 1024)).astype(np.float32) for n in rng.integers(5, 37, VIDEOS)]
    padded = dict(videos=videos, padding="max_length", max_video_length=36)
    runs = {
        "32 videos a batch, padded to 36 seconds": (lambda: in_order(model.get_video_features, processor, **padded),)
    }
    for seconds in (512, 2048):
        runs[f"encode_videos: sorted, {seconds} seconds a batch"] = (model.encode_videos, videos, processor, seconds)
    report(f"Videos: {VIDEOS} of 5 to 36 seconds, CPU time", runs)

    embeds, mask = torch.randn(32, 36, 1024), torch.ones(32, 36)
    head = torch.inference_mode()(model.video_pooler)
    runs = {"every token of the last layer": (every_token, model.video_pooler, embeds, mask.bool())}
    report("Pooling head, D = 1024, 32 videos of 36 seconds", runs | {"its first token only": (head, embeds, mask)})


if __name__ == "__main__":
    main()
