"""What `polyvid plan` predicts for a run at 1 % of the paper's size, next to that run.

    python tests/benchmarks/plan.py --share 0.01 --stages build          # takes minutes
    python tests/benchmarks/plan.py --share 0.001 --stages build join

Subtitles are written in the release's format, in nine languages, for that share of the paper's videos; features are
random, as wide as the paper's. The rates are those of the package (train/planning/rates.yaml), so this compares a
machine with the one they were measured on: where CPU times differ by more than `--factor`, or sizes by more than a
fifth, it ends with an error. By CPU time, because other work may share the machine.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import synthetic_howto100m as synthetic

from polyvid.dataset_scripts.build import build
from polyvid.dataset_scripts.join import join
from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.train.planning.stages import changed, load_quantities, plan

POOL = 1000
SIZE_FACTOR = 1.2


def write_subtitles(folder: Path, videos: int, seconds: float) -> tuple[int, int]:
    """The release's files, `POOL` different videos over and over. Returns subtitles, and bytes of the files."""
    count = size = 0
    folder.mkdir(parents=True)
    for language in LANGUAGES:
        pool = [synthetic.subtitles(language, number, seconds) for number in range(min(POOL, videos))]
        lines = [json.dumps(subtitles) for subtitles in pool]
        path = folder / f"how2_{language}.json"
        with open(path, "w", encoding="utf-8") as file:
            for number in range(videos):
                file.write(f'{"{" if number == 0 else ", "}"{synthetic.video_id(number)}": {lines[number % POOL]}')
                count += len(pool[number % POOL]["text"])
            file.write("}")
        size += path.stat().st_size
    return count, size


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.parquet"))


@contextmanager
def timed(name: str, cpu_hours: dict[str, float], clock: dict[str, float]) -> Iterator[None]:
    started, spent = time.perf_counter(), time.process_time()
    yield
    cpu_hours[name], clock[name] = (time.process_time() - spent) / 3600, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.01, help="Of the paper's videos.")
    parser.add_argument("--stages", nargs="+", default=["build"], choices=["build", "join"])
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmark-plan"), help="Must not exist.")
    parser.add_argument("--factor", type=float, default=2.0, help="How far a time may be off.")
    options = parser.parse_args()
    quantities = load_quantities("gpu")
    videos, seconds = round(options.share * quantities["videos"].value), quantities["video_seconds"].value
    subtitles, json_bytes = write_subtitles(options.folder / "raw", videos, seconds)
    features = sum(synthetic.duration(number, seconds) for number in range(videos))
    sizes = {
        "videos": videos,
        "video_seconds": features / videos,
        "all_subtitles": subtitles,
        "subtitle_bytes": json_bytes / subtitles,
    }
    stages = plan(changed(quantities, [f"{name}={value}" for name, value in sizes.items()]), {"devices": 1, "cores": 1})
    predicted = {estimate.line.name: estimate.value for lines in stages.values() for estimate in lines}

    measured, clock = {}, {}
    with timed("build_hours", measured, clock):
        build("multi_howto100m", ["all"], data_dir=options.folder / "raw", output_dir=options.folder / "built")
    measured["build_disk"] = size(options.folder / "built")
    if "join" in options.stages:
        shape = {"dim": int(quantities["feature_dim"].value), "mean_seconds": seconds}
        synthetic.write_features(options.folder / "features", range(videos), 4, **shape)
        measured["features_disk"] = size(options.folder / "features")
        with timed("join_hours", measured, clock):
            join(options.folder / "built" / "all", options.folder / "features", options.folder / "joined")
        measured["join_disk"] = size(options.folder / "joined")

    print(f"{videos:,} videos, {subtitles:,} subtitles, {json_bytes / 1e6:,.0f} MB of JSON\n")
    print("| | predicted | measured | measured / predicted | by the clock |\n|---|---:|---:|---:|---:|")
    wrong = []
    for name, value in measured.items():
        ratio, is_time = value / predicted[name], name in clock
        unit, scale = ("CPU s", 3600) if is_time else ("MB", 1e-6)
        wall = f"{clock[name]:.1f} s" if is_time else ""
        print(
            f"| {name} | {predicted[name] * scale:,.1f} {unit} | {value * scale:,.1f} {unit} | {ratio:.2f} | {wall} |"
        )
        limit = options.factor if is_time else SIZE_FACTOR
        wrong += [name] if not 1 / limit < ratio < limit else []
    if wrong:
        raise SystemExit(f"error: the plan is wrong about {', '.join(wrong)}")


if __name__ == "__main__":
    main()
