"""Whether a device computes what a CPU does, in every way this package offers to train on it. Models are tiny."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from shapes import SMOKE, make_batch, make_model
from tiny_trainer import tiny_trainer
from torch.nn.attention import SDPBackend, sdpa_kernel

from polyvid.modeling import MMPModel, MMPObjective
from polyvid.train.loop.step import contrastive_step
from tiny import tiny_batch, tiny_model

ROWS, TOKENS, SECONDS = 6, 20, 12
Batch = dict[str, torch.Tensor]


class NotHere(Exception):
    """This device or this environment cannot do it; says why."""


def near(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> str:
    """The distance relative to the expected norm.

    Raises:
        AssertionError: if it is above the tolerance.
    """
    expected = expected.double().cpu()
    distance = float((found.double().cpu() - expected).norm() / expected.norm())
    assert distance <= tolerance, f"differs by {distance:.1e}, allowed {tolerance:.0e}"
    return f"differs by {distance:.0e}"


def batch_of(device: torch.device) -> Batch:
    return make_batch(ROWS, TOKENS, SECONDS, SMOKE.vocabulary, device)


def model_of(device: torch.device) -> MMPModel:
    return make_model(SMOKE, torch.device("cpu"), dropout=False).to(device).eval()


def embeds(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        outputs = model(**batch, return_loss=False)
    return torch.cat([outputs.text_embeds, outputs.video_embeds])


def reference(device: torch.device) -> torch.Tensor:
    """Embeddings in float64 on the CPU."""
    batch = batch_of(torch.device("cpu"))
    doubled = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
    return embeds(model_of(torch.device("cpu")).double(), doubled)


def gradient(model: torch.nn.Module, batch: Batch, micro_batch_size: int | None = None, gather: bool = False):
    """Of all trained parameters, in a row."""
    model.zero_grad()
    contrastive_step(model, batch, MMPObjective(gather=gather), micro_batch_size=micro_batch_size)
    parts = [p.grad for p in model.parameters() if p.grad is not None]
    return torch.cat([getattr(part, "full_tensor", lambda part=part: part)().flatten() for part in parts])


def towers(device: torch.device) -> str:
    return near(embeds(model_of(device), batch_of(device)), reference(device), 1e-5)


def losses(device: torch.device) -> str:
    """Eq. 2 written out."""
    torch.manual_seed(3)
    a, b = torch.randn(2, 9, 16, dtype=torch.float64)
    s = (torch.nn.functional.normalize(a) @ torch.nn.functional.normalize(b).T / 0.1).exp()
    expected = torch.stack([-(s[i, i] / (s[i].sum() + s[:, i].sum() - s[i, i])).log() for i in range(9)]).mean()
    given = {"text_embeds": a.float().to(device), "video_embeds": b.float().to(device)}
    return near(MMPObjective(gather=False)(given)["inter"], expected, 1e-5)


def micro_batches(device: torch.device) -> str:
    """GradCache: the gradient of the whole batch."""
    model, batch = model_of(device), batch_of(device)
    return near(gradient(model, batch, 2), gradient(model, batch), 1e-4)


@contextmanager
def one_process(device: torch.device) -> Iterator[None]:
    """A group of one process, over NCCL on GPUs."""
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/group", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def distributed(device: torch.device) -> str:
    model, batch = model_of(device), batch_of(device)
    alone = gradient(model, batch)
    with one_process(device):
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        together = gradient(wrapped, batch, gather=True)
    return f"{'NCCL' if device.type == 'cuda' else 'Gloo'}, one process: {near(together, alone, 1e-5)}"


def sharded(device: torch.device) -> str:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, batch = model_of(device), batch_of(device)
    alone = gradient(model, batch)
    with one_process(device):
        fully_shard(model, mesh=init_device_mesh(device.type, (1,)))
        together = gradient(model, batch, gather=True)
    return f"FSDP2, one process: {near(together, alone, 1e-5)}"


def attention(device: torch.device) -> str:
    """Eager against each kernel of `scaled_dot_product_attention`, which all see a mask of padding.

    In bfloat16 on GPUs, because flash kernels take no float32.
    """
    model, batch = model_of(device), batch_of(device)
    on_gpu = device.type == "cuda"
    tolerance = 0.05 if on_gpu else 1e-5
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=on_gpu):
        model.set_attn_implementation("eager")
        expected = embeds(model, batch)
        model.set_attn_implementation("sdpa")
        found = [f"chosen by PyTorch {near(embeds(model, batch), expected, tolerance)}"]
        for name in ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH"):
            try:
                with sdpa_kernel(getattr(SDPBackend, name)):
                    found.append(f"{name.lower()} {near(embeds(model, batch), expected, tolerance)}")
            except RuntimeError:  # no kernel of this kind for this device, type or mask
                found.append(f"{name.lower()} not offered")
    return "; ".join(found)


def bfloat16(device: torch.device) -> str:
    model, batch = model_of(device), batch_of(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        return near(embeds(model, batch), reference(device), 0.05)


def float16(device: torch.device) -> str:
    """Training with a scaled loss, stopped and resumed."""

    def accelerator() -> Accelerator:
        AcceleratorState._reset_state(True)
        made = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision="fp16" if device.type == "cuda" else "no",
            step_scheduler_with_optimizer=False,
        )
        # Accelerate makes none on a CPU. Here it doubles the scale after each step.
        made.scaler = torch.amp.GradScaler(device.type, init_scale=8.0, growth_interval=1)
        return made

    with tempfile.TemporaryDirectory() as folder:
        first = tiny_trainer(Path(folder), accelerator=accelerator())
        first.model.train()
        for batch in list(first.batches.read(0, 0))[:2]:
            first.training_step(batch)
        first.save()
        resumed = tiny_trainer(Path(folder), accelerator=accelerator())
        resumed.load_state(resumed.checkpoints.load())
    states = [trainer.accelerator.scaler.state_dict() for trainer in (first, resumed)]
    assert states[0]["scale"] != 8.0, "the scale did not move"
    assert states[0] == states[1], f"the scale of the loss was lost: {states}"
    return f"resumed at a scale of {states[1]['scale']:.0f}"


def compiled(device: torch.device) -> str:
    backend = "inductor" if device.type == "cuda" else "eager"  # on a CPU the compiler takes minutes
    model, batch = tiny_model().to(device), {name: value.to(device) for name, value in tiny_batch(rows=4).items()}
    return f"{backend}: {near(embeds(torch.compile(model, backend=backend), batch), embeds(model, batch), 1e-4)}"


def no_waiting(device: torch.device) -> str:
    """The host never waits for the device in a training step."""
    if device.type != "cuda":
        raise NotHere("needs a GPU; tests/train/loop/test_ready_for_gpus.py looks for operators that wait")
    AcceleratorState._reset_state(True)
    with tempfile.TemporaryDirectory() as folder:
        trainer = tiny_trainer(Path(folder), accelerator=Accelerator(step_scheduler_with_optimizer=False))
        trainer.model.train()
        first, second, *_ = list(trainer.batches.read(0, 0))
        trainer.training_step(first)
        try:
            torch.cuda.set_sync_debug_mode("error")
            trainer.training_step(second)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return "none found"


CHECKS: dict[str, Callable[[torch.device], str]] = {
    "towers, against float64 on the CPU": towers,
    "loss, against Eq. 2 written out": losses,
    "micro-batches (GradCache)": micro_batches,
    "gradient under DDP": distributed,
    "gradient under FSDP2": sharded,
    "attention, eager against": attention,
    "bfloat16, against float64 on the CPU": bfloat16,
    "float16, checkpoint with the scale of the loss": float16,
    "torch.compile": compiled,
    "waits of the host in a step": no_waiting,
}
