"""The processes of a run wait for work that one of them does, however long it takes."""

import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from polyvid.train.loop.processes import Processes

LIMIT = 8.0  # seconds that the default group waits: long enough to meet on a busy machine


def late_at_everything(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=LIMIT),
    )
    processes = Processes()
    found = []
    if rank == 1:
        time.sleep(1.5 * LIMIT)  # more videos to extract than the other
    processes.wait()
    if rank == 0:
        time.sleep(1.5 * LIMIT)  # validates, or computes statistics
    found.append(processes.from_main("scores" if rank == 0 else None))
    if rank == 0:
        try:
            dist.barrier()  # what `Accelerator.wait_for_everyone` calls
        except RuntimeError as error:
            found.append(str(error))
    processes.wait()
    torch.save(found, f"{folder}/rank{rank}.pt")


@pytest.mark.slow
def test_they_wait_longer_than_the_group_of_the_steps(tmp_path):
    mp.start_processes(late_at_everything, (tmp_path,), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert first[0] == second[0] == "scores"
    assert "Timed out" in first[1] or "timeout" in first[1].lower(), (
        "the limit was not reached: this test shows nothing"
    )


def test_a_single_process_waits_for_nobody():
    processes = Processes()
    processes.wait()
    assert (processes.rank, processes.count, processes.from_main("scores")) == (0, 1, "scores")
