"""Moments of known place: `python tests/benchmarks/moments.py outputs/demo/mmp outputs/demo/features`.

The test clips of Fluent-Emoji-9 are strung together to videos of ten minutes, in random order. A clip is shown for 2 to
20 seconds, again and again if it is shorter, so what a caption describes lasts differently each time. Videos are made
of the clips' features, one vector a second, which is all that an index sees of them. Each caption of a clip, in nine
languages, is searched in all videos: recall@1 is the share of captions whose first hit shares at least half of the
seconds that it and the clip's place cover together (intersection over union). Fixed windows begin at every second;
those of several lengths as `VideoIndex.build` makes them.
"""

import argparse
import csv
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from polyvid.dataset_scripts import fluent_emoji_9
from polyvid.dataset_scripts.building import find_shards
from polyvid.dataset_scripts.features import features_from_row
from polyvid.modeling import VideoIndex
from polyvid.modeling.moments_mmp import overlap
from polyvid.train.loading import load_model

SECONDS = 600
SHOWN = (2, 20)
WINDOWS: dict[str, int | tuple[int, ...]] = {"4": 4, "8": 8, "16": 16, "4, 8, 16": (4, 8, 16)}
COSINE = "4, 8, 16, by cosine alone"
WINDOWS[COSINE] = WINDOWS["4, 8, 16"]
DATA = Path(fluent_emoji_9.__file__).parent


def strung_together(
    clips: dict[str, np.ndarray], generator: np.random.Generator
) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, int, int]]]:
    """Videos of ten minutes, and where each clip is: (video, first second, end)."""
    videos: dict[str, list[np.ndarray]] = {}
    places: dict[str, tuple[str, int, int]] = {}
    start, name = SECONDS, ""
    for clip in generator.permutation(list(clips)):
        length = int(generator.integers(SHOWN[0], SHOWN[1] + 1))
        if start + length > SECONDS:
            start, name = 0, f"video {len(videos)}"
            videos[name] = []
        features = clips[clip]
        videos[name].append(np.tile(features, (-(-length // len(features)), 1))[:length])
        places[str(clip)] = name, start, start + length
        start += length
    return {name: np.concatenate(parts) for name, parts in videos.items()}, places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("features", type=Path)
    parser.add_argument("--split", default="split_0", help="whose test clips the model has not seen")
    parser.add_argument("--clips", type=int, help="take only so many of them, every nth; default: all")
    parser.add_argument("--skip", type=int, default=0, help="with --clips: so many before the first")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    with open(DATA / "splits.csv", encoding="utf-8") as file:
        test = {row["video_id"] for row in csv.DictReader(file) if row[arguments.split] == "test"}
    if arguments.clips:
        test = set(sorted(test)[arguments.skip :: len(test) // arguments.clips][: arguments.clips])
    rows = [row for shard in find_shards(arguments.features) for row in pq.read_table(shard).to_pylist()]
    clips = {row["video_id"]: features_from_row(row).astype(np.float32) for row in rows if row["video_id"] in test}
    captions = [row for row in pq.read_table(DATA / "captions.parquet").to_pylist() if row["video_id"] in clips]
    languages = sorted({row["language"] for row in captions}, key=lambda language: (language != "en", language))
    model, processor = load_model(arguments.model)
    texts = model.encode_texts([row["name"] for row in captions], processor)
    found: dict[str, list[list[float]]] = {way: [] for way in WINDOWS}  # of each seed, the recall in each language
    rows_of, seconds_of = dict.fromkeys(WINDOWS, 0), dict.fromkeys(WINDOWS, 0.0)
    for seed in range(arguments.seeds):
        videos, places = strung_together(clips, np.random.default_rng(seed))
        for way, lengths in WINDOWS.items():
            started = time.process_time()
            index = VideoIndex.build(model, videos, processor=processor, moment_seconds=lengths)
            seconds_of[way] += time.process_time() - started
            rows_of[way] = len(index)
            hits = [first for first, *_ in index.search(texts, k=1, corrected=way != COSINE)]
            right: dict[str, list[bool]] = {language: [] for language in languages}
            for row, hit in zip(captions, hits, strict=True):
                name, *span = places[row["video_id"]]
                is_there = hit["video_id"] == name
                right[row["language"]].append(is_there and overlap((hit["start"], hit["end"]), tuple(span)) >= 0.5)
            found[way].append([100 * float(np.mean(right[language])) for language in languages])
            print(f"seed {seed}, windows {way}: {np.mean(found[way][-1]):.1f}", file=sys.stderr)
    seconds = sum(map(len, videos.values()))
    print(f"{len(videos)} videos, {seconds:,} seconds, {len(clips)} clips, {len(captions)} captions")
    print(f"| windows, seconds | {' | '.join(languages)} | mean | rows | CPU seconds to embed |")
    print("|---|" + "---:|" * (len(languages) + 3))
    for way in WINDOWS:
        scores = np.array(found[way])
        mean = f"{scores.mean():.1f} ± {scores.mean(axis=1).std(ddof=1) if len(scores) > 1 else 0:.1f}"
        cells = " | ".join(f"{score:.1f}" for score in scores.mean(axis=0))
        print(f"| {way} | {cells} | {mean} | {rows_of[way]:,} | {seconds_of[way] / arguments.seeds:.0f} |")


if __name__ == "__main__":
    main()
