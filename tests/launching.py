"""`train.py` in real processes, which can be killed. They are forked from a server that has imported everything."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from polyvid.train.cli import COMMANDS

CONTEXT = multiprocessing.get_context("forkserver")
COMMANDS_LOADED = ["build", "extract", "import-features", "index", "join", "regions", "translate", "evaluate", "push"]
COMMANDS_LOADED += ["search", "fetch"]
CONTEXT.set_forkserver_preload(
    ["polyvid.train.loop.dry_run", "polyvid.train.loop.setup", "polyvid.dataset_scripts.msrvtt.msrvtt"]
    + ["polyvid.dataset_scripts.multi_howto100m.multi_howto100m", "polyvid.train.scoring.measure"]
    + [COMMANDS[name].function.partition(":")[0] for name in COMMANDS_LOADED]
)


class Launch:
    """`torchrun --nproc_per_node <processes> train/train.py --config <config> <overrides>` on CPUs."""

    def __init__(self, config: Path, overrides: list[str], log: Path, processes: int = 1):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = (processes, port, config, overrides, log)
        self.log = log
        self.ranks = [CONTEXT.Process(target=_run, args=(rank, *arguments)) for rank in range(processes)]
        for rank in self.ranks:
            rank.start()

    def wait(self, seconds: float = 600) -> list[int | None]:
        """Exit codes; a process that is not done by then is killed, and None."""
        end = time.monotonic() + seconds
        for rank in self.ranks:
            rank.join(max(0.0, end - time.monotonic()))
        codes = [rank.exitcode for rank in self.ranks]
        self.signal(signal.SIGKILL)
        return codes

    def wait_until(self, condition: Callable[[], bool], seconds: float = 600) -> None:
        end = time.monotonic() + seconds
        while not condition():
            alive = all(rank.is_alive() for rank in self.ranks)
            if not alive or time.monotonic() > end:
                self.signal(signal.SIGKILL)
                raise AssertionError(f"it {'took too long' if alive else 'ended'}: {self.said()[-2000:]}")
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        for rank in self.ranks:
            if rank.is_alive():
                os.kill(rank.pid, number)

    def said(self) -> str:
        return "".join(path.read_text() for path in sorted(self.log.parent.glob(f"{self.log.name}.*")))


def environment_of(config: Path) -> dict[str, str]:
    """What `accelerate launch --config_file` tells its processes."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

    arguments = launch_command_parser().parse_args(["--config_file", str(config), "train.py"])
    arguments, *_ = _validate_launch_command(arguments)
    several = (arguments.num_processes or 1) > 1
    everything = prepare_multi_gpu_env(arguments) if several else prepare_simple_launcher_cmd_env(arguments)[1]
    return {name: value for name, value in everything.items() if name.startswith(("ACCELERATE_", "FSDP_"))}


def _run(rank: int, processes: int, port: int, config: Path, overrides: list[str], log: Path) -> None:
    sys.stdout = sys.stderr = open(f"{log}.{rank}", "a", buffering=1)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    if processes > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        os.environ |= {name: str(value) for name, value in names.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from polyvid.train.cli import main

    main(["train", "--config", str(config), *overrides])
