"""Emoji-Motion: nothing but the order of frames tells a clip from its twins."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from polyvid.dataset_scripts.building import load_builder
from polyvid.dataset_scripts.emoji_motion import emoji_motion, measure
from polyvid.dataset_scripts.fluent_emoji_9 import build
from polyvid.dataset_scripts.schema import LANGUAGES

FOLDER = Path(emoji_motion.__file__).parent


@pytest.fixture(scope="module", params=["playing", "order"])
def splits(request):
    builder = load_builder("emoji_motion")(config_name=request.param)
    return {name: list(split) for name, split in builder.as_streaming_dataset().items()}


def shown(video):
    return [(frame["video_id"], frame["index"]) for frame in video["frames"]]


def captions(video):
    return {caption["language"]: caption["text"] for caption in video["captions"]}


def test_sizes_are_those_of_the_card(splits):
    assert {name: len(videos) for name, videos in splits.items()} == {"train": 1048, "validation": 160, "test": 508}


def test_twins_show_the_same_frames_in_another_order(splits):
    for videos in splits.values():
        by_id = {video["video_id"]: video for video in videos}
        assert len(by_id) == len(videos)
        for video in videos:
            for twin in (by_id[twin["video_id"]] for twin in video["twins"]):
                assert Counter(shown(twin)) == Counter(shown(video)) and shown(twin) != shown(video)
                assert twin["group"] == video["group"]


def test_being_a_twin_is_mutual(splits):
    for videos in splits.values():
        pairs = {(v["video_id"], t["video_id"], t["question"]) for v in videos for t in v["twins"]}
        assert pairs == {(other, own, question) for own, other, question in pairs}


def test_every_caption_is_there_in_nine_languages_and_names_one_clip(splits):
    for videos in splits.values():
        assert all(set(captions(video)) == set(LANGUAGES) for video in videos)
        for language in LANGUAGES:
            assert len({captions(video)[language].casefold() for video in videos}) == len(videos), language


def test_splits_share_no_clip(splits):
    clips = [{frame["video_id"] for video in videos for frame in video["frames"]} for videos in splits.values()]
    assert sum(map(len, clips)) == len(set().union(*clips)) == 429


def test_how_an_elephant_is_played():
    builder = load_builder("emoji_motion")(config_name="playing")
    videos = [video for split in builder.as_streaming_dataset().values() for video in split]
    first = videos[0]["group"]
    played = {video["video_id"].removeprefix(f"{first}_"): video for video in videos if video["group"] == first}
    indices = {playing: [index for _, index in shown(video)] for playing, video in played.items()}
    assert indices == {
        "forwards": [0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10],
        "backwards": [0, 0, 10, 10, 8, 8, 6, 6, 4, 4, 2, 2],
        "fast_forwards": [0, 2, 4, 6, 8, 10, 0, 2, 4, 6, 8, 10],
        "fast_backwards": [0, 10, 8, 6, 4, 2, 0, 10, 8, 6, 4, 2],
    }
    twins = {twin["question"]: twin["video_id"] for twin in played["backwards"]["twins"]}
    assert twins == {"direction": f"{first}_forwards", "speed": f"{first}_fast_backwards"}
    assert captions(played["fast_backwards"])["de"].endswith(", Zurückspulen")


def test_the_captions_of_two_clips_follow_the_order_of_time():
    builder = load_builder("emoji_motion")(config_name="order")
    [first, second, *_] = builder.as_streaming_dataset()["test"]
    assert captions(first)["en"] == ", ".join(reversed(captions(second)["en"].split(", ")))
    assert shown(first) == shown(second)[6:] + shown(second)[:6]


def test_every_phrase_has_a_source():
    with open(FOLDER / "phrases.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {(row["playing"], row["language"]) for row in rows} == {
        (playing, language) for playing in emoji_motion.PLAYING for language in LANGUAGES
    }
    assert len(rows) == 36 and all(row["source"].startswith("CLDR 48.2, annotations/") for row in rows)
    assert all(len({row["text"] for row in rows if row["language"] == language}) == 4 for language in LANGUAGES)


def test_the_numbers_of_a_clip_come_from_its_frames():
    with open(FOLDER / "clips.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 734  # the animations of Fluent-Emoji-9
    for row in rows[:: len(rows) // 5]:
        loop = measure.read_loop(build.HERE / "clips" / f"{row['video_id']}.mp4")
        assert measure.alike_backwards(loop) == pytest.approx(float(row["alike_backwards"]), abs=0.002)
        assert measure.seam(loop) == pytest.approx(float(row["seam"]), abs=0.002)


def test_a_still_has_no_loop():
    moving = {row["video_id"] for row in csv.DictReader((FOLDER / "clips.csv").open(encoding="utf-8"))}
    still = next(path for path in sorted((build.HERE / "clips").glob("*.mp4")) if path.stem not in moving)
    assert measure.read_loop(still) is None
