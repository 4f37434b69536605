"""How much of a batch is padding, with rows of any length and with `training.group_by_length`.

    python tests/benchmarks/length_groups.py train.en.gz --tokenizer FacebookAI/xlm-roberta-large

Reads files of one caption a line, such as Multi30K's (`.gz` or text). Of several files a line is drawn from one each
time: captions of several languages, mixed.
"""

import gzip
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from transformers import AutoTokenizer

import polyvid.modeling  # noqa: F401  a trained model's folder may stand for its tokenizer
from polyvid.train.data.batches import GlobalBatches


def read(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
        return file.read().splitlines()


def main(
    captions: Annotated[list[Path], typer.Argument(help="Files of one caption a line.")],
    tokenizer: Annotated[str, typer.Option(help="Hub id or folder.")] = "FacebookAI/xlm-roberta-large",
    max_text_length: Annotated[int, typer.Option(help="Tokens.")] = 96,
) -> None:
    """Print the share of padding, and how many padded tokens grouping saves."""
    lines = list(zip(*map(read, captions), strict=True))
    drawn = np.random.default_rng(0).integers(len(captions), size=len(lines))
    texts = [line[which] for line, which in zip(lines, drawn, strict=True)]
    ids = AutoTokenizer.from_pretrained(tokenizer)(texts, truncation=True, max_length=max_text_length)["input_ids"]
    lengths = np.array([len(row) for row in ids])
    print(f"{len(lengths):,} captions of {lengths.mean():.1f} tokens on average\n")
    print("| batch | padding, any length | padding, grouped | fewer tokens |\n|---:|---:|---:|---:|")
    for batch_size in (32, 64, 128):
        padded = []
        for known in (None, lengths):
            batches = GlobalBatches(len(lengths), batch_size, seed=0)
            batches.lengths = known
            rows = list(batches)
            padded.append(sum(lengths[batch].max() * len(batch) for batch in rows))
        real = sum(lengths[batch].sum() for batch in rows)
        shares = " | ".join(f"{1 - real / tokens:.0%}" for tokens in padded)
        print(f"| {batch_size} | {shares} | {padded[0] / padded[1]:.2f} x |")


if __name__ == "__main__":
    typer.run(main)
