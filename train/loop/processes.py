"""Lets the processes of a run exchange data, over the CPU so that nothing waits for an accelerator."""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import psutil
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType

from polyvid.modeling.errors_mmp import PolyvidError

PATIENCE = timedelta(days=30)
"""How long processes wait for work that one does for all, or that takes one longer than another, such as validation or
the features of videos. The defaults, half an hour over the CPU and ten minutes on GPUs, are for steps of training. A
process that ends is noticed at once in any case, because its connection closes.
"""


class Processes:
    """All processes of a run. Every process must make every call. With a single process, calls cost nothing."""

    def __init__(self) -> None:
        self.count = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        self.rank = dist.get_rank() if self.count > 1 else 0
        self.group = dist.new_group(backend="gloo") if self.count > 1 else None
        self.patient_group = dist.new_group(backend="gloo", timeout=PATIENCE) if self.count > 1 else None

    def wait(self) -> None:
        """Return once all processes are here, however long one of them takes."""
        if self.count > 1:
            dist.barrier(group=self.patient_group)

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag, whether it is true on any process."""
        if self.count == 1:
            return list(flags)
        tensor = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.group)
        return tensor.bool().tolist()

    def from_main(self, item: Any) -> Any:
        """The item passed by the main process, which may have worked long for it."""
        if self.count == 1:
            return item
        items = [item]
        dist.broadcast_object_list(items, src=0, group=self.patient_group)
        return items[0]

    def gather(self, item: Any) -> list[Any]:
        """The items of all processes, by rank."""
        if self.count == 1:
            return [item]
        items: list[Any] = [None] * self.count
        dist.all_gather_object(items, item, group=self.group)
        return items


def check_launch(num_processes: int) -> None:
    """Refuse a launch that got fewer processes than it asked for.

    `accelerate launch --cpu --num_processes 2` silently starts a single process. On a machine without an accelerator,
    `torchrun` starts two processes that do not communicate unless `ACCELERATE_USE_CPU=true`.

    Raises:
        PolyvidError: with a command that starts as many as asked for.
    """
    asked = max(int(os.environ.get("WORLD_SIZE", 1)), _asked_of_accelerate(psutil.Process().parent()))
    if asked > num_processes:
        raise PolyvidError(
            f"This launch asked for {asked} processes and got {num_processes}. On CPUs use: ACCELERATE_USE_CPU=true "
            f"torchrun --nproc_per_node {asked} train/train.py ... (accelerate launch --cpu starts only one)."
        )


def check_sharding(accelerator: Accelerator, frozen_states: bool) -> None:
    """Refuse ways of sharding a model that this trainer does not support.

    Args:
        accelerator: holds the configuration of this launch.
        frozen_states: whether the recipe caches the output of frozen layers on disk.

    Raises:
        PolyvidError: if the configuration is not supported; says what to change.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise PolyvidError(
            "DeepSpeed clips, steps and saves by itself, which does not go with exact resuming: shard the model by "
            "FSDP2 (accelerate launch --config_file train/configs/accelerate/fsdp2.yaml)."
        )
    if accelerator.distributed_type != DistributedType.FSDP:
        return
    if not accelerator.is_fsdp2:
        raise PolyvidError("This launch uses version 1 of FSDP: set fsdp_version: 2, as in fsdp2.yaml.")
    if accelerator.state.fsdp_plugin.cpu_ram_efficient_loading:
        raise PolyvidError("Each process reads complete checkpoints: set fsdp_cpu_ram_efficient_loading: false.")
    if frozen_states:
        raise PolyvidError("data.frozen_states needs the frozen layers whole on each process; FSDP shards them: null.")


def _asked_of_accelerate(launcher: psutil.Process | None) -> int:
    """`--num_processes` of the `accelerate launch` that started this process, 1 if none did."""
    try:
        words = launcher.cmdline() if launcher else []
    except psutil.Error:
        return 1
    # The launcher is the console script `accelerate launch` or the module `accelerate.commands.launch`.
    if not any("accelerate" in word for word in words):
        return 1
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, _, value = word.partition("=")
        value = value or following
        if name in ("--num_processes", "--num-processes") and value.isdigit():
            return int(value)
        if name.endswith("train.py"):
            break
    return 1
