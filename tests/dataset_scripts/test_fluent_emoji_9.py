"""The embedded benchmark: what is in the repository, and the builder that made it."""

import csv
import io
import json
import os
from collections import Counter
from pathlib import Path

import av
import pytest
from datasets import load_dataset
from PIL import Image

from polyvid.dataset_scripts.building import load_builder, write_dataset
from polyvid.dataset_scripts.fluent_emoji_9 import build
from polyvid.dataset_scripts.fluent_emoji_9.families import assign_families, assign_splits
from polyvid.dataset_scripts.schema import LANGUAGES

FOLDER = Path(build.__file__).parent
SIZES = {  # pretrain, finetune, validation, test
    "split_0": (637, 400, 150, 420),
    "split_1": (634, 400, 152, 421),
    "split_2": (637, 400, 150, 420),
    "split_3": (635, 401, 151, 420),
}


@pytest.fixture(scope="module", params=sorted(SIZES))
def splits(request):
    builder = load_builder("fluent_emoji_9")(config_name=request.param)
    return {name: list(split) for name, split in builder.as_streaming_dataset().items()}


def names(video):
    return {c["language"]: c["text"] for c in video["captions"] if c["caption_id"] == "name"}


def test_splits_have_their_sizes_and_share_no_family(splits):
    sizes = {name: len(videos) for name, videos in splits.items()}
    # Splits end with a whole family, so that they may be a little larger than asked for.
    assert tuple(sizes.values()) in SIZES.values() and sum(sizes.values()) == 1607
    families = {name: {video["family"] for video in videos} for name, videos in splits.items()}
    assert sum(len(members) for members in families.values()) == len(set().union(*families.values()))


def test_every_clip_has_a_name_in_all_nine_languages(splits):
    for videos in splits.values():
        for video in videos:
            assert set(names(video)) == set(LANGUAGES), video["video_id"]


def test_every_test_query_has_one_right_answer(splits):
    for language in LANGUAGES:
        queries = Counter(names(video)[language].casefold() for video in splits["test"])
        assert max(queries.values()) == 1


def test_keywords_never_contain_the_name(splits):
    for video in splits["pretrain"]:
        for caption in video["captions"]:
            if caption["caption_id"] == "keywords":
                name = names(video)[caption["language"]].casefold()
                assert name not in [keyword.casefold() for keyword in caption["text"].split(", ")]


def test_known_clips_say_what_they_show(splits):
    every = {video["video_id"]: names(video) for videos in splits.values() for video in videos}
    assert every["1f418"]["en"] == "elephant" and every["1f418"]["de"] == "Elefant" and every["1f418"]["sw"] == "ndovu"


def test_committed_splits_follow_from_the_rule(splits):
    every = {video["video_id"]: video for videos in splits.values() for video in videos}
    families = assign_families({video_id: names(video)["en"] for video_id, video in every.items()})
    with open(FOLDER / "splits.csv", newline="") as file:
        committed = {row["video_id"]: row for row in csv.DictReader(file)}
    for seed in build.SPLIT_SEEDS:
        assigned, dropped = assign_splits(families, {v: names(row) for v, row in every.items()}, seed)
        assert dropped == []
        assert assigned == {video_id: row[f"split_{seed}"] for video_id, row in committed.items()}


@pytest.mark.parametrize("video_id", ["1f418", "1f170"])
def test_clips_are_av1_of_224_pixels(video_id):
    with av.open(str(FOLDER / "clips" / f"{video_id}.mp4")) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        assert (stream.codec_context.name in ("libdav1d", "av1"), stream.width, stream.height) == (True, 224, 224)
    assert frames == (12 if video_id == "1f418" else 1)


def test_variants_of_one_emoji_are_one_family():
    english = {
        "1f468-200d-1f33e": "man farmer",
        "1f469-200d-1f33e": "woman farmer",
        "1f9d1-200d-1f33e": "farmer",
        "1f57a": "man dancing",
        "1f483": "woman dancing",
        "1f468": "man",
        "1f468-200d-1f9b0": "man: red hair",
        "1f9d4": "person: beard",
        "1f468-200d-1f469-200d-1f466": "family: man, woman, boy",
        "1f418": "elephant",
        "1f42d": "mouse face",
    }
    families = assign_families(english)
    assert families["1f468-200d-1f33e"] == families["1f469-200d-1f33e"] == families["1f9d1-200d-1f33e"]
    assert families["1f57a"] == families["1f483"]
    assert families["1f468-200d-1f9b0"] == families["1f9d4"]
    assert len(set(families.values())) == 6


def test_a_test_clip_whose_caption_is_taken_is_dropped_with_its_reason():
    ids = [f"1f4{i:02x}" for i in range(30)]
    captions = {video_id: {"en": "same" if i < 15 else f"other {i}"} for i, video_id in enumerate(ids)}
    split_of, dropped = assign_splits({video_id: video_id for video_id in ids}, captions, seed=0)
    assert len(dropped) == 14 and len(split_of) == 16
    assert Counter(captions[video_id]["en"] for video_id in split_of)["same"] == 1


@pytest.fixture
def packages(tmp_path):
    """The packages in small: two animated emoji (one packed twice), a skin tone variant, a flag."""
    assets = tmp_path / "packages" / "lobehub-fluent-emoji-anim-1-1.0.0" / "package" / "assets"
    assets.mkdir(parents=True)
    colors = ["red", "green", "blue"] * 8
    frames = [Image.new("RGBA", (64, 64), color) for color in colors]
    for stem in ("1f418", "0023-fe0f-20e3", "23-fe0f-20e3", "1f44b-1f3fb", "1f1e9-1f1ea"):
        frames[0].save(assets / f"{stem}.webp", save_all=True, append_images=frames[1:], duration=40, lossless=True)
    emoji = {"🐘": "elephant", "#️⃣": "keycap: #", "👋🏻": "waving hand: light skin tone", "🇩🇪": "flag: Germany"}
    for folder in ("annotations", "annotationsDerived"):
        for language in LANGUAGES:
            path = tmp_path / "packages" / "cldr" / "package" / folder / language / "annotations.json"
            path.parent.mkdir(parents=True)
            entries = {e: {"tts": [f"{name} {language}"], "default": ["word"]} for e, name in emoji.items()}
            path.write_text(json.dumps({folder: {"annotations": entries}}), encoding="utf-8")
    return tmp_path / "packages"


def test_the_builder_dedupes_skips_tones_and_flags_and_keeps_what_is_there(packages, tmp_path):
    output = tmp_path / "built"
    build.build(packages, output)
    clips = sorted(path.name for path in (output / "clips").iterdir())
    assert clips == ["1f418.mp4", "23-20e3.mp4"]
    written = (output / "clips" / "1f418.mp4").stat().st_mtime_ns
    build.build(packages, output)
    assert (output / "clips" / "1f418.mp4").stat().st_mtime_ns == written

    builder = load_builder("fluent_emoji_9")(config_name="split_0", data_dir=str(output))
    videos = [video for split in builder.as_streaming_dataset().values() for video in split]
    assert {video["video_id"] for video in videos} == {"1f418", "23-20e3"}


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="only Linux tells how a process is scheduled")
def test_encoding_leaves_the_process_without_real_time_priority(tmp_path):
    """The encoder gives it to whoever calls it as root, and child processes inherit it."""
    before = os.sched_getscheduler(0)
    build.write_clip([Image.new("RGB", (build.SIZE, build.SIZE), "green")], tmp_path / "clip.mp4")
    assert os.sched_getscheduler(0) == before


def test_frames_are_evenly_spaced_over_the_animation(packages, tmp_path):
    frames = build.read_frames(build.find_animations(packages)["1f418"])
    # 24 frames in the order red, green, blue; every second one is taken
    assert [frame.getpixel((112, 112)) for frame in frames[:3]] == [(255, 0, 0), (0, 0, 255), (0, 128, 0)]
    assert len(frames) == 12


def test_a_corrupt_animation_stops_the_build_and_leaves_no_half_clip(packages, tmp_path):
    broken = build.find_animations(packages)["1f418"]
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(build.BuildError, match="1f418.webp cannot be read as a webp animation"):
        build.build(packages, tmp_path / "built")
    assert list((tmp_path / "built" / "clips").iterdir()) == []


def test_missing_packages_are_named(packages, tmp_path):
    with pytest.raises(build.BuildError, match="annotations/en/annotations.json"):
        build.build(tmp_path / "empty", tmp_path / "built")


def test_the_parquet_folder_holds_the_clips_themselves(packages, tmp_path):
    build.build(packages, tmp_path / "built")
    builder = load_builder("fluent_emoji_9")(config_name="split_0", data_dir=str(tmp_path / "built"))
    rows = write_dataset(builder, tmp_path / "hub")
    assert sum(rows.values()) == 2
    files = [str(path) for path in (tmp_path / "hub" / "split_0").glob("*.parquet")]
    rows = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    elephant = next(row for row in rows if row["video_id"] == "1f418")
    with av.open(io.BytesIO(elephant["clip"])) as container:
        assert sum(1 for _ in container.decode(video=0)) == 12


def test_a_missing_clip_is_named(packages, tmp_path):
    build.build(packages, tmp_path / "built")
    (tmp_path / "built" / "clips" / "1f418.mp4").unlink()
    builder = load_builder("fluent_emoji_9")(config_name="split_0", data_dir=str(tmp_path / "built"))
    with pytest.raises(FileNotFoundError, match="The clip of 1f418 is missing"):
        [video for split in builder.as_streaming_dataset().values() for video in split]
