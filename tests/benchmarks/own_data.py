"""From captioned clips of one's own to a model and its scores: `python tests/benchmarks/own_data.py MODEL`.

The clips are those of the embedded benchmark that the demo's models have not been trained on, with German and Swahili
names in a `metadata.csv`: 240 for training and 60 for validation, 270 for tests. The commands of the guide are run one
after another in an empty folder, and timed by the clock and in CPU seconds; what `polyvid evaluate` prints comes last.
"""

import argparse
import csv
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

EMOJI = Path(__file__).parents[2] / "dataset_scripts" / "fluent_emoji_9"
COUNTS = {"train": 240, "validation": 60, "test": 270}
LANGUAGES = ("de", "sw")


def write_folder(folder: Path, seed: int) -> None:
    """Clips, and `metadata.csv` with the split of each, drawn by the seed."""
    with open(EMOJI / "splits.csv", encoding="utf-8", newline="") as file:
        unseen = [row["video_id"] for row in csv.DictReader(file) if row["split_0"] in ("validation", "test")]
    names: dict[str, dict[str, str]] = {name: {} for name in unseen}
    for row in pq.read_table(EMOJI / "captions.parquet").to_pylist():
        if row["video_id"] in names and row["language"] in LANGUAGES:
            names[row["video_id"]][row["language"]] = row["name"]
    complete = sorted(name for name, captions in names.items() if len(captions) == len(LANGUAGES))
    random.Random(seed).shuffle(complete)
    (folder / "clips").mkdir(parents=True)
    with open(folder / "metadata.csv", "w", encoding="utf-8", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["file_name", *LANGUAGES, "split"])
        for split, count in COUNTS.items():
            for name in [complete.pop() for _ in range(count)]:
                shutil.copy(EMOJI / "clips" / f"{name}.mp4", folder / "clips")
                writer.writerow([f"clips/{name}.mp4", *(names[name][language] for language in LANGUAGES), split])


def timed(command: list[str], folder: Path) -> tuple[float, float, str]:
    """Seconds by the clock, CPU seconds, and what was printed."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "polyvid", *command], cwd=folder, capture_output=True, text=True)
    clock, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"error: polyvid {' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="to start from, such as outputs/demo/mmp")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="A new folder for what is made. Default: none is kept.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        write_folder(folder / "my_folder", options.seed)
        recipe = ["data.dataset=my_folder", f"model.init_from={options.model.resolve()}"]
        recipe += ["output_dir=outputs/clips", "name=clips"]
        commands = {
            "check": ["check", "my_folder", "--model", str(options.model.resolve())],
            "train": ["train", "--config", "own", *recipe],
            "evaluate": ["evaluate", "--model", "outputs/clips", "--closed-forms"],
            "evaluate the start": ["evaluate", "--model", str(options.model.resolve()), "--benchmark", "my_folder"],
        }
        print(f"{os.cpu_count()} cores, {sum(COUNTS.values())} clips\n\n| | clock, s | CPU, s |\n|---|---:|---:|")
        said = ""
        for name, command in commands.items():
            clock, cpu, shown = timed(command, folder)
            said += shown if name.startswith("evaluate") else ""
            print(f"| {name} | {clock:.0f} | {cpu:.0f} |", flush=True)
        print(f"\n{said}")


if __name__ == "__main__":
    main()
