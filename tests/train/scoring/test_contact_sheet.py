"""Qualitative sheets: what is found, what is framed, and pages that stand by themselves."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch.nn.functional as F

from polyvid.modeling.paths_mmp import VIDEO_SUFFIXES
from polyvid.train.scoring.contact_sheet import (
    Query,
    find_clip,
    middle_frame,
    search_by_own_captions,
    write_html,
    write_png,
)
from tiny import VIDEO_FEATURE_DIM, tiny_model, tiny_processor

CLIPS = Path(__file__).parents[3] / "dataset_scripts" / "fluent_emoji_9" / "clips"


@pytest.fixture(scope="module")
def videos():
    """Four clips of the embedded benchmark."""
    texts = {"en": "a dog runs", "zh": "狗 跑", "de": "der hund läuft"}
    captions = [{"caption_id": "0", "language": code, "text": text, "source": "human"} for code, text in texts.items()]
    names = ("1f418", "1f004", "1f0cf", "1f170")
    return [{"video_id": name, "captions": captions, "clip": str(CLIPS / f"{name}.mp4")} for name in names]


@pytest.fixture(scope="module")
def features(videos):
    generator = np.random.default_rng(0)
    return {video["video_id"]: generator.normal(size=(3, VIDEO_FEATURE_DIM)) for video in videos}


def test_each_language_finds_the_nearest_videos(videos, features):
    model, processor = tiny_model(), tiny_processor()
    shown = {name: array for name, array in features.items() if name != "1f004"}  # one has no features
    sheet = search_by_own_captions(model, processor, videos, shown, ["1f0cf"], top=2)["1f0cf"]
    assert [query.language for query in sheet] == ["en", "de", "zh"]  # the paper's order
    text = model.encode_texts(["狗 跑"], processor)
    cosines = {
        index: F.cosine_similarity(text, model.encode_videos([features[video["video_id"]]], processor)).item()
        for index, video in enumerate(videos)
        if video["video_id"] != "1f004"
    }
    ranking = sorted(cosines, key=cosines.get, reverse=True)
    best = ranking[:2]
    assert sheet[2].rank == 1 + ranking.index(2)  # the third of the videos is the one wanted
    assert [index for index, _ in sheet[2].found] == best
    assert [cosine for _, cosine in sheet[2].found] == pytest.approx([cosines[index] for index in best], abs=1e-5)


def test_a_video_that_is_not_there_is_named(videos, features):
    with pytest.raises(ValueError, match="no video 'nothing' with features"):
        search_by_own_captions(tiny_model(), tiny_processor(), videos, features, ["nothing"])


def test_the_page_holds_its_pictures_and_frames_the_right_one(videos, tmp_path):
    found = [(1, 0.9), (0, 0.8), (2, 0.1)]
    sheets = {"1f418": [Query("en", "elephant <b> & more", found, 2), Query("zh", "大象", found[:1] + found[2:], 7)]}
    write_html(sheets, videos, "A & B", tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r'src="(.{22})', page)) == {"data:image/jpeg;base64"}
    assert page.count('<figure class="right">') == 1
    right = page[page.index('<figure class="right">') :].split("</figure>")[0]
    assert "0.80 1f418" in right
    assert "elephant &lt;b&gt; &amp; more" in page
    assert "<small>English</small>" in page and "<small>Chinese: rank 7</small>" in page
    assert '<span lang="zh">大象</span>' in page
    assert "http" not in page


def test_a_video_that_is_shown_needs_no_rank_though_ties_count_against_it(videos, tmp_path):
    write_html({"1f418": [Query("en", "elephant", [(0, 0.9), (1, 0.9)], 4)]}, videos, "A", tmp_path / "index.html")
    assert ": rank" not in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_the_png_frames_the_right_clip_in_green(videos, tmp_path):
    write_png([Query("en", "elephant", [(1, 0.9), (0, 0.8)], 2)], videos, "1f418", tmp_path / "sheet.png")
    write_png([Query("en", "elephant", [(1, 0.9), (2, 0.8)], 3)], videos, "1f418", tmp_path / "missed.png")
    import matplotlib.pyplot as plt

    def green(name):
        pixels = plt.imread(tmp_path / name)[..., :3]
        return int((np.abs(pixels - np.array([0x1B, 0x9E, 0x3A]) / 255).max(-1) < 0.01).sum())

    assert green("sheet.png") > 500
    assert green("missed.png") == 0


def test_the_frame_shown_is_the_middle_one():
    import av

    with av.open(str(CLIPS / "1f418.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 12
    assert np.array_equal(middle_frame(CLIPS / "1f418.mp4"), frames[6])


def test_pictures_are_clips_too(tmp_path):
    import matplotlib.pyplot as plt

    picture = np.zeros((20, 30, 3), dtype=np.uint8)
    picture[:10] = 255
    plt.imsave(tmp_path / "image.png", picture)
    assert np.array_equal(middle_frame(tmp_path / "image.png"), picture)


@pytest.mark.parametrize("suffix", [*VIDEO_SUFFIXES, ".png", ".jpeg"])
def test_the_clip_of_a_video_may_be_any_file_that_is_read_elsewhere(tmp_path, suffix):
    (tmp_path / f"v1{suffix}").write_bytes(b"")
    assert find_clip("v1", tmp_path) == str(tmp_path / f"v1{suffix}")
    (tmp_path / "v1.mp4").write_bytes(b"")
    assert find_clip("v1", tmp_path) == str(tmp_path / "v1.mp4")


def test_missing_and_broken_clips_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no clip .*gone.mp4"):
        middle_frame(tmp_path / "gone.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    with pytest.raises(ValueError, match="broken.mp4 cannot be decoded"):
        middle_frame(tmp_path / "broken.mp4")
