"""Dual encoders of sentence-transformers, and text towers for the images of another: tiny ones in their own formats."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from dual_encoder_models import save_dual_encoder
from torch.nn.functional import normalize
from transformers import AutoModel

from polyvid.dataset_scripts.fluent_emoji_9 import build
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.dual_encoders.loading import is_dual_encoder, load_dual_encoder
from polyvid.train.dual_encoders.searching import load_searching_model
from polyvid.train.scoring.evaluate import evaluate
from polyvid.train.scoring.evaluation import TEXT_TO_VIDEO, rank_benchmark
from tiny import WORDS, tiny_model, tiny_processor

pytest.importorskip("av")
pytest.importorskip("sentence_transformers")
CLIPS = sorted((Path(build.__file__).parent / "clips").glob("*.mp4"))[:3]
TEXTS = ["the dog runs", "ein hund läuft in park", "cat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`clip`, of transformers; `sentence_clip`, as the library saves it; `tower`, for texts; `wide`, a wider one."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    folder = tmp_path_factory.mktemp("models")
    save_dual_encoder("clip", folder / "clip")
    save_dual_encoder("clip", folder / "sentence_clip" / "0_CLIPModel")
    module = {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}
    (folder / "sentence_clip" / "modules.json").write_text(json.dumps([module]))
    tiny_model().text_model.save_pretrained(folder / "xlmr")
    tiny_processor().tokenizer.save_pretrained(folder / "xlmr")
    torch.manual_seed(0)
    for name, width in (("tower", 12), ("wide", 20)):
        dense = Dense(32, width, bias=False, activation_function=torch.nn.Identity())
        modules = [Transformer(str(folder / "xlmr")), Pooling(32, pooling_mode="mean"), dense]
        SentenceTransformer(modules=modules, device="cpu").save(str(folder / name))
    return folder


def test_a_model_of_texts_and_images_embeds_as_the_library_does(folder):
    name = str(folder / "sentence_clip")
    assert is_dual_encoder(name)
    encoder = load_dual_encoder(name, "3 uniform", None, "cpu")
    plain = load_dual_encoder(str(folder / "clip"), "3 uniform", None, "cpu")  # the same weights, by transformers alone
    torch.testing.assert_close(encoder.encode_texts(TEXTS), plain.encode_texts(TEXTS), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder.encode_videos(CLIPS), plain.encode_videos(CLIPS), rtol=1e-4, atol=1e-5)
    assert encoder.facts() == {"dual_encoder": "sentence-transformers", "frames": "3 uniform", "prompt": "{}"}


def test_a_text_tower_is_paired_with_what_sees_the_images(folder):
    name = f"{folder / 'tower'}+{folder / 'clip'}"
    assert is_dual_encoder(name)
    encoder = load_dual_encoder(name, "2 uniform", "a {}", "cpu")
    with torch.no_grad():
        ids = tiny_processor()(text=[f"a {text}" for text in TEXTS], return_tensors="pt")
        hidden = AutoModel.from_pretrained(folder / "tower", add_pooling_layer=False)(**ids).last_hidden_state
        mask = ids["attention_mask"][..., None]
        means = (hidden * mask).sum(1) / mask.sum(1)  # M-CLIP: the mean over the tokens, and a linear map
    weight = encoder.model[2].linear.weight
    torch.testing.assert_close(encoder.encode_texts(TEXTS), means @ weight.T.detach(), rtol=1e-4, atol=1e-5)
    plain = load_dual_encoder(str(folder / "clip"), "2 uniform", None, "cpu")
    torch.testing.assert_close(encoder.encode_videos(CLIPS), plain.encode_videos(CLIPS))
    assert encoder.facts()["dual_encoder"] == name


def test_a_benchmark_is_searched_with_a_pair(folder):
    encoder = load_dual_encoder(f"{folder / 'tower'}+{folder / 'sentence_clip'}", "2 uniform", None, "cpu")
    captions = [[{"caption_id": "0", "language": "en", "text": word, "source": "human"}] for word in WORDS[:3]]
    videos = [{"video_id": path.stem, "captions": own} for path, own in zip(CLIPS, captions, strict=True)]
    files = {path.stem: path for path in CLIPS}
    found = rank_benchmark(encoder, None, videos, files, ["en"])[TEXT_TO_VIDEO]["en"].ranks
    similarity = normalize(encoder.encode_texts(WORDS[:3])) @ normalize(encoder.encode_videos(CLIPS)).T
    assert found.tolist() == (similarity > similarity.diagonal()[:, None] - 1e-6).sum(1).tolist()


def test_results_say_which_towers_made_them(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, path in enumerate(CLIPS):
        shutil.copy(path, tmp_path / f"{number}.mp4")
    rows = ["file_name,split,en", *(f"{number}.mp4,test,{WORDS[number]}" for number in range(3))]
    (tmp_path / "metadata.csv").write_text("\n".join(rows) + "\n")
    name = f"{folder / 'tower'}+{folder / 'clip'}"
    evaluate(name, benchmark=str(tmp_path), videos=tmp_path, frames="1 uniform", device="cpu", split="test")
    results = json.loads(next(Path("outputs/results/tower+clip").glob("*/results.json")).read_text())
    assert (results["name"], results["model"]) == ("tower+clip", name)
    assert results["video_encoders"] == {"dual_encoder": name, "frames": "1 uniform", "prompt": "{}"}


def test_what_is_no_dual_encoder_or_no_pair_is_refused_in_one_line(folder):
    with pytest.raises(PolyvidError, match="tower reads texts and sees no images. If it was taught"):
        load_dual_encoder(str(folder / "tower"), None, None, "cpu")
    with pytest.raises(
        PolyvidError, match="texts in 20 dimensions and .*clip images in 12: they do not belong together"
    ):
        load_dual_encoder(f"{folder / 'wide'}+{folder / 'clip'}", None, None, "cpu")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_dual_encoder(f"{folder / 'tower'}+{folder / 'nowhere'}", None, None, "cpu")
    with pytest.raises(PolyvidError, match="is a model of sentence-transformers: polyvid evaluate can test it"):
        load_searching_model(str(folder / "sentence_clip"))


def test_a_saved_mmp_model_is_no_dual_encoder_though_the_library_loads_it(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    assert (tmp_path / "modules.json").is_file() and not is_dual_encoder(str(tmp_path))
