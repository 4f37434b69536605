"""Every command that writes, on the smallest inputs, as real processes: to be killed, raced, and starved of space.

A process is forked from a server that has imported everything, so a start takes a tenth of a second. A command writes
to the folder `out` of a case, or to a file in it; the path of a case is part of what some commands write, so a case
that is compared with another one has the same path. `contents` is what a run has left there, but for locks and the time
of day. A push writes to no folder: it reads `out`, holds its lock, and fills a repository of a server.
"""

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import official_keys
import torch
import yaml
from benchmark_files import write_test_pairs
from hub_server import HubServer
from launching import CONTEXT
from matplotlib.image import imsave
from published import write_model
from results_files import results_file
from training_data import CONFIGS, VIDEO_DIM, overrides, write_everything
from transformers import BartConfig, BartForConditionalGeneration
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil
from video_files import write_video
from video_models import save_models

from polyvid.dataset_scripts.build import build
from polyvid.modeling.configuration_r2plus1d import R2Plus1DConfig
from polyvid.modeling.modeling_r2plus1d import PREPROCESSING, R2Plus1DModel
from polyvid.train.scoring.evaluation import TEXT_TO_VIDEO, Ranks
from polyvid.train.scoring.results import write_ranks
from tiny import tiny_model, tiny_processor

LOCKED = r"is being written by `polyvid [\w-]+` \(process \d+ on \S+, since [^)]+\): wait until that run has ended, or "
DONE = "exists and is not empty"
"""How `convert-backbone`, which never replaces a folder, says that its work was done before."""
BUILT = ("statistics", "push dataset")  # what they read is in `out`, where `polyvid build` has written it
TOKEN = "hf_alice" + "a" * 30
TIMES = re.compile(rb'"date": "[^"]*"')


def write_inputs(folder: Path) -> Path:
    """All that the commands read."""
    write_everything(folder)
    tiny_model(video_feature_dim=VIDEO_DIM).save_pretrained(folder / "model")
    tiny_processor(feature_size=VIDEO_DIM).save_pretrained(folder / "model")
    (folder / "arrays").mkdir()
    for number in range(8):
        np.save(folder / "arrays" / f"video{number}.npy", np.full((3, VIDEO_DIM), number, np.float32))
    (folder / "images").mkdir()
    for number in range(3):
        np.save(folder / "images" / f"image{number}.npy", np.full((2, 2048), number, np.float32))
    (folder / "videos").mkdir()
    for number in range(6):
        write_video(folder / "videos" / f"video{number}.mp4", 20 + 30 * (number % 3))
    (folder / "videos" / "broken.mp4").write_text("not a video")
    torch.manual_seed(0)
    R2Plus1DModel(R2Plus1DConfig(depths=(1, 1, 1, 1), hidden_sizes=(4, 8, 8, 16))).save_pretrained(folder / "network")
    VideoMAEImageProcessorPil(**PREPROCESSING).save_pretrained(folder / "network")
    (folder / "pairs").mkdir()
    write_test_pairs(folder / "pairs", list(range(1000)))
    write_translator(folder / "translator")
    build("multi_howto100m", ["de", "fr"], data_dir=folder / "raw", output_dir=folder / "built", num_shards=2)
    write_model(folder / "trained", counted=False)
    checkpoint = official_keys.random_checkpoint(official_keys.s3d_howto100m())
    torch.save({key: value for key, value in checkpoint.items() if "text_" not in key}, folder / "s3d_howto100m.pth")
    (folder / "clips").mkdir()
    for number in (9, 11):  # those of the benchmark's test list
        imsave(folder / "clips" / f"video{number}.png", np.full((8, 8, 3), number, np.uint8))
    grid = {"base": str(CONFIGS / "vtt_en.yaml"), "output": "results", "runs": {"paper": {}}, "tables": {}}
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))
    write_results(folder / "results")
    (folder / "evaluated").mkdir()
    ranks = Ranks(np.arange(1, 9), np.ones(8, bool), np.arange(8).astype(str))
    write_ranks(folder / "evaluated" / "ranks.npz", {TEXT_TO_VIDEO: {"en": ranks}})
    save_models(folder / "searching")
    for name in ("animals/cat", "animals/dog", "food/apple"):
        stamp = folder / "stamps" / f"{name}.txt"
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(f"A stamp, {name}.\nde.utf8=Ein Stempel, {name}.\n")
        imsave(stamp.with_suffix(".png"), np.tril(np.full((8, 8), len(name))))
    write_own_data(folder / "own")
    return folder


def write_results(folder: Path) -> None:
    """Those of the run that is in the grid: nothing is left to train."""
    recalls = {language: {"R@1": 20.0, "R@5": 40.0, "R@10": 50.0} for language in ("en", "de", "fr")}
    path = folder / "paper" / "seed_0" / "results.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(results_file("paper", "msrvtt", "1k-A", recalls)))


def write_own_data(folder: Path) -> None:
    """Videos with captions in a table, as users have them."""
    folder.mkdir()
    splits = enumerate(("train", "validation", "test"))
    rows = [f"clip{number}.mp4,dog number {number},en,{split}" for number, split in splits]
    (folder / "metadata.csv").write_text("\n".join(["file_name,caption,language,split", *rows, ""]))
    for number in range(3):
        write_video(folder / f"clip{number}.mp4", 20 + number)


def write_translator(folder: Path) -> None:
    tokenizer = tiny_processor().tokenizer
    tokenizer.model_max_length = 16
    tokenizer.save_pretrained(folder)
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("ffn_dim", 16))}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "d_model": 16, "vocab_size": 64}
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    torch.manual_seed(0)
    config = BartConfig(**sizes, **heads, **ids, forced_eos_token_id=2, max_position_embeddings=16)
    BartForConditionalGeneration(config).save_pretrained(folder)


def command(name: str, inputs: Path, out: Path) -> list[str]:
    """The arguments of `polyvid` that make it write to `out`."""
    train = overrides(inputs, "vtt_en", out, training__epochs=1)
    evaluate: list[str | Path] = ["--features", inputs / "msrvtt_features", "--data-dir", inputs / "msrvtt"]
    evaluate.append("--no-check-counts")
    arguments: dict[str, list[str | Path]] = {
        "build": ["multi_howto100m", "de", "fr", "--data-dir", inputs / "raw", "--output-dir", out]
        + ["--num-shards", "2"],
        "statistics": [out, "--tokenizer", inputs / "backbone"],
        "translate": ["vtt", "--to", "de", "--data-dir", inputs / "pairs", "--output-dir", out, "--split", "test"]
        + ["--model", inputs / "translator", "--batch-size", "250", "--num-beams", "1"],
        "regions": [inputs / "images", out],
        "extract": [inputs / "videos", out, "--encoder", inputs / "network", "--num-shards", "2", "--workers", "0"],
        "import-features": [out, inputs / "arrays", "--num-shards", "2", "--width", str(VIDEO_DIM)],
        "join": [inputs / "all", inputs / "clip_features", out],
        "train": ["--config", CONFIGS / "vtt_en.yaml", *train],
        "evaluate": ["--model", inputs / "model", "--benchmark", "vtt", *evaluate, "--output", out],
        "index": [inputs / "clip_features", out / "videos.safetensors", "--model", inputs / "model"],
        "coverage": ["vtt", "--data-dir", inputs / "pairs", "--features", inputs / "msrvtt_features", "--split", "test"]
        + ["--output", out / "coverage.json"],
        "convert-backbone": [inputs / "s3d_howto100m.pth", out],
        "tables": [inputs / "results", "--output", out / "tables.md"],
        "contact-sheet": ["video9", "--model", inputs / "model", "--clips", inputs / "clips", "--output", out]
        + ["--benchmark", "vtt", *evaluate],
        "ablate": [inputs / "grid.yaml", "--output", out],
        "search": [inputs / "videos", "the dog", "--index", out / "searched.safetensors", "--workers", "0"]
        + ["--model", inputs / "searching" / "model", "--encoder", inputs / "searching" / "network"],
        "fetch": ["tux8", "--package", inputs / "stamps", "--output-dir", out, "--workers", "1"],
        "check": [inputs / "own", "--model", inputs / "model"],
        "plan": [],
        "verify": [out],
        "compare": [inputs / "evaluated"] * 2,
        "push dataset": [out, "--repo-id", "alice/data"],
        "push model": [out, "--repo-id", "alice/model"],
    }
    return [*name.split(), *map(str, arguments[name])]


WRITING = ("build", "statistics", "translate", "regions", "extract", "import-features", "join", "train", "evaluate")
WRITING += ("index", "coverage", "convert-backbone", "tables", "contact-sheet", "ablate", "search", "fetch")
READING = ("check", "plan", "verify", "compare")
PUSHES = ("push dataset", "push model")


def prepare(names: Iterable[str], inputs: Path, out: Path) -> None:
    """A new folder of a case, with what the commands read or add to."""
    shutil.rmtree(out.parent, ignore_errors=True)
    out.parent.mkdir(parents=True)
    if any(name in BUILT for name in names):
        shutil.copytree(inputs / "built", out)
    if "push model" in names:
        shutil.copytree(inputs / "trained", out, dirs_exist_ok=True)
    if "ablate" in names:
        write_results(out)


def use_hub(hub: HubServer, home: Path) -> Callable[[], None]:
    """A change for `Started`, by which alice's pushes go to this server, in place of the Hub."""
    hub.add_user("alice", TOKEN)
    return partial(_use_hub, hub.endpoint, str(home))


def _use_hub(endpoint: str, home: str) -> None:
    """As the environment would, had it been set before huggingface_hub was imported."""
    from huggingface_hub import constants

    constants.ENDPOINT, constants.HF_HUB_DISABLE_XET = endpoint, True
    constants.HF_HOME, constants.HF_TOKEN_PATH = home, os.path.join(home, "token")
    os.environ["HF_TOKEN"] = TOKEN


class Started:
    """`polyvid ARGUMENTS` in a process of its own; `changes` are called in it first."""

    def __init__(self, arguments: list[str], log: Path, *changes: Callable[[], None]):
        self.log, self.began = log, time.monotonic()
        log.unlink(missing_ok=True)
        self.process = CONTEXT.Process(target=_run, args=(arguments, log, changes))
        self.process.start()

    def wait_for_start(self, seconds: float = 300) -> None:
        """Until the command, with everything imported, begins; `began` is that moment."""
        end = time.monotonic() + seconds
        while not self.log.exists() and self.process.is_alive() and time.monotonic() < end:
            time.sleep(0.001)
        self.began = time.monotonic()

    def kill(self) -> bool:
        """Whether it was still alive."""
        alive = self.process.is_alive()
        if alive:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        return alive

    def wait(self, seconds: float = 300) -> int | None:
        """The exit code; None, and it is killed, if it takes longer."""
        self.process.join(seconds)
        code = self.process.exitcode
        self.kill()
        return code

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def last_line(self) -> str:
        lines = self.said().strip().splitlines()
        return lines[-1] if lines else ""


def _run(arguments: list[str], log: Path, changes: Iterable[Callable[[], None]]) -> None:
    from polyvid.train.cli import main

    os.environ["ACCELERATE_USE_CPU"] = "true"
    os.environ["XDG_CACHE_HOME"] = str(log.with_name("cache"))  # where `search` notes what it compared
    for change in changes:
        change()
    sys.stdout = sys.stderr = open(log, "w", buffering=1, encoding="utf-8")
    main(arguments)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, by its path; empty folders end with a slash."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            if not any(path.iterdir()):
                found[f"{name}/"] = b""
        elif path.suffix != ".lock" and name != "out/.extraction/lock":
            content = TIMES.sub(b"", path.read_bytes())
            if path.name == "SHA256SUMS":  # that of a file which holds the date
                content = b"".join(line for line in content.splitlines(True) if b"trainer_state.json" not in line)
            found[name] = content
    return found


def difference(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """What is missing, too much, or another file than expected; for a JSON file, in which fields."""
    names = [name for name in sorted(found | expected) if found.get(name) != expected.get(name)]
    return [f"{'+' if name not in expected else '-' if name not in found else '≠'} {name}" for name in names]
