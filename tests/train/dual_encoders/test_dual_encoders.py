"""Dual encoders such as CLIP: tiny random ones of each family, on real video files, under our protocols."""

import json
from pathlib import Path

import pytest
import torch
from dual_encoder_models import CONFIGS, save_dual_encoder
from PIL import Image
from torch.nn.functional import normalize
from video_files import read_number, write_video

from polyvid.dataset_scripts.fluent_emoji_9 import build
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.data.videos import VideoFiles
from polyvid.train.dual_encoders.frames import FrameRule
from polyvid.train.dual_encoders.loading import FAMILIES, is_dual_encoder, load_dual_encoder
from polyvid.train.scoring.evaluate import evaluate
from polyvid.train.scoring.evaluation import TEXT_TO_VIDEO, rank_benchmark
from tiny import WORDS, tiny_model

pytest.importorskip("av")

CLIPS = Path(build.__file__).parent / "clips"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder with a tiny random model of each family."""
    made = {family: tmp_path_factory.mktemp(family) for family in CONFIGS}
    for family, folder in made.items():
        save_dual_encoder(family, folder)
    return made


@pytest.fixture(scope="module")
def clips():
    """Video id → file of four real clips."""
    return {path.stem: path for path in sorted(CLIPS.glob("*.mp4"))[:4]}


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_embeds_texts_and_videos_in_one_space(folders, clips, family):
    assert is_dual_encoder(str(folders[family]))
    encoder = load_dual_encoder(str(folders[family]), None, None, "cpu")
    texts = encoder.encode_texts(["a dog runs", "the cat", "ein hund läuft in park"])
    videos = encoder.encode_videos(list(clips.values()))
    assert texts.shape == (3, videos.shape[1]) and videos.shape[0] == 4
    assert texts.isfinite().all() and videos.isfinite().all()
    alone = encoder.encode_texts(["the cat"])  # without the padding of longer ones
    torch.testing.assert_close(alone[0], texts[1], rtol=1e-4, atol=1e-5)
    assert encoder.facts() == {
        "dual_encoder": family,
        "frames": "4 uniform" if family in ("xclip", "videoprism") else "8 uniform",
        "prompt": "{}",
    }


def test_the_families_are_those_of_the_list():
    assert set(CONFIGS) == set(FAMILIES)


def test_a_video_is_the_mean_of_the_unit_embeddings_of_its_frames(folders, clips):
    encoder = load_dual_encoder(str(folders["clip"]), "3 uniform", None, "cpu")
    path = clips[next(iter(clips))]
    found = encoder.encode_videos([path])[0]
    expected = []
    for frame in FrameRule.parse("3 uniform").read(path):
        pixels = encoder.pixels(Image.fromarray(frame), return_tensors="pt")
        with torch.no_grad():
            expected.append(normalize(encoder.model.get_image_features(**pixels).pooler_output, dim=-1)[0])
    torch.testing.assert_close(found, torch.stack(expected).mean(0), rtol=1e-4, atol=1e-5)


def test_x_clip_sees_its_frames_together(folders, clips):
    encoder = load_dual_encoder(str(folders["xclip"]), None, None, "cpu")
    path = clips[next(iter(clips))]
    frames = FrameRule.parse("4 uniform").read(path)
    pixels = encoder.pixels(frames, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = encoder.model.get_video_features(pixel_values=pixels[None]).pooler_output[0]
    torch.testing.assert_close(encoder.encode_videos([path])[0], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(PolyvidError, match="sees 4 frames of a video: pass '4 uniform'"):
        load_dual_encoder(str(folders["xclip"]), "8 uniform", None, "cpu")


def test_a_prompt_goes_around_the_query(folders):
    plain = load_dual_encoder(str(folders["clip"]), None, None, "cpu")
    prompted = load_dual_encoder(str(folders["clip"]), None, "a video of {}", "cpu")
    torch.testing.assert_close(prompted.encode_texts(["the dog"]), plain.encode_texts(["a video of the dog"]))
    for wrong in ("a video", "{} and {}"):
        with pytest.raises(PolyvidError, match="A prompt has {} once"):
            load_dual_encoder(str(folders["clip"]), None, wrong, "cpu")


def test_frames_are_those_shown_in_the_middle_of_each_part(tmp_path):
    path = write_video(tmp_path / "counted.mp4", num_frames=25, fps=10)  # every frame carries its number
    for text, times in (("5 uniform", [0.25, 0.75, 1.25, 1.75, 2.25]), ("1 a second", [0.5, 1.5, 2.25])):
        numbers = [read_number(frame) for frame in FrameRule.parse(text).read(path)]
        assert all(abs(number - 10 * time) <= 1 for number, time in zip(numbers, times, strict=True)), numbers


@pytest.mark.parametrize("text", ["8", "uniform", "0 uniform", "8 uniforms", "1.5 a second", ""])
def test_another_rule_is_refused(text):
    with pytest.raises(PolyvidError, match="such as '8 uniform' or '1 a second'"):
        FrameRule.parse(text)


def test_a_benchmark_is_searched_as_by_our_own_models(folders, clips):
    videos = [
        {
            "video_id": name,
            "captions": [{"caption_id": "0", "language": "en", "text": WORDS[n], "source": "human"}],
        }
        for n, name in enumerate(clips)
    ]
    encoder = load_dual_encoder(str(folders["clip"]), "2 uniform", None, "cpu")
    found = rank_benchmark(encoder, None, videos, clips, ["en"])[TEXT_TO_VIDEO]["en"].ranks
    texts = normalize(encoder.encode_texts(WORDS[:4]), dim=1)
    similarity = texts @ normalize(encoder.encode_videos(list(clips.values())), dim=1).T
    expected = (similarity > similarity.diagonal()[:, None] - 1e-6).sum(1)
    assert found.tolist() == expected.tolist()


@pytest.mark.slow
def test_results_are_made_in_the_same_way(folders, tmp_path, capsys):
    model, output = str(folders["clip"]), tmp_path / "out"
    evaluate(
        model,
        benchmark="fluent_emoji_9",
        languages="en,sw",
        videos=CLIPS,
        frames="1 uniform",
        prompt="a video of {}",
        caption_kind=["name"],
        output=output,
        device="cpu",
    )
    results = json.loads((output / "results.json").read_text())
    assert results["counts"]["queries"] == {"en": 420, "sw": 420}
    assert results["video_encoders"] == {"dual_encoder": "clip", "frames": "1 uniform", "prompt": "a video of {}"}
    assert "| text to video | en | sw | mean |" in capsys.readouterr().out


def test_what_does_not_fit_is_refused_in_one_line(folders, tmp_path):
    clip = str(folders["clip"])
    with pytest.raises(PolyvidError, match="is a dual encoder, which sees videos itself: pass --videos"):
        evaluate(clip, benchmark="fluent_emoji_9")
    with pytest.raises(PolyvidError, match="--features and --int8 are for MMP"):
        evaluate(clip, benchmark="fluent_emoji_9", videos=CLIPS, int8=True)
    with pytest.raises(FileNotFoundError, match="folder or list of videos"):
        evaluate(clip, benchmark="fluent_emoji_9", videos=tmp_path / "nowhere", device="cpu")
    tiny_model().save_pretrained(tmp_path / "mmp")
    assert not is_dual_encoder(str(tmp_path / "mmp"))
    with pytest.raises(PolyvidError, match="--videos, --frames and --prompt are for dual encoders"):
        evaluate(str(tmp_path / "mmp"), benchmark="fluent_emoji_9", prompt="{}")
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    encoder = load_dual_encoder(clip, None, None, "cpu")
    with pytest.raises(PolyvidError, match=r"Video v1 \(.*broken.mp4\): not a video"):
        encoder.encode_videos([tmp_path / "broken.mp4"], names=["v1"])


def test_video_files_are_found_by_id():
    files = VideoFiles(CLIPS)
    assert len(files) == 1607 and files["1f495"] == CLIPS / "1f495.mp4"
