"""Records each step: values stay on the device, and every `log_steps` steps they go to disk and to trackers."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.recipe import TrainingRecipe

# A gradient norm this many times the clipping threshold is a spike: one or two rows determine the step, and the others
# have no effect. In the demo, norms are 0.2 to 8 with a threshold of 0.2; the spikes we saw were above 1e9.
SPIKE = 1000.0


class TrainingFailed(PolyvidError):
    """Training cannot usefully continue: gradients are not finite, or the loss diverges."""


class StepLog:
    """The record of a run: `steps.jsonl` in its output folder, with one line per step.

    A line is `{"step", "epoch", "loss", "inter", ..., "gradient_norm", "learning_rate"}`; `loss` or `gradient_norm`
    is null if the step was skipped because it was not finite. `gradient_norm` is the norm before clipping; if it is
    more than `SPIKE` times the threshold, `flush` reports and counts it. `add` does not wait for the device; `flush`
    waits once, however many steps there are.

    Args:
        path: the file on the main process, None on the others.
        training: provides `gradient_clip`, `log_steps`, `max_skipped_steps`, `divergence`.
        accelerator: its trackers receive means over every `log_steps` steps.
    """

    def __init__(self, path: Path | None, training: TrainingRecipe, accelerator: Accelerator):
        self.path, self.training, self.accelerator = path, training, accelerator
        self.skipped = 0
        self.spikes = 0
        self._skipped_in_a_row = 0
        self._sums: dict[str, float] = {}  # of this epoch, over the steps that were not skipped
        self._count = 0
        self._window: list[float] = []
        self._first_mean: float | None = None
        self._lowest_mean = math.inf
        self._waiting: list[tuple[dict[str, Any], torch.Tensor]] = []
        self._rows, self._since = 0, time.monotonic()

    def add(self, position: dict[str, Any], values: dict[str, torch.Tensor], rows: int) -> None:
        """Record a step: its position, its loss terms and gradient norm (scalars on one device), and its rows."""
        names = list(values)
        self._waiting.append((position | {"names": names}, torch.stack([values[name].float() for name in names])))
        self._rows += rows

    def flush(self) -> None:
        """Write all recorded steps.

        Raises:
            TrainingFailed: after too many skipped steps in a row, or if the loss diverges. The steps are written
                first.
        """
        if not self._waiting:
            return
        longest = max(len(values) for _, values in self._waiting)
        padded = [torch.nn.functional.pad(values, (0, longest - len(values))) for _, values in self._waiting]
        numbers = torch.stack(padded).tolist()  # the only wait for the device
        lines, problem = [], None
        for (position, _), row in zip(self._waiting, numbers, strict=True):
            values = dict(zip(position.pop("names"), row, strict=False))
            finite = all(map(math.isfinite, values.values()))
            problem = self._count_skipped(position["step"], finite) or problem
            if finite:
                for name, value in values.items():
                    self._sums[name] = self._sums.get(name, 0.0) + value
                self._count += 1
                problem = self._watch(position["step"], values["loss"]) or problem
                self._report_spike(position["step"], values["gradient_norm"])
            lines.append(position | {name: value if math.isfinite(value) else None for name, value in values.items()})
        self._waiting = []
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        self._track(lines)
        if problem:
            raise TrainingFailed(problem)

    def end_epoch(self) -> dict[str, float]:
        """Mean of each term over the steps of the epoch that were not skipped."""
        self.flush()
        means = {name: value / self._count for name, value in self._sums.items() if name != "gradient_norm"}
        self._sums, self._count = {}, 0
        return means

    def samples_per_second(self) -> float:
        """Speed since the previous call."""
        now = time.monotonic()
        speed = self._rows / max(now - self._since, 1e-9)
        self._rows, self._since = 0, now
        return speed

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: dict[str, Any], step: int) -> None:
        """Continue after step `step`: drops the lines of later steps, which will be repeated."""
        for name in _STATE:
            setattr(self, name, state.get(name, getattr(self, name)))  # older checkpoints lack some counts
        if self.path is not None and self.path.exists():
            kept = [line for line in read_steps(self.path) if line["step"] <= step]
            temporary = self.path.with_name(f".{self.path.name}.incomplete")
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            temporary.replace(self.path)

    def _count_skipped(self, step: int, finite: bool) -> str | None:
        self._skipped_in_a_row = 0 if finite else self._skipped_in_a_row + 1
        self.skipped += not finite
        if self._skipped_in_a_row <= self.training.max_skipped_steps:
            return None
        return (
            f"Loss or gradient was not finite in {self._skipped_in_a_row} steps in a row, up to step {step}: lower "
            "training.learning_rate, or look for extreme values in the features. The weights are those of the last "
            "finite step."
        )

    def _report_spike(self, step: int, norm: float) -> None:
        clip = self.training.gradient_clip
        if norm <= SPIKE * clip:
            return
        self.spikes += 1
        if self.path is not None:
            tqdm.write(
                f"Step {step}: the gradient's norm was {norm:.1e} before it was clipped to {clip}. A row or two "
                "decided this step: look for videos whose features are all zero, or extreme values.",
                file=sys.stderr,
            )

    def _watch(self, step: int, loss: float) -> str | None:
        self._window.append(loss)
        if len(self._window) < self.training.log_steps:
            return None
        mean, self._window = sum(self._window) / len(self._window), []
        if self._first_mean is None:
            self._first_mean = self._lowest_mean = mean
        self._lowest_mean = min(mean, self._lowest_mean)
        if mean <= max(self._first_mean, self.training.divergence * self._lowest_mean):
            return None
        return (
            f"The loss diverges: {mean:.2f} on average over the {self.training.log_steps} steps up to step {step}, "
            f"after {self._first_mean:.2f} at the start and {self._lowest_mean:.2f} at best. Lower "
            "training.learning_rate or raise training.warmup_steps."
        )

    def _track(self, lines: list[dict[str, Any]]) -> None:
        if not self.accelerator.trackers:
            return
        values: dict[str, list[float]] = {}
        for line in lines:
            for name, value in line.items():
                if value is not None and name != "step":
                    values.setdefault(name, []).append(value)
        means = {f"train/{name}": sum(those) / len(those) for name, those in values.items()}
        speed = {"train/samples_per_second": self.samples_per_second(), "train/skipped_steps": self.skipped}
        self.accelerator.log(means | speed, step=lines[-1]["step"])


_STATE = ("skipped", "spikes", "_skipped_in_a_row", "_sums", "_count", "_window", "_first_mean", "_lowest_mean")


def read_steps(path: Path) -> list[dict[str, Any]]:
    """The lines of a `steps.jsonl`, without a last line that was cut off when the run was killed."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]
