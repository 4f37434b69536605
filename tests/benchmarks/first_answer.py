"""From video files to a first answer: `python tests/benchmarks/first_answer.py MODEL [--clips 100] [--seconds 10]`.

Clips of 480 x 360 at 30 frames a second are searched with one command, in an index that does not exist yet. Four times
are taken, by the clock and in CPU seconds:

- decoding: all clips, in as many processes as the search uses, with nobody waiting for the frames;
- network: windows that are in memory already, as many as the clips have;
- loading: the same command for one clip of a second, so process start, imports, model, index and answer;
- whole: the command for all clips.

Decoding and network run side by side in the search, so the whole should take little more than the longer of the two,
plus loading. Both share the cores, so it cannot be less than half of what they take together on two cores. Other work
on the machine moves the clock: the first ratio is worth reading where the machine is quiet, the second always.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

QUERY = "kipande cha pizza"
DIFFERENT = 5  # clips that are encoded; the others are copies, which take as long to decode

Times = tuple[float, float]
"""Seconds by the clock, and CPU seconds of this process and of its children."""


def now() -> Times:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.perf_counter(), sum(usage.ru_utime + usage.ru_stime for usage in usages)


def since(start: Times) -> Times:
    clock, cpu = now()
    return clock - start[0], cpu - start[1]


def search(model: str, videos: Path, cache: Path, workers: int) -> Times:
    """The command as a user gives it, its process included."""
    command = [sys.executable, "-m", "polyvid", "search", str(videos), QUERY, "--model", model]
    start = now()
    subprocess.run(
        [*command, "--workers", str(workers)],
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return since(start)


def parts(model: str, videos: Path, workers: int) -> dict[str, Times]:
    """Decoding alone and the network alone."""
    from polyvid.modeling.window_batches_mmp import encode_windows
    from polyvid.train.extraction.pool import decode_videos
    from polyvid.train.loading import load_model
    from polyvid.train.search.frames import load_encoders

    encoders = load_encoders(load_model(model)[0]).encoders
    views = [encoder.view for encoder in encoders]
    files = [(path.stem, path) for path in sorted(videos.iterdir())]
    windows = list(decode_videos(files[:1], views, workers))  # its last event ends the video
    start = now()
    for _ in decode_videos(files, views, workers):
        pass
    found = {"decoding": since(start)}
    repeated = (replace(event, video_id=name) for name, _ in files for event in windows)
    start = now()
    for _ in encode_windows(lambda views: repeated, encoders):
        pass
    return found | {"network": since(start)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="one that knows its networks, such as outputs/demo/mmp")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1, help="decoding processes; the search takes 1 on two cores")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    from extraction import make_video

    with tempfile.TemporaryDirectory() as folder:
        clips, one, cache = Path(folder, "clips"), Path(folder, "one"), Path(folder, "cache")
        clips.mkdir()
        one.mkdir()
        for number in range(options.clips):
            if number < DIFFERENT:
                make_video(clips / f"{number}.mp4", options.seconds, number)
            else:
                shutil.copyfile(clips / f"{number % DIFFERENT}.mp4", clips / f"{number}.mp4")
        make_video(one / "0.mp4", 1, 0)
        # The very first answer of a model also compares its text tower, once for all: that is not counted.
        search(options.model, one, cache, options.workers)
        shutil.rmtree(cache / "polyvid" / "indexes")
        times = parts(options.model, clips, options.workers)
        times["loading"] = search(options.model, one, cache, options.workers)
        times["whole"] = search(options.model, clips, cache, options.workers)
    print(f"{options.clips} clips of {options.seconds} s\n\n| | clock, s | CPU, s |\n|---|---:|---:|")
    for name, (clock, cpu) in times.items():
        print(f"| {name} | {clock:.1f} | {cpu:.1f} |")
    (decoding, decoding_cpu), (network, network_cpu), (loading, loading_cpu), (whole, whole_cpu) = times.values()
    ratio = whole / (max(decoding, network) + loading)
    print(f"\nwhole / (longer of decoding and network + loading), by the clock: {ratio:.2f}")
    ratio = whole_cpu / (decoding_cpu + network_cpu + loading_cpu)
    print(f"whole / (decoding + network + loading), in CPU seconds: {ratio:.2f}")


if __name__ == "__main__":
    main()
