"""A search in a warm index, process start included: `python tests/benchmarks/second_query.py MODEL VIDEOS`.

Each way runs in processes of its own, in turn, and counts CPU seconds: other work may share the machine. The first
search, which is not counted, makes the index and compares the text tower.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

QUERY = "kipande cha pizza"


def seconds_of(command: list[str], environment: dict[str, str]) -> float:
    """CPU seconds of a process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("videos")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"XDG_CACHE_HOME": cache, "OMP_NUM_THREADS": "1"}
        search = ["-m", "polyvid", "search", options.videos, QUERY]
        seconds_of([*search, "--model", options.model], environment)

        def with_transformers() -> float:
            shutil.rmtree(Path(cache, "polyvid", "text_towers"), ignore_errors=True)
            return seconds_of(search, environment)

        ways = {
            "`import torch` alone": lambda: seconds_of(["-c", "import torch"], environment),
            "`from transformers import PreTrainedModel` alone": lambda: seconds_of(
                ["-c", "from transformers import PreTrainedModel"], environment
            ),
            "search with transformers, which compares the text tower": with_transformers,
            "search": lambda: seconds_of(search, environment),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.repeats):
            for way, run in ways.items():
                times[way].append(run())
    baseline = statistics.median(times["search"])
    print("| | CPU seconds | ratio |\n|---|---:|---:|")
    for way, taken in times.items():
        print(f"| {way} | {statistics.median(taken):.2f} | {statistics.median(taken) / baseline:.2f} |")


if __name__ == "__main__":
    main()
