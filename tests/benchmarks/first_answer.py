"""From video files to a first answer: `python tests/benchmarks/first_answer.py MODEL [--clips 100] [--seconds 10]`.

The clips are generated, 480 x 360 at 30 a second. Measured by the clock and in CPU seconds, each part in a process of
its own: decoding alone, in one worker as the search does on two cores; the network alone, on windows that are there
already; loading, which is the whole command for one clip of a second, imports and answer included; and the whole
command for all clips. The ratio is that of the whole to the longer of the first two plus loading. Other work on the
machine moves the clock: the ratio is worth reading where the clock and the CPU agree.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

SETUP = """
import sys
from pathlib import Path
from polyvid.train.loading import load_model
from polyvid.train.search.frames import load_encoders
from polyvid.train.extraction.pool import decode_videos
from polyvid.modeling.video_reading_mmp import Window
from polyvid.modeling.window_batches_mmp import encode_windows
encoders = load_encoders(load_model(sys.argv[1])[0]).encoders
files = [(path.stem, path) for path in sorted(Path(sys.argv[2]).iterdir())]
views = [encoder.view for encoder in encoders]
"""
DECODE = SETUP + "for event in decode_videos(files, views, 1): pass"
NETWORK = (
    SETUP
    + """
from dataclasses import replace
events = list(decode_videos(files[:1], views, 1))
decode = lambda views: (replace(event, video_id=name) for name, _ in files for event in events)
for _ in encode_windows(decode, encoders): pass
"""
)


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds by the clock, and CPU seconds, of a process and its children."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *command], env=environment, check=True, capture_output=True)
    clock, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="one that knows its networks, such as outputs/demo/mmp")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=10)
    options = parser.parse_args()
    from extraction import make_video

    with tempfile.TemporaryDirectory() as folder:
        clips, one = Path(folder, "clips"), Path(folder, "one")
        clips.mkdir()
        one.mkdir()
        for number in range(options.clips):
            make_video(clips / f"{number}.mp4", options.seconds, number)
        make_video(one / "0.mp4", 1, 0)

        def search(videos: Path) -> tuple[float, float]:
            environment = os.environ | {"XDG_CACHE_HOME": str(Path(folder, "cache"))}
            command = ["-m", "polyvid", "search", str(videos), "kipande cha pizza", "--model", options.model]
            return timed([*command, "--workers", "1"], environment)

        # Twice: the first answer of a model compares its text tower, once for all.
        search(one)
        for index in Path(folder, "cache", "polyvid", "indexes").iterdir():
            index.unlink()
        loading = search(one)
        start = timed(["-c", SETUP, options.model, str(one)], dict(os.environ))
        parts = {
            "decoding": timed(["-c", DECODE, options.model, str(clips)], dict(os.environ)),
            "network": timed(["-c", NETWORK, options.model, str(clips)], dict(os.environ)),
        }
        parts = {name: (clock - start[0], cpu - start[1]) for name, (clock, cpu) in parts.items()}
        whole = search(clips)
    print(f"{options.clips} clips of {options.seconds} s\n\n| | clock | CPU seconds |\n|---|---:|---:|")
    for name, (clock, cpu) in (parts | {"loading": loading, "whole": whole}).items():
        print(f"| {name} | {clock:.1f} | {cpu:.1f} |")
    expected = max(clock for clock, _ in parts.values()) + loading[0]
    print(f"\nwhole / (longer of decoding and network + loading): {whole[0] / expected:.2f} by the clock")
    cpu_expected = sum(cpu for _, cpu in parts.values()) + loading[1]
    print(f"whole / (decoding + network + loading): {whole[1] / cpu_expected:.2f} in CPU seconds")


if __name__ == "__main__":
    main()
