"""Nothing is limited to the paper's nine languages: thirteen go through samplers, evaluation, tables, plots, card."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pytest
from benchmark_files import write_small_msrvtt
from huggingface_hub import ModelCard
from matplotlib import font_manager

from polyvid.dataset_scripts.building import shard_name, write_shard
from polyvid.dataset_scripts.features import FEATURES, features_to_row, rows_to_table
from polyvid.dataset_scripts.schema import LANGUAGES, in_table_order, language_name
from polyvid.hub_cards.publish.cards import model_card
from polyvid.hub_cards.publish.facts import find_evaluations
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.data.captions import PivotSampler
from polyvid.train.data.clips import ClipSampler
from polyvid.train.data.videos import VideoFeatures, load_videos
from polyvid.train.loop.curves import plot_curves
from polyvid.train.recipe import load_recipe, save_recipe
from polyvid.train.scoring.contact_sheet import search_by_own_captions, write_html, write_png
from polyvid.train.scoring.evaluate import evaluate
from polyvid.train.scoring.recall_plot import recall_figure
from polyvid.train.scoring.tables import tables
from tiny import VIDEO_FEATURE_DIM, tiny_model, tiny_processor

ROOT = Path(__file__).parents[2]
THIRTEEN = [*LANGUAGES, "hi", "ja", "mr", "pt-BR"]
FORTY = [*THIRTEEN, *"ar bn da el fa fi fil ha he hr hu id it ko mi nl no pl quz ro sv ta te th tr uk ur".split()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small MSR-VTT, translated into twelve languages, with features and a model whose recipe names all of them."""
    folder = tmp_path_factory.mktemp("thirteen")
    data = write_small_msrvtt(folder / "msrvtt")
    for language in THIRTEEN[1:]:
        texts = {f"video{n}": [f"{language} {k} of {n}" for k in range(20)] for n in range(12)}
        texts |= {f"video{n}": texts[f"video{n}"][:1] for n in (9, 11)}  # the test list has one sentence a video
        path = data / "translations" / f"captions_{language}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(texts), encoding="utf-8")
    generator = np.random.default_rng(0)
    rows = [features_to_row(f"video{n}", generator.normal(size=(3, VIDEO_FEATURE_DIM))) for n in range(12)]
    write_shard([rows_to_table(rows)], data / "features" / shard_name("train", 0, 1), FEATURES.arrow_schema)
    tiny_model().save_pretrained(folder / "model")
    tiny_processor().save_pretrained(folder / "model")
    settings = {"dataset": "msrvtt", "data_dir": data, "features": data / "features", "config": "1k-A"}
    settings |= {"translations": data / "translations", "check_counts": False, "languages": f"[{','.join(THIRTEEN)}]"}
    changes = [f"data.{key}={value}" for key, value in settings.items()]
    recipe = load_recipe(ROOT / "train" / "configs" / "vtt_en.yaml", [*changes, "model.init_from=null"])
    save_recipe(recipe, folder / "model" / "recipe.yaml")
    evaluate(str(folder / "model"), check_counts=False, output=folder / "results" / "run", device="cpu")
    return folder


@pytest.fixture(scope="module")
def results(folder) -> dict:
    return json.loads((folder / "results" / "run" / "results.json").read_text(encoding="utf-8"))


def test_codes_are_checked_and_nothing_else():
    assert in_table_order(reversed(THIRTEEN)) == THIRTEEN
    assert [language_name(code) for code in THIRTEEN[8:]] == [
        "Spanish",
        "Hindi",
        "Japanese",
        "Marathi",
        "Portuguese (Brazil)",
    ]
    vtt = ROOT / "train" / "configs" / "vtt_en.yaml"
    assert load_recipe(vtt, ["data.languages=[cz,PT-br,hin]"]).data.languages == ["cs", "pt-BR", "hi"]
    with pytest.raises(PolyvidError, match="Unknown language 'xx'"):
        load_recipe(vtt, ["data.languages=[en,xx]"])


def test_training_draws_from_all_of_them(folder):
    data = load_recipe(folder / "model" / "recipe.yaml").data
    videos = load_videos(data, "train", data.languages)
    sampler = PivotSampler(videos, VideoFeatures(data.features), data.languages, pivots=True)
    pairs = [(sampler[index]["language"], sampler[index]["pivot_language"]) for index in range(len(sampler))]
    assert len(pairs) == 6 * 20 * 13
    assert {language for language, _ in pairs} == {language for _, language in pairs} == set(THIRTEEN)


def test_clips_are_drawn_in_all_of_them():
    subtitles = {language: [{"text": [language], "start": [0.0], "end": [9.0]}] * 400 for language in THIRTEEN}
    features = [features_to_row(f"video{n}", np.ones((4, 2))) for n in range(400)]
    table = pa.table(rows_to_table(features).to_pydict() | subtitles, schema=None)
    table = table.set_column(2, "video_features", table["video_features"].cast(pa.large_binary()))
    drawn = [clip["language"] for clip in ClipSampler(THIRTEEN).sample(table, epoch=0)]
    assert set(drawn) == set(THIRTEEN)
    assert max(map(drawn.count, THIRTEEN)) < 60  # 31 each, give or take


def test_all_means_every_language_with_captions(results, folder):
    assert list(results["counts"]["queries"]) == list(results["scores"]["all"]["text_to_video"]) == THIRTEEN
    written = (folder / "results" / "run" / "results.md").read_text(encoding="utf-8")
    table = written.split("\n\n")[2].splitlines()
    assert table[0] == "| text to video | queries | R@1 | R@5 | R@10 | MedR | MnR | MRR | nDCG@10 | text ceiling |"
    assert [row.split(" | ")[0] for row in table[10:]] == [
        "| Spanish (es)",
        "| Hindi (hi)",
        "| Japanese (ja)",
        "| Marathi (mr)",
        "| Portuguese (Brazil) (pt-BR)",
        "| mean",
    ]
    assert all(row.count("|") == 11 for row in table)


def test_the_tables_beyond_the_papers_hold_the_others_last(folder, capsys):
    tables(folder / "results")
    shown = capsys.readouterr().out.split("## Beyond the paper's tables")[1]
    assert [row.split(" | ")[3] for row in shown.split("## ")[0].splitlines() if "1k-A" in row][-4:] == THIRTEEN[9:]


def test_the_card_lists_them(folder):
    evaluations = find_evaluations(folder / "model", "vtt_en", [folder / "results"])
    card = ModelCard(str(model_card(folder / "model", "lab/searcher", evaluations)))
    assert card.data.language == [*LANGUAGES, "hi", "ja", "mr", "pt"]  # the Hub lists languages, not regions
    named = [result.metric_name for result in card.data.eval_results]
    assert "R@1 text to video, Portuguese (Brazil)" in named
    rows = [line for line in card.text.splitlines() if line.startswith("| Portuguese (Brazil) (pt-BR)")]
    assert [row.count("|") for row in rows] == [11, 10]  # in one direction with the interval
    lines = card.text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("| text to video"))
    assert [line.count("|") for line in lines[start : start + 15]] == [11] * 15  # no line between them is empty
    assert f"| {' '.join(THIRTEEN)} | 6 |" in card.text


@pytest.mark.parametrize("languages", [LANGUAGES, THIRTEEN, FORTY], ids=[9, 13, 40])
def test_names_in_the_plot_do_not_overlap(languages):
    scores = {code: {"R@1": 10.0, "R@5": 20.0, "R@10": 30.0} for code in languages}
    intervals = {code: {"R@1": [8.0, 12.0]} for code in languages}
    results = {"name": "a", "protocol": {"benchmark": "b"}, "intervals_95": intervals}
    figure = recall_figure(results | {"scores": {"all": {"text_to_video": scores}}})
    figure.canvas.draw()
    axes = figure.axes[0]
    labels = [label for label in (*axes.get_xticklabels(), *axes.get_yticklabels()) if label.get_text()[0].isalpha()]
    boxes = [label.get_window_extent() for label in labels]
    assert [label.get_text() for label in labels] == [language_name(code) for code in languages]
    assert not any(box.overlaps(other) for index, box in enumerate(boxes) for other in boxes[:index])
    assert max(figure.get_size_inches()) < 20


def test_curves_of_forty_languages_are_a_picture_of_sensible_size(tmp_path):
    (tmp_path / "steps.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    history = [{"epoch": n} | {f"R@1 {code}": n * i for i, code in enumerate(FORTY)} for n in (1, 2)]
    plot_curves(tmp_path / "steps.jsonl", history, tmp_path / "curves.png")
    height, width, _ = plt.imread(tmp_path / "curves.png").shape
    assert 900 < height < 1600 and width == 1200


def test_a_sheet_shows_them_and_says_which_letters_no_font_has(folder, tmp_path, capsys, monkeypatch, recwarn):
    usual = [entry for entry in font_manager.fontManager.ttflist if entry.name == "DejaVu Sans"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", usual)
    data = load_recipe(folder / "model" / "recipe.yaml").data
    videos = load_videos(data, "test", "all")
    clip = ROOT / "dataset_scripts" / "fluent_emoji_9" / "clips" / "1f418.mp4"
    videos = [video | {"clip": str(clip)} for video in videos]
    next(caption for caption in videos[0]["captions"] if caption["language"] == "hi")["text"] = "हाथी"
    features = VideoFeatures(data.features)
    sheets = search_by_own_captions(tiny_model(), tiny_processor(), videos, features, ["video9"])
    assert [query.language for query in sheets["video9"]] == THIRTEEN
    write_html(sheets, videos, "thirteen", tmp_path / "index.html")
    assert "<small>Portuguese (Brazil)" in (tmp_path / "index.html").read_text(encoding="utf-8")
    write_png(sheets["video9"], videos, "video9", tmp_path / "sheet.png")
    assert "No installed font has all letters of Hindi: the PNG" in capsys.readouterr().out
    assert not [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)]  # said once, by us
