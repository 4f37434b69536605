"""What matters on a GPU and shows on a CPU: a step that does not wait for the device, and the scale of fp16."""

import pytest
import torch
from accelerate import Accelerator
from tiny_trainer import tiny_trainer
from torch.utils._python_dispatch import TorchDispatchMode

from polyvid.modeling import inputs_mmp
from polyvid.train.data.batches import _loader

# Operators whose result or whose shape the host must know, so that it waits for a GPU to get there.
WAITING = {"aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten._unique2", "aten.unique_dim"}


class Waits(TorchDispatchMode):
    """Collects the operators at which the host would wait."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function).rsplit(".", 1)[0]
        by_mask = name in ("aten.index", "aten.index_put_") and any(
            part is not None and part.dtype == torch.bool for part in args[1]
        )
        if name in WAITING or by_mask:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def test_the_detector_sees_what_waits():
    numbers = torch.arange(4.0)
    with Waits() as waits:
        numbers.sum().item(), numbers[numbers > 1], numbers.nonzero(), bool(numbers[0] > 0)
    assert len(waits.found) >= 4
    with Waits() as waits:
        (numbers @ numbers).sqrt().clamp(0, 1)
    assert not waits.found


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_no_step_waits_for_the_device(tmp_path, monkeypatch, micro_batch_size):
    monkeypatch.setattr(inputs_mmp, "_may_look_at", lambda values, training: False)  # as if tensors were on a GPU
    trainer = tiny_trainer(tmp_path / "run", micro_batch_size=micro_batch_size)
    trainer.model.train()
    batches = list(trainer.batches.read(0, 0))
    trainer.training_step(batches[0])  # the first one makes Adam's state
    with Waits() as waits:
        trainer.training_step(batches[1])
    assert not waits.found, waits.found


def test_batches_wait_in_pinned_memory_and_are_sent_without_waiting(tmp_path, monkeypatch):
    trainer = tiny_trainer(tmp_path / "run")
    sent = []

    class Tensor:
        def to(self, device, non_blocking=False):
            sent.append((device, non_blocking))

    trainer._prepare({"input_ids": Tensor(), "video_features": Tensor()})
    assert sent == [(trainer.accelerator.device, True)] * 2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert _loader([0, 1]).pin_memory  # else a copy waits, whatever it is told


def test_a_worker_reads_batches_ahead_of_the_step(tmp_path):
    trainer = tiny_trainer(tmp_path / "run", num_workers=1)
    asked = len(list(trainer.batches.read(0, 0)))
    assert asked == trainer.batches.steps(0) >= 2
    assert _loader([0, 1], num_workers=1).prefetch_factor == 2


def with_scaler() -> Accelerator:
    """As Accelerate makes one for fp16 on a GPU; here it doubles the scale after every two steps."""
    accelerator = Accelerator(step_scheduler_with_optimizer=False)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    return accelerator


def test_a_checkpoint_holds_the_scale_of_the_loss(tmp_path):
    """Without, a resumed run under fp16 would begin at the first scale again, and skip steps until it fits."""
    first = tiny_trainer(tmp_path / "run", accelerator=with_scaler())
    first.model.train()
    for batch in list(first.batches.read(0, 0))[:3]:
        first.training_step(batch)
    assert first.accelerator.scaler.get_scale() == 16
    first.output_dir.mkdir()
    first.save()
    resumed = tiny_trainer(tmp_path / "run", accelerator=with_scaler())
    resumed.load_state(resumed.checkpoints.load())
    assert resumed.accelerator.scaler.state_dict() == first.accelerator.scaler.state_dict()
    without = tiny_trainer(tmp_path / "run")  # in float32 again
    without.load_state(without.checkpoints.load())


def test_a_checkpoint_of_a_version_without_the_scale_resumes(tmp_path):
    first = tiny_trainer(tmp_path / "run")
    first.output_dir.mkdir()
    first.save()
    resumed = tiny_trainer(tmp_path / "run", accelerator=with_scaler())
    resumed.load_state(resumed.checkpoints.load())
    assert resumed.accelerator.scaler.get_scale() == 8
