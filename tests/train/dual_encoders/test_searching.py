"""`polyvid search`, `polyvid index` and indexes in Python, with a dual encoder such as CLIP in the place of MMP."""

import json
import shutil

import pytest
import torch
from dual_encoder_models import save_dual_encoder
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
from video_files import write_video

from polyvid.modeling import VideoIndex
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.video_reading_mmp import Sampling, View, cut_windows, timed_frames
from polyvid.train import cli
from polyvid.train.dual_encoders.searching import load_searching_model

pytest.importorskip("av")

QUERY = "the dog runs"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for family in ("clip", "siglip", "siglip2", "xclip"):
        save_dual_encoder(family, folder / family)
    return folder


@pytest.fixture
def videos(models, tmp_path, monkeypatch):
    """Three videos of 1, 2 and 4 seconds, in a folder with the models beside it."""
    for folder in models.iterdir():
        shutil.copytree(folder, tmp_path / folder.name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "videos").mkdir()
    for seconds in (1, 2, 4):
        write_video(tmp_path / "videos" / f"{seconds}.mp4", num_frames=10 * seconds, fps=10)
    return tmp_path / "videos"


@pytest.fixture
def polyvid(videos, capfd):
    def run(*arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            cli.main([*arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capfd.readouterr()

    return run


def hits_of(shown: str) -> dict[str, float]:
    return {hit["video_id"]: hit["score"] for hit in json.loads(shown)["hits"]}


@torch.no_grad()
def scores_by_hand(folder, videos) -> dict[str, float]:
    """With transformers alone: two frames a second, their mean; the mean of these unit vectors; the cosine."""
    model, pixels = AutoModel.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder, backend="pil")
    padding = {"padding": "max_length", "max_length": 64} if folder.name == "siglip" else {}
    tokens = AutoTokenizer.from_pretrained(folder)(QUERY, return_tensors="pt", **padding)
    ids = {"input_ids": tokens["input_ids"]} if folder.name == "siglip" else dict(tokens)
    text = normalize(model.get_text_features(**ids).pooler_output[0], dim=-1)
    scores = {}
    for path in videos.iterdir():
        seconds = []
        for _, frames in cut_windows(timed_frames(path), [View(Sampling(fps=2, window=2, stride=2))]):
            embeds = model.get_image_features(**pixels(list(frames), return_tensors="pt")).pooler_output
            seconds.append(normalize(embeds.mean(0), dim=-1))
        scores[path.name] = float(text @ normalize(torch.stack(seconds).mean(0), dim=-1))
    return scores


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_folder_of_videos_is_searched_zero_shot(polyvid, videos, family):
    first = ("--model", family, "--workers", "0", "--moment-seconds", "9", "--one-per-video", "--json")
    code, shown, said = polyvid("search", "videos", QUERY, *first)
    assert code == 0 and "3 of them new or changed" in said
    assert hits_of(shown) == pytest.approx(scores_by_hand(videos.parent / family, videos), abs=2e-3)  # float16
    code, again, said = polyvid("search", "videos", QUERY, "--one-per-video", "--json")  # the index names its model
    assert code == 0 and hits_of(again) == hits_of(shown) and "new or changed" not in said
    write_video(videos / "new.mp4", num_frames=20, fps=10)
    code, shown, said = polyvid("search", "videos", QUERY, "--one-per-video", "--json", "--workers", "0")
    assert code == 0 and "1 of them new or changed" in said and len(hits_of(shown)) == 4


def test_features_that_were_extracted_before_are_indexed(polyvid, videos):
    assert polyvid("extract", "videos", "features", "--encoder", "clip", "--workers", "0")[0] == 0
    assert polyvid("index", "features", "videos.safetensors", "--model", "clip")[0] == 0
    code, shown, _ = polyvid("search", "videos.safetensors", QUERY, "--json")
    expected = {name.removesuffix(".mp4"): of for name, of in scores_by_hand(videos.parent / "clip", videos).items()}
    assert code == 0 and hits_of(shown) == pytest.approx(expected, abs=2e-3)
    code, _, said = polyvid("index", "features", "others.safetensors", "--model", "siglip")
    assert code == 1 and "clip" in said and "siglip" in said and not (videos.parent / "others.safetensors").exists()


def test_an_index_in_python_takes_it_as_a_model(polyvid, videos):
    first = ("--model", "clip", "--workers", "0", "--index", "index.safetensors")
    assert polyvid("search", "videos", QUERY, *first)[0] == 0
    with pytest.raises(PolyvidError, match=r"clip is a clip, not an MMP model: pass what embeds its texts"):
        VideoIndex.load("index.safetensors").search(QUERY)
    model, processor = load_searching_model("clip")
    index = VideoIndex.load("index.safetensors", model, processor)
    assert len(index.search(QUERY)) == 3
    other = load_searching_model("siglip")[0]
    with pytest.raises(PolyvidError):
        VideoIndex.load("index.safetensors", other, other).search(QUERY)


@pytest.mark.parametrize("family", ["siglip2", "xclip"])
def test_a_model_that_does_not_see_single_images_is_refused(polyvid, family):
    code, _, said = polyvid("search", "videos", QUERY, "--model", family)
    assert code == 1
    expected = f"{family} is a {family}: polyvid evaluate can test it, but an index needs a model of single images"
    assert expected in said.strip().splitlines()[-1]


def test_a_model_that_is_gone_is_named(polyvid, videos):
    first = ("--model", "clip", "--workers", "0", "--index", "index.safetensors")
    assert polyvid("search", "videos", QUERY, *first)[0] == 0
    shutil.rmtree(videos.parent / "clip")
    code, _, said = polyvid("search", "index.safetensors", QUERY)
    assert code == 1 and "which is not there: pass that model" in said
