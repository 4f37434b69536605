"""`--dry-run`: shows what a recipe would do, and measures its time and memory on this machine with a few steps."""

import resource
import statistics
import sys
import time
from itertools import islice

import torch
from omegaconf import OmegaConf

from polyvid.train.loop.trainer import Trainer

STEPS = 3


def describe(trainer: Trainer) -> None:
    """Print the resolved recipe, counts of data and parameters, steps, and estimates of time and memory.

    The estimates come from `STEPS` real steps after one warm-up step. Nothing is written. Every process must call this.
    """
    parameters = [(p.numel(), p.requires_grad) for p in trainer.model.parameters()]
    total, trained = sum(n for n, _ in parameters), sum(n for n, trains in parameters if trains)
    seconds = _seconds_per_step(trainer)
    if trainer.processes.rank != 0:
        return
    print(OmegaConf.to_yaml(OmegaConf.structured(trainer.recipe)))
    steps, training = trainer.batches.steps(0), trainer.recipe.training
    print("training:  ", "\n            ".join(trainer.batches.summary()))
    if trainer.validation_set is not None:
        queries = ", ".join(f"{len(texts):,} {name}" for name, (texts, _) in trainer.validation_set.queries.items())
        print(f"validation: {len(trainer.validation_set.videos):,} videos, captions: {queries}")
    print(f"parameters: {total:,}, of which {trained:,} are trained")
    print(f"steps:      {trainer.total_steps:,} ({steps:,} an epoch, {training.epochs} epochs)")
    print(f"processes:  {trainer.processes.count} on {trainer.accelerator.device.type}")
    print(f"time:       {seconds:.3g} s a step, about {_duration(seconds * trainer.total_steps)} without validation")
    print(f"memory:     {_peak_memory() / 2**30:.2f} GiB at the peak of these steps, for each process")
    resumed = trainer.checkpoints.to_resume()
    if resumed is not None:
        print(f"would resume from {resumed}")


def _seconds_per_step(trainer: Trainer) -> float:
    trainer.model.train()
    times = []
    for batch in islice(trainer.batches.read(0, 0), STEPS + 1):
        started = time.monotonic()
        trainer.training_step(batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.monotonic() - started)
    return statistics.median(times[1:] or times)


def _peak_memory() -> int:
    """Peak memory in bytes: of the accelerator if there is one, otherwise of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
