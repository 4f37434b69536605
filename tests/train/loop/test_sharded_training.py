"""The shipped configuration for FSDP2: weights, gradients and optimizer state in shards change no step and no file.

Accelerate shards on accelerators only. Here two processes on CPUs are told that they are such, and from there on all is
real: Accelerate's `prepare`, torch's `fully_shard` and its collectives over gloo.
"""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from launching import environment_of
from safetensors.torch import load_file
from tiny_trainer import spoil_loss, tiny_trainer
from training_data import CONFIGS
from transformers import AutoModel

from polyvid.train.loop.step_log import read_steps
from polyvid.train.loop.trainer import Stopped
from tiny import tiny_batch, tiny_model

pytestmark = pytest.mark.slow
WITHOUT_DROPOUT = {"pooler_dropout": 0.0, "freeze_below": 3}  # else processes draw numbers of their own
MICRO_BATCHES = WITHOUT_DROPOUT | {"micro_batch_size": 2}
WITHOUT_GRADIENT = "attention.k_proj.bias"  # of the pooling heads


def sharding_accelerator(mixed_precision: str = "no"):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    AcceleratorState._reset_state(True)  # of the run before, or of the process we were forked from
    accelerator = Accelerator(cpu=True, mixed_precision=mixed_precision, step_scheduler_with_optimizer=False)
    plugin = FullyShardedDataParallelPlugin()
    if mixed_precision != "no":
        plugin.set_mixed_precision(mixed_precision)
    accelerator.state.fsdp_plugin = plugin
    accelerator.state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    assert accelerator.is_fsdp2
    return accelerator


def runs_of_one_rank(rank: int, folder: Path, environment: dict[str, str], port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= environment | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def trainer(name: str, mixed_precision: str = "no", **options):
        made = tiny_trainer(folder / name, accelerator=sharding_accelerator(mixed_precision), epochs=2, **options)
        assert all(type(p).__name__ == "DTensor" for p in made.model.parameters())
        return made

    trainer("without dropout", **WITHOUT_DROPOUT).fit()
    trainer("micro batches", **MICRO_BATCHES).fit()
    trainer("bf16", "bf16", **WITHOUT_DROPOUT).fit()
    trainer("whole").fit()
    stopped = trainer("interrupted")
    stopped.processes.any = lambda flags: [stopped.progress.step == 4, False]
    with pytest.raises(Stopped):
        stopped.fit()
    if rank == 0:
        checkpoint = AutoModel.from_pretrained(stopped.checkpoints.to_resume())
        torch.save(checkpoint.state_dict(), folder / "checkpoint.pt")
    trainer("interrupted").fit()
    spoiled = trainer("spoiled", **WITHOUT_DROPOUT)
    spoil_loss(spoiled, {2, 3})
    spoiled.fit()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = environment_of(CONFIGS / "accelerate" / "fsdp2.yaml")
    mp.start_processes(runs_of_one_rank, (folder, environment, port), nprocs=2, start_method="fork")
    return folder


def terms(folder: Path) -> torch.Tensor:
    names = ("loss", "inter", "intra", "gradient_norm")
    return torch.tensor([[line[name] or torch.nan for name in names] for line in read_steps(folder / "steps.jsonl")])


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("without dropout", WITHOUT_DROPOUT, 1e-4),
        ("micro batches", MICRO_BATCHES, 1e-4),
        ("bf16", WITHOUT_DROPOUT, 0.1),
    ],
)
def test_losses_and_weights_are_those_of_one_process(folder, tmp_path, name, options, tolerance):
    tiny_trainer(tmp_path, epochs=2, **options).fit()
    torch.testing.assert_close(terms(folder / name), terms(tmp_path), rtol=tolerance, atol=tolerance)
    if tolerance < 0.01:
        expected = AutoModel.from_pretrained(tmp_path).state_dict()
        for key, value in AutoModel.from_pretrained(folder / name).state_dict().items():
            if not key.endswith(WITHOUT_GRADIENT):
                torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-5)


def test_key_biases_have_no_gradient_to_compare():
    """A key bias adds the same to all scores of a query, which the softmax then ignores: its gradient is zero.

    What is computed is rounding, 1e-9 where other gradients are above 1e-4 (1e-18 in float64). Adam divides by the size
    of it, so it moves these biases by up to the learning rate at each step, in directions that mean nothing.
    """
    model = tiny_model(**WITHOUT_DROPOUT)
    model(**tiny_batch(), return_loss=True).loss.backward()
    biases = {name: p for name, p in model.named_parameters() if name.endswith(WITHOUT_GRADIENT)}
    assert len(biases) == 4  # two layers in each head
    assert all(p.grad.abs().max() < 1e-7 for p in biases.values())
    others = [p.grad for name, p in model.named_parameters() if p.grad is not None and name not in biases]
    assert min(gradient.abs().max() for gradient in others) > 1e-5


def test_a_run_that_is_stopped_and_resumed_equals_one_that_is_not(folder):
    """With dropout. A checkpoint is whole, and any process can load it."""
    whole, interrupted = folder / "whole", folder / "interrupted"
    assert read_steps(interrupted / "steps.jsonl") == read_steps(whole / "steps.jsonl")
    expected = load_file(whole / "model.safetensors")
    actual = load_file(interrupted / "model.safetensors")
    assert set(actual) == set(expected) == set(torch.load(folder / "checkpoint.pt"))
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


def test_steps_that_are_not_finite_are_left_out(folder):
    plain, spoiled = terms(folder / "without dropout"), terms(folder / "spoiled")
    assert torch.isfinite(spoiled).all(1).tolist() == [True, False, False, True, True, True]
    assert torch.equal(spoiled[0], plain[0])
