"""Multi-HowTo100M at size: ingestion, two languages at once, clip sampling. Prints ratios measured in one run.

    python tests/benchmarks/howto100m.py --gigabytes 1 --folder /tmp/howto100m

Every figure is taken in a fresh process (peak memory is its maximum resident set); files are in the page cache.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import synthetic_howto100m as synthetic

from polyvid.dataset_scripts.build import build
from polyvid.dataset_scripts.features import features_from_row
from polyvid.dataset_scripts.join import join
from polyvid.dataset_scripts.multi_howto100m.subtitle_json import SUBTITLES
from polyvid.dataset_scripts.schema import LANGUAGES

PARTS = ["ingestion", "languages", "sampling"]
MEAN_SECONDS = 390  # HowTo100M: 6.5 minutes a video


def generate(folder: Path, size: float) -> None:
    """Two languages of `size` bytes in the release's format: 500 different videos over and over under new ids."""
    for language in ("de", "fr"):  # alike, so that neither process waits long for the other
        path = folder / f"how2_{language}.json"
        if path.exists() and path.stat().st_size > size:
            continue
        pool = [json.dumps(synthetic.subtitles(language, number, MEAN_SECONDS)) for number in range(500)]
        with open(path, "w", encoding="utf-8") as file:
            for number, video in enumerate(itertools.cycle(pool)):
                file.write(f'{"{" if number == 0 else ", "}"{synthetic.video_id(number)}": {video}')
                if file.tell() > size:
                    break
            file.write("}")


def convert_naively(raw: Path, output: Path) -> None:
    """What one writes without a library: everything in memory, then Parquet."""
    videos = json.loads(raw.read_bytes())
    columns = {"video_id": list(videos)} | {
        name: [video[name] for video in videos.values()] for name in ("text", "start", "end")
    }
    pq.write_table(pa.table(columns, schema=SUBTITLES), output, compression="zstd")


def convert(raw: Path, output: Path, *languages: str, num_proc: int = 1) -> None:
    build("multi_howto100m", list(languages), data_dir=raw, output_dir=output, num_proc=num_proc)


def read_clips(folder: Path) -> int:
    from polyvid.train.data.clips import ClipDataset, ClipSampler  # here, so that ingestion is measured without torch

    return sum(1 for _ in ClipDataset(sorted(folder.glob("*.parquet")), ClipSampler()))


def read_clips_naively(folder: Path) -> int:
    """The same rows as Python objects, by datasets, features cut by index."""
    from datasets import load_dataset

    rng, count = np.random.default_rng(0), 0
    files = sorted(map(str, folder.glob("*.parquet")))
    for row in load_dataset("parquet", data_files=files, split="train", streaming=True):
        features = features_from_row(row)
        start = rng.integers(len(features))
        language = rng.choice([name for name in LANGUAGES if row[name]["text"]])
        subtitles = row[language]
        near = [t for t, s in zip(subtitles["text"], subtitles["start"], strict=True) if start <= s < start + 128]
        count += len(features[start : start + 128]) > 0 and bool(near or subtitles["text"])
    return count


def measure(function, *args, warm_up: bool = False, **kwargs) -> tuple[float, float, float, object]:
    """Seconds, CPU seconds, peak MB and result of a call in a process of its own (`warm_up`: of its second call)."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, function, args, kwargs, warm_up).result()


def _measured(function, args, kwargs, warm_up) -> tuple[float, float, float, object]:
    sys.stdout = open(os.devnull, "w")
    if warm_up:
        function(*args, **kwargs)
    start, cpu_start = time.perf_counter(), time.process_time()
    result = function(*args, **kwargs)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return seconds, cpu_seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, result


def ingestion(folder: Path, size: float) -> None:
    raw, output, naive = folder / "raw", folder / "parquet", folder / "naive.parquet"
    generate(raw, size)
    megabytes = (raw / "how2_de.json").stat().st_size / 1e6
    print(f"## Ingestion of {megabytes:.0f} MB (how2_de.json -> Parquet, one process)")
    found = {}
    for name in ("json.load + pyarrow", "polyvid build"):
        call = (
            (convert, raw, output, "de") if name == "polyvid build" else (convert_naively, raw / "how2_de.json", naive)
        )
        seconds, cpu_seconds, peak, _ = found[name] = measure(*call)
        print(
            f"{name:20s} {megabytes / seconds:6.1f} MB/s {megabytes / cpu_seconds:6.1f} MB per CPU second "
            f" peak {peak:6.0f} MB"
        )
    naively, ours = found.values()
    print(
        f"-> {naively[0] / ours[0]:.2f}x as fast, {naively[1] / ours[1]:.2f}x by CPU time, with "
        f"{ours[2] / naively[2]:.3f}x the memory"
    )
    shutil.rmtree(output)


def two_languages(folder: Path, size: float) -> None:
    raw, output = folder / "raw", folder / "parquet"
    generate(raw, size)
    serial, *_ = measure(convert, raw, output, "de", "fr")
    shutil.rmtree(output)
    parallel, *_ = measure(convert, raw, output, "de", "fr", num_proc=2)
    shutil.rmtree(output)
    print(f"## Two languages\none process {serial:.1f} s, two processes {parallel:.1f} s -> {serial / parallel:.2f}x")


def sampling(folder: Path, num_videos: int, mean_seconds: float) -> None:
    work = folder / f"clips-{mean_seconds:.0f}"
    if not (work / "joined").exists():
        synthetic.write_release(work / "raw", num_videos, mean_seconds=mean_seconds)
        build("multi_howto100m", ["all"], data_dir=work / "raw", output_dir=work / "parquet", num_shards=4)
        synthetic.write_features(work / "features", range(num_videos), 4, dim=1024, mean_seconds=mean_seconds)
        join(work / "parquet" / "all", work / "features", work / "joined")
    naive, naive_cpu, _, naive_clips = measure(read_clips_naively, work / "joined", warm_up=True)
    ours, cpu, peak, clips = measure(read_clips, work / "joined", warm_up=True)
    print(f"## Clips of [seconds, 1024] from {num_videos} videos of {mean_seconds:.0f} s on average, one worker")
    rates = ((naive_clips / naive, naive_clips / naive_cpu), (clips / ours, clips / cpu))
    for name, (rate, cpu_rate) in zip(("datasets, rows as Python objects", "ClipDataset"), rates, strict=True):
        print(f"{name:32s} {rate:7.0f} clips/s {cpu_rate:7.0f} per CPU second")
    print(f"-> {naive / ours:.1f}x (CPU time {naive_cpu / cpu:.1f}x), peak {peak:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmark-howto100m"))
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    arguments = parser.parse_args()
    (arguments.folder / "raw").mkdir(parents=True, exist_ok=True)
    if "ingestion" in arguments.parts:
        ingestion(arguments.folder, arguments.gigabytes * 1e9)
    if "languages" in arguments.parts:
        two_languages(arguments.folder, arguments.gigabytes * 1e9)
    if "sampling" in arguments.parts:
        sampling(arguments.folder, arguments.videos, 60)
        sampling(arguments.folder, arguments.videos, MEAN_SECONDS)


if __name__ == "__main__":
    main()
