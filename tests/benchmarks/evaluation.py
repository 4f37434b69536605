"""An evaluation from texts and features to scores, against the naive script, in the shape of XLM-R-large.

    python tests/benchmarks/evaluation.py --pairs 100
    python tests/benchmarks/evaluation.py --pairs 1000          # the paper's 1,000 x 1,000 (App. C); an hour on a core
    python tests/benchmarks/evaluation.py --smoke               # seconds, a tiny shape: only to see that it runs

Naive: all 24 layers, texts padded to 96 tokens, videos to 36 seconds, batches in the order of the file, pooling heads
as `nn.TransformerEncoder` runs them (every token of every layer), a full sort of every row. Texts have the lengths of
VTT's 1k-A captions where that list is available (`../shared/data`), else lengths drawn like them.

Times are CPU times of one process; set OMP_NUM_THREADS. Weights are random: they do not change the time.
sentence-transformers with the same 12 layers is measured where it is installed: with the same pooling head, so that it
gives the same embeddings (this is checked), and with mean pooling, which gives others for less work.
"""

import argparse
import csv
import resource
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from polyvid.modeling import MMPConfig, MMPModel
from polyvid.train.scoring.quantization import quantize_text_tower
from polyvid.train.scoring.ranking import ranks_of_targets, retrieval_scores

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import tiny_processor  # noqa: E402

LARGE = dict(hidden_size=1024, num_attention_heads=16, intermediate_size=4096)
SMOKE = dict(hidden_size=32, num_attention_heads=2, intermediate_size=64)
BATCH = 32
CAPTIONS = Path(__file__).parents[3] / "shared/data/msrvtt/MSRVTT_JSFUSION_test.csv"


def build(layers: int, shape: dict) -> MMPModel:
    # A small vocabulary: looking up a token costs the same.
    text = dict(model_type="xlm-roberta", vocab_size=1000, max_position_embeddings=514, num_hidden_layers=layers)
    return MMPModel(MMPConfig(text_config=text | shape, output_layer=layers, freeze_below=9)).eval()


def captions(count: int, rng: np.random.Generator) -> list[str]:
    """Texts of one known word, so that the tokenizer of the tests serves; + 2 for what XLM-R splits."""
    if CAPTIONS.exists() and count <= 1000:
        with open(CAPTIONS, encoding="utf-8", newline="") as file:
            words = [len(row["sentence"].split()) for row in csv.DictReader(file)][:count]
    else:
        words = 1 + rng.negative_binomial(6, 0.42, count)
    return ["dog " * (number + 2) for number in words]


def every_token(head, embeds: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A pooling head as a plain stack of layers, of whose output the first token is taken."""
    for layer in head.layers:
        embeds = layer(embeds, embeds, mask.bool())
    return embeds[:, 0]


@torch.inference_mode()
def naive_embeds(model: MMPModel, processor, texts: list[str], videos: list[np.ndarray]) -> list[torch.Tensor]:
    embeds = [[], []]
    for start in range(0, len(texts), BATCH):
        batch = processor(
            text=texts[start : start + BATCH], padding="max_length", max_text_length=96, return_tensors="pt"
        )
        tokens = model.embed_tokens(**batch)
        embeds[0].append(every_token(model.text_pooler, tokens, batch["attention_mask"]))
    for start in range(0, len(videos), BATCH):
        batch = processor(
            videos=videos[start : start + BATCH], padding="max_length", max_video_length=36, return_tensors="pt"
        )
        seconds = model.embed_seconds(**batch)
        embeds[1].append(every_token(model.video_pooler, seconds, batch["video_mask"]))
    return [torch.cat(parts) if parts else torch.empty(0, model.config.embed_dim) for parts in embeds]


def sorted_ranks(texts: torch.Tensor, videos: torch.Tensor) -> np.ndarray:
    similarity = (F.normalize(texts, dim=-1) @ F.normalize(videos, dim=-1).T).numpy()
    return np.array([np.flatnonzero(np.argsort(-row) == index)[0] + 1 for index, row in enumerate(similarity)])


class Pooler(torch.nn.Module):
    """The text pooling head as a module of sentence-transformers."""

    def __init__(self, model: MMPModel):
        super().__init__()
        self.projection, self.head = model.text_projection, model.text_pooler

    def forward(self, features: dict) -> dict:
        tokens = self.projection(features["token_embeddings"])
        return features | {"sentence_embedding": every_token(self.head, tokens, features["attention_mask"])}


def sentence_transformer(model: MMPModel, processor, texts: list[str], mean: bool):
    """Its own encoding loop around the same backbone, with the same pooling head or with mean pooling."""
    import tempfile

    from sentence_transformers import SentenceTransformer, models

    with tempfile.TemporaryDirectory() as folder:
        model.text_model.save_pretrained(folder)
        processor.tokenizer.save_pretrained(folder)
        word = models.Transformer(folder, max_seq_length=96)
    pooling = models.Pooling(word.get_word_embedding_dimension()) if mean else Pooler(model)
    encoder = SentenceTransformer(modules=[word, pooling], device="cpu")
    return lambda: encoder.encode(texts, batch_size=BATCH, show_progress_bar=False)


def compare(title: str, count: int, runs: dict) -> dict:
    """Name → (seconds, result): the fastest of as many runs as fit into ten seconds, and at least one."""
    print(f"\n{title}")
    measured = {}
    for name, function in runs.items():
        times = []
        while sum(times) < 10:
            started = time.process_time()
            result = function()
            times.append(time.process_time() - started)
        measured[name] = min(times), result
        show(name, count, min(times), measured)
    return measured


def show(name: str, count: int, seconds: float, measured: dict) -> None:
    baseline = next(iter(measured.values()))[0]
    print(f"  {name:58} {seconds:9.3f} s {count / seconds:10.1f}/s {baseline / seconds:7.2f} x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100, help="texts and videos")
    parser.add_argument("--candidates", type=int, default=30_000, help="rows and columns of the largest ranking")
    parser.add_argument("--smoke", action="store_true", help="a tiny shape and few candidates")
    options = parser.parse_args()
    shape, candidates = (SMOKE, 300) if options.smoke else (LARGE, options.candidates)

    torch.manual_seed(0)
    embeds = [torch.randn(candidates, 256) for _ in range(2)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ranks_of_targets(*embeds, torch.arange(candidates))
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    whole_matrix = 4 * candidates**2 / 2**20
    print(f"Ranking {candidates} x {candidates}: peak memory + {added:.0f} MiB (the matrix: {whole_matrix:.0f} MiB)")

    rng = np.random.default_rng(0)
    processor = tiny_processor(feature_size=1024)
    texts = captions(options.pairs, rng)
    videos = [rng.standard_normal((n, 1024)).astype(np.float32) for n in rng.integers(5, 37, options.pairs)]
    whole, model = build(24, shape), build(12, shape)
    quantized = quantize_text_tower(model)

    runs = {
        "naive": lambda: naive_embeds(whole, processor, texts, [])[0],
        "encode_texts": lambda: model.encode_texts(texts, processor),
        "encode_texts, int8": lambda: quantized.encode_texts(texts, processor),
    }
    if find_spec("sentence_transformers"):
        runs["sentence-transformers, the same 12 layers"] = sentence_transformer(model, processor, texts, mean=False)
        runs["sentence-transformers, mean pooling"] = sentence_transformer(model, processor, texts, mean=True)
        few = texts[:BATCH]
        theirs = torch.from_numpy(sentence_transformer(model, processor, few, mean=False)())
        torch.testing.assert_close(theirs, model.encode_texts(few, processor), atol=1e-4, rtol=1e-3)
    tokens = np.mean([len(text.split()) + 2 for text in texts])
    by_text = compare(f"{options.pairs} queries of {tokens:.1f} tokens on average", options.pairs, runs)
    by_video = compare(
        f"{options.pairs} videos",
        options.pairs,
        {
            "naive": lambda: naive_embeds(model, processor, [], videos)[1],
            "encode_videos": lambda: model.encode_videos(videos, processor),
        },
    )
    naive_pair, our_pair = (by_text["naive"], by_video["naive"]), (by_text["encode_texts"], by_video["encode_videos"])
    targets = torch.arange(len(texts))
    ranked = compare(
        f"Scores of {options.pairs} x {options.pairs}",
        options.pairs,
        {
            "sort every row": lambda: retrieval_scores(sorted_ranks(*(embeds for _, embeds in naive_pair))),
            "ranks_of_targets": lambda: retrieval_scores(
                ranks_of_targets(*(embeds for _, embeds in our_pair), targets)
            ),
        },
    )
    print(f"\n{options.pairs} x {options.pairs} end to end: the sum of the above")
    whole_runs = {}
    for name, pair, last in (
        ("naive", naive_pair, "sort every row"),
        ("ours", our_pair, "ranks_of_targets"),
    ):
        whole_runs[name] = sum(seconds for seconds, _ in pair) + ranked[last][0], None
        show(name, options.pairs, whole_runs[name][0], whole_runs)

    small = min(candidates, 2000)
    embeds = [torch.randn(small, 64) for _ in range(2)]
    compare(
        f"Ranking {small} x {small}, 64 dimensions",
        small,
        {
            "sort every row": lambda: sorted_ranks(*embeds),
            "ranks_of_targets": lambda: ranks_of_targets(*embeds, torch.arange(small)),
        },
    )


if __name__ == "__main__":
    main()
