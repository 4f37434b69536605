"""An evaluation from texts and features to scores, against the naive script, in the shape of XLM-R-large.

    python tests/benchmarks/evaluation.py --pairs 100
    python tests/benchmarks/evaluation.py --pairs 1000          # the paper's 1,000 x 1,000 (App. C); an hour on a core
    python tests/benchmarks/evaluation.py --smoke               # seconds, a tiny shape: only to see that it runs

Naive: all 24 layers, texts padded to 96 tokens, videos to 36 seconds, batches in the order of the file, a full sort of
every row. Times are CPU times of one process; set OMP_NUM_THREADS. Weights are random: they do not change the time.
sentence-transformers with the same 12 layers is measured where it is installed.
"""

import argparse
import resource
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from mmp.modeling import MMPConfig, MMPModel
from mmp.train.retrieval_metrics import ranks_of_targets, retrieval_scores

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import tiny_processor  # noqa: E402

LARGE = dict(hidden_size=1024, num_attention_heads=16, intermediate_size=4096)
SMOKE = dict(hidden_size=32, num_attention_heads=2, intermediate_size=64)
BATCH = 32


def build(layers: int, shape: dict) -> MMPModel:
    # A small vocabulary: looking up a token costs the same.
    text = dict(model_type="xlm-roberta", vocab_size=1000, max_position_embeddings=514, num_hidden_layers=layers)
    return MMPModel(MMPConfig(text_config=text | shape, output_layer=layers, freeze_below=9)).eval()


@torch.inference_mode()
def naive_embeds(model: MMPModel, processor, texts: list[str], videos: list[np.ndarray]) -> list[torch.Tensor]:
    embeds = [[], []]
    for start in range(0, len(texts), BATCH):
        batch = processor(
            text=texts[start : start + BATCH], padding="max_length", max_text_length=96, return_tensors="pt"
        )
        embeds[0].append(model.get_text_features(**batch))
    for start in range(0, len(videos), BATCH):
        batch = processor(
            videos=videos[start : start + BATCH], padding="max_length", max_video_length=36, return_tensors="pt"
        )
        embeds[1].append(model.get_video_features(**batch))
    return [torch.cat(parts) if parts else torch.empty(0, model.config.embed_dim) for parts in embeds]


def sorted_ranks(texts: torch.Tensor, videos: torch.Tensor) -> np.ndarray:
    similarity = (F.normalize(texts, dim=-1) @ F.normalize(videos, dim=-1).T).numpy()
    return np.array([np.flatnonzero(np.argsort(-row) == index)[0] + 1 for index, row in enumerate(similarity)])


def sentence_transformer(model: MMPModel, processor, texts: list[str]):
    """Its own encoding loop around the same backbone; mean pooling in place of the pooling head, which costs less."""
    import tempfile

    from sentence_transformers import SentenceTransformer, models

    with tempfile.TemporaryDirectory() as folder:
        model.text_model.save_pretrained(folder)
        processor.tokenizer.save_pretrained(folder)
        word = models.Transformer(folder, max_seq_length=96)
    encoder = SentenceTransformer(modules=[word, models.Pooling(word.get_word_embedding_dimension())], device="cpu")
    return lambda: encoder.encode(texts, batch_size=BATCH, show_progress_bar=False)


def compare(title: str, count: int, runs: dict) -> None:
    print(f"\n{title}")
    baseline = None
    for name, function in runs.items():
        started = time.process_time()
        function()
        seconds = time.process_time() - started
        baseline = baseline or seconds
        print(f"  {name:58} {seconds:9.3f} s {count / seconds:10.1f}/s {baseline / seconds:7.2f} x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100, help="texts and videos")
    parser.add_argument("--candidates", type=int, default=30_000, help="rows and columns of the largest ranking")
    parser.add_argument("--smoke", action="store_true", help="a tiny shape and few candidates")
    options = parser.parse_args()
    shape, candidates = (SMOKE, 300) if options.smoke else (LARGE, options.candidates)

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    processor = tiny_processor(feature_size=1024)
    texts = ["dog " * n for n in rng.poisson(12, options.pairs) + 1]  # captions of about 15 tokens
    videos = [rng.standard_normal((n, 1024)).astype(np.float32) for n in rng.integers(5, 37, options.pairs)]
    whole, model = build(24, shape), build(12, shape)

    runs = {
        "naive: 24 layers, padded to 96 tokens": lambda: naive_embeds(whole, processor, texts, []),
        "encode_texts": lambda: model.encode_texts(texts, processor),
    }
    if find_spec("sentence_transformers"):
        runs["sentence-transformers, the same 12 layers"] = sentence_transformer(model, processor, texts)
    compare(f"{options.pairs} queries", options.pairs, runs)
    compare(
        f"{options.pairs} videos",
        options.pairs,
        {
            "naive: padded to 36 seconds": lambda: naive_embeds(model, processor, [], videos),
            "encode_videos": lambda: model.encode_videos(videos, processor),
        },
    )

    def ours() -> dict:
        found = model.encode_texts(texts, processor), model.encode_videos(videos, processor)
        return retrieval_scores(ranks_of_targets(*found, torch.arange(len(texts))))

    compare(
        f"{options.pairs} x {options.pairs} end to end",
        options.pairs,
        {
            "naive": lambda: retrieval_scores(sorted_ranks(*naive_embeds(whole, processor, texts, videos))),
            "mmp": ours,
        },
    )

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
    embeds = [torch.randn(candidates, 256) for _ in range(2)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ranks_of_targets(*embeds, torch.arange(candidates))
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    whole_matrix = 4 * candidates**2 / 2**20
    print(f"\nRanking {candidates} x {candidates}: peak memory + {added:.0f} MiB (the matrix: {whole_matrix:.0f} MiB)")


if __name__ == "__main__":
    main()
