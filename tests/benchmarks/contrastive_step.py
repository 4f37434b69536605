"""What a training step costs: in micro-batches against in one go, and one pass over both views against two.

    python tests/benchmarks/contrastive_step.py

Each way runs in a process of its own, so that its peak memory is its own. Memory is what the steps add to the loaded
model; time is that of the fastest of `--repeats` steps after a first one: the process's CPU time, which does not mind
other programs, or on a GPU the clock's. All ratios are to the plain step.
"""

import json
import resource
import subprocess
import sys
import time
from typing import Annotated

import torch
import typer
from transformers import XLMRobertaConfig

from polyvid.modeling import MMPConfig, MMPModel, MMPObjective
from polyvid.train.loop.step import contrastive_step

WAYS = ("plain", "micro-batch 8", "micro-batch 16", "micro-batch 32", "two passes")


def make_model() -> MMPModel:
    """A quarter of the paper's widths, a third of its depth, so that a step takes seconds on a CPU (§5.2)."""
    backbone = XLMRobertaConfig(
        vocab_size=1000, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
    )
    return MMPModel(MMPConfig(text_config=backbone, output_layer=4, freeze_below=3, embed_dim=256)).train()


def make_batch(batch_size: int, tokens: int, seconds: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 1000, (2, batch_size, tokens))
    videos = torch.randn(2, batch_size, seconds, 1024)
    return {
        "input_ids": ids[0],
        "attention_mask": torch.ones_like(ids[0]),
        "noisy_input_ids": ids[1],
        "video_features": videos[0],
        "video_mask": torch.ones(batch_size, seconds, dtype=torch.long),
        "noisy_video_features": videos[1],
    }


def two_pass_step(model: MMPModel, batch: dict[str, torch.Tensor], objective: MMPObjective) -> None:
    """The plain step, but with a forward for each view."""
    clean = {key: value for key, value in batch.items() if not key.startswith("noisy_")}
    noisy = clean | {key.removeprefix("noisy_"): value for key, value in batch.items() if key.startswith("noisy_")}
    clean, noisy = model(**clean), model(**noisy)
    views = {name: clean[name] for name in ("text_embeds", "video_embeds")}
    objective(views | {f"noisy_{name}": noisy[name] for name in views})["loss"].backward()


def measure(way: str, batch_size: int, tokens: int, seconds: int, repeats: int) -> dict[str, float]:
    """Seconds and bytes of one way of making the step; to be called in a fresh process."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, objective = make_model().to(device), MMPObjective()
    batch = {key: value.to(device) for key, value in make_batch(batch_size, tokens, seconds).items()}
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)  # not the step's doing: counted before
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    before, durations = memory(device, peak=False), []
    for _ in range(repeats + 1):
        start = clock()
        if way == "two passes":
            two_pass_step(model, batch, objective)
        else:
            size = int(way.removeprefix("micro-batch ")) if way != "plain" else None
            contrastive_step(model, batch, objective, micro_batch_size=size)
        if device.type == "cuda":
            torch.cuda.synchronize()
        durations.append(clock() - start)
    return {"bytes": memory(device, peak=True) - before, "seconds": min(durations[1:])}


def memory(device: torch.device, peak: bool) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    if peak:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def main(
    batch_size: Annotated[int, typer.Option(help="Rows.")] = 128,
    tokens: Annotated[int, typer.Option(help="Tokens of every text.")] = 24,
    seconds: Annotated[int, typer.Option(help="Seconds of every video (App. C: 36 in fine-tuning).")] = 36,
    repeats: Annotated[int, typer.Option(help="Timed steps.")] = 3,
    way: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Print the table."""
    options = {"batch_size": batch_size, "tokens": tokens, "seconds": seconds, "repeats": repeats}
    if way:
        print(json.dumps(measure(way, **options)))
        return
    arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    results = {}
    for way in WAYS:
        child = [sys.executable, __file__, *arguments, "--way", way]
        results[way] = json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE).stdout)
    plain = results["plain"]
    print(f"batch {batch_size}, {tokens} tokens, {seconds} seconds, clean and noised views\n")
    print("| step | peak memory | time |  |\n| --- | --- | --- | --- |")
    for way, result in results.items():
        ratios = " | ".join(f"{result[key] / plain[key]:.2f}" for key in ("bytes", "seconds"))
        print(f"| {way} | {ratios} | {result['bytes'] / 2**20:.0f} MiB, {result['seconds']:.2f} s |")


if __name__ == "__main__":
    typer.run(main)
