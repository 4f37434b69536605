"""Searching a benchmark with corrections of scores: what is reported, by which texts, and which texts are refused."""

import json

import numpy as np
import pytest
import torch
from emoji_features import write_features
from torch.nn import functional as F

from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.hubness_mmp import HubNumbers
from polyvid.train.data.videos import VideoFeatures, load_videos
from polyvid.train.recipe import DataRecipe, load_recipe, save_recipe
from polyvid.train.scoring.corrections import Corrections, QueryBank
from polyvid.train.scoring.evaluate import evaluate
from polyvid.train.scoring.evaluation import TEXT_TO_VIDEO, rank_benchmark
from tiny import WORDS, tiny_model, tiny_processor

BANK = QueryBank({"en": ["a dog", "the cat", "a man runs"], "de": ["der hund", "ein hund"]}, "by hand")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model of the emoji clips that says it was fine-tuned on English names, and random features."""
    folder = tmp_path_factory.mktemp("emoji")
    write_features(folder / "features", dim=10)
    tiny_model().save_pretrained(folder / "model")
    tiny_processor().save_pretrained(folder / "model")
    save_recipe(
        load_recipe("demo/finetune", [f"output_dir={folder}", f"data.features={folder / 'features'}"]),
        folder / "model" / "recipe.yaml",
    )
    return folder


@pytest.fixture(scope="module")
def benchmark():
    generator = np.random.default_rng(0)
    captions = [{"caption_id": "0", "language": "en", "source": "human"}, {"caption_id": "0", "language": "de"}]
    videos = [
        {"video_id": f"v{n}", "captions": [one | {"text": " ".join(generator.choice(WORDS, 4))} for one in captions]}
        for n in range(12)
    ]
    return videos, {f"v{n}": generator.normal(size=(3, 10)).astype(np.float16) for n in range(12)}


def run(folder, output, **options):
    evaluate(str(folder / "model"), languages="en,de", output=output, device="cpu", **options)
    return json.loads((output / "results.json").read_text())


@pytest.mark.parametrize("own_language", [False, True])
def test_ranks_are_those_of_the_corrected_scores(benchmark, own_language):
    videos, features = benchmark
    model, processor = tiny_model(), tiny_processor()
    corrections = Corrections(BANK, "always", own_language, offsets=True).fitted(model, processor)
    found = rank_benchmark(model, processor, videos, features, ["en", "de"], corrections=corrections)[TEXT_TO_VIDEO]
    video_embeds = F.normalize(model.encode_videos(list(features.values()), processor), dim=1)
    unit = {lang: F.normalize(model.encode_texts(texts, processor), dim=1) for lang, texts in BANK.texts.items()}
    offset = {"en": 0.0, "de": unit["de"].mean(0) - unit["en"].mean(0)}
    moved = {language: unit[language] - offset[language] for language in unit}
    for column, language in enumerate(("en", "de")):
        queries = model.encode_texts([video["captions"][column]["text"] for video in videos], processor)
        similarity = F.normalize(F.normalize(queries, dim=1) - offset[language], dim=1) @ video_embeds.T
        bank = moved[language] if own_language else torch.cat([moved["en"], moved["de"]])
        numbers = (20 * F.normalize(bank, dim=1) @ video_embeds.T).exp().mean(0).log() / 20
        scores = similarity - numbers
        expected = 1 + (scores > scores.diagonal()[:, None] - 1e-6).sum(1) - 1
        assert found[language].ranks.tolist() == expected.tolist()


def test_results_show_scores_with_and_without_and_say_by_which_texts(folder, tmp_path, capsys):
    plain = run(folder, tmp_path / "plain")
    results = run(folder, tmp_path / "both", hubness="gated")
    assert "corrected" not in plain
    assert results["scores"] == plain["scores"]
    corrected = results["corrected"]
    assert corrected["bank"] == {"source": "fluent_emoji_9, split finetune", "texts": {"en": 337}} or (
        corrected["bank"]["source"].endswith("split finetune") and list(corrected["bank"]["texts"]) == ["en"]
    )
    assert (corrected["hubness"], corrected["beta"], corrected["language_offsets"]) == ("gated", 20.0, False)
    assert corrected["scores"]["text_to_video"]["en"]["queries"] == 420
    assert set(corrected["intervals_95"]["de"]) == {"R@1", "R@5", "R@10"}
    table = (tmp_path / "both" / "results.md").read_text()
    assert "Corrected by QB-Norm (gated, β = 20), measured with" in table
    assert "| text to video, corrected | en | de | mean |" in table
    capsys.readouterr()


def test_test_queries_are_refused_as_a_bank(folder, tmp_path):
    with pytest.raises(PolyvidError, match="describes 420 of the tested videos, such as .*: test queries cannot be"):
        bank = QueryBank({"en": ["a"]}, "x", frozenset(VideoFeatures(folder / "features")))
        bank.check_untested(load_videos(DataRecipe(dataset="fluent_emoji_9"), "test"), LANGUAGES)
    videos = load_videos(DataRecipe(dataset="fluent_emoji_9", caption_kinds=["name"]), "test")
    names = [c["text"] for video in videos for c in video["captions"] if c["language"] == "de"]
    (tmp_path / "bank.tsv").write_text("\n".join(["de", *names]), encoding="utf-8")
    with pytest.raises(PolyvidError, match=r"The query bank \(bank.tsv\) holds 420 of the 420 de queries"):
        run(folder, tmp_path / "out", hubness="gated", query_bank=str(tmp_path / "bank.tsv"))
    with pytest.raises(PolyvidError, match="describes .* of the tested videos"):
        run(folder, tmp_path / "out", hubness="gated", split="finetune")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(hubness="on"), "--hubness must be gated or always, not 'on'"),
        (dict(hubness="always", beta=0.0), "--beta must be greater than 0, not 0"),
        (dict(language_offsets=True), "needs texts in English and in another language, .* has en"),
        (dict(own_language_bank=True), "corrects nothing by itself: pass --hubness or --language-offsets"),
        (dict(hubness="gated", query_bank="bank.txt"), "bank.txt"),
    ],
)
def test_what_cannot_be_corrected_is_refused_in_one_line(folder, tmp_path, options, message):
    with pytest.raises((PolyvidError, FileNotFoundError), match=message):
        run(folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_recipe_needs_a_table(tmp_path):
    with pytest.raises(PolyvidError, match="does not say which captions it was trained on: pass a table"):
        QueryBank.of("training", None)
    (tmp_path / "bank.csv").write_text("en\na dog\n\nthe cat\n", encoding="utf-8")
    assert QueryBank.of(str(tmp_path / "bank.csv"), None).texts == {"en": ["a dog", "the cat"]}


def test_the_recipe_of_a_model_from_the_hub_chooses_no_files_of_this_machine(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    recipe = load_recipe("vtt_en", [f"data.data_dir={tmp_path / 'private'}"])
    with pytest.raises(PolyvidError, match="outside the working folder, .* pass --query-bank with a table"):
        QueryBank.of("training", recipe, is_strangers=True)


def test_hub_numbers_follow_the_queries_device_and_type():
    numbers = HubNumbers.of(torch.eye(3), torch.ones(2, 3))
    assert numbers(torch.rand(4, 3).half()).dtype == torch.float16
