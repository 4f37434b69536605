"""`polyvid evaluate` on files of the benchmarks' formats: scores, counts, missing videos, results on disk, refusals."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from benchmark_files import write_msvd, write_multi30k, write_small_msrvtt

from polyvid.dataset_scripts.building import shard_name, write_shard
from polyvid.dataset_scripts.features import FEATURES, features_to_row, rows_to_table
from polyvid.dataset_scripts.locking import LockedError
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.data.captions import PivotSampler
from polyvid.train.data.videos import load_videos
from polyvid.train.loop.validation import ValidationSet
from polyvid.train.recipe import DataRecipe, load_recipe, save_recipe
from polyvid.train.scoring import benchmark as benchmarks
from polyvid.train.scoring.compare import compare
from polyvid.train.scoring.evaluate import evaluate
from polyvid.train.scoring.evaluation import count_blank_captions, evaluate_retrieval, rank_benchmark
from polyvid.train.scoring.quantization import quantize_text_tower
from tiny import VIDEO_FEATURE_DIM, WORDS, tiny_model, tiny_processor

CONFIGS = Path(__file__).parents[3] / "train" / "configs"


def captioned(number: int, *captions: tuple[str, str]) -> dict:
    return {
        "video_id": f"video{number}",
        "captions": [
            {"caption_id": str(index), "language": language, "text": text, "source": "human"}
            for index, (language, text) in enumerate(captions)
        ],
    }


@pytest.fixture(scope="module")
def benchmark():
    """Twelve videos, one to three English captions each, German for every second."""
    generator = np.random.default_rng(0)
    videos, features = [], {}
    for number in range(12):
        captions = [("en", " ".join(generator.choice(WORDS, 4))) for _ in range(1 + number % 3)]
        captions += [("de", " ".join(generator.choice(WORDS, 3)))] if number % 2 else []
        videos.append(captioned(number, *captions))
        features[f"video{number}"] = generator.normal(size=(2 + number % 4, VIDEO_FEATURE_DIM)).astype(np.float16)
    return videos, features


def naive(model, processor, videos, features, language):
    """One text and one video at a time, without batches, sorting or blocks; Python loops over cosines."""

    def text(caption):
        return model.get_text_features(**processor(text=caption, return_tensors="pt")).pooler_output[0]

    def video(array):
        return model.get_video_features(**processor(videos=[array], return_tensors="pt")).pooler_output[0]

    with torch.inference_mode():
        shown = {v["video_id"]: video(features[v["video_id"]]) for v in videos if v["video_id"] in features}
        captions = [
            (v["video_id"], text(c["text"])) for v in videos for c in v["captions"] if c["language"] == language
        ]
    last = len(videos) + 1
    to_video, to_text = [], []
    for right, embed in captions:
        cosine = {name: F.cosine_similarity(embed, other, dim=0).item() for name, other in shown.items()}
        others = [value for name, value in cosine.items() if name != right]
        to_video.append(1 + sum(value >= cosine[right] - 1e-6 for value in others) if right in shown else last)
    for right in dict.fromkeys(name for name, _ in captions):
        if right not in shown:
            to_text.append(last)
            continue
        cosines = [
            (name == right, F.cosine_similarity(shown[right], embed, dim=0).item())
            for name, embed in captions
            if name in shown
        ]
        best = max(value for is_right, value in cosines if is_right)
        to_text.append(1 + sum(value >= best - 1e-6 for is_right, value in cosines if not is_right))
    return to_video, to_text


@pytest.mark.parametrize("missing", [(), (0, 5, 7)])
def test_both_directions_equal_a_search_one_by_one(benchmark, missing):
    videos, features = benchmark
    features = {name: array for name, array in features.items() if name not in {f"video{i}" for i in missing}}
    model, processor = tiny_model(), tiny_processor()
    found = rank_benchmark(model, processor, videos, features, ["en", "de", "fr"])
    assert list(found["text_to_video"]) == list(found["video_to_text"]) == ["en", "de"]
    for language in ("en", "de"):
        to_video, to_text = naive(model, processor, videos, features, language)
        assert found["text_to_video"][language].ranks.tolist() == to_video
        assert found["video_to_text"][language].ranks.tolist() == to_text


def test_a_video_without_features_is_not_found_and_can_be_left_out(benchmark):
    videos, features = benchmark
    features = {name: array for name, array in features.items() if name != "video3"}
    ranks = rank_benchmark(tiny_model(), tiny_processor(), videos, features, ["de"])["text_to_video"]["de"]
    everything, present = ranks.scores(), ranks.scores(only_with_features=True)
    assert (everything["queries"], present["queries"]) == (6, 5)
    assert everything["R@10"] == pytest.approx(present["R@10"] * 5 / 6)
    assert ranks.ranks[ranks.video_ids == "video3"] == [13]


def test_scores_of_the_demo_are_those_of_text_to_video(benchmark):
    videos, features = benchmark
    scores = evaluate_retrieval(tiny_model(), tiny_processor(), videos, features, ["de"])
    assert scores["de"]["queries"] == 6
    assert set(scores["de"]) == {"queries", "R@1", "R@5", "R@10", "MedR", "MnR", "MRR", "nDCG@10"}


def test_blank_captions_are_no_queries_in_evaluation_validation_and_training(benchmark):
    videos, features = benchmark
    says_nothing = {"caption_id": "x", "language": "en", "text": " \n"}
    blank = [video | {"captions": [*video["captions"], says_nothing]} for video in videos]
    model, processor = tiny_model(), tiny_processor()
    expected = evaluate_retrieval(model, processor, videos, features, ["en"])
    assert evaluate_retrieval(model, processor, blank, features, ["en"]) == expected
    recalls = ValidationSet(blank, features).recall(model, processor)["en"]
    assert recalls == pytest.approx({name: expected["en"][name] for name in recalls})
    assert len(PivotSampler(blank, features)) == expected["en"]["queries"]


def test_no_features_at_all_is_an_error(benchmark):
    with pytest.raises(ValueError, match="None of the 12 videos has features"):
        rank_benchmark(tiny_model(), tiny_processor(), benchmark[0], {}, ["en"])


@pytest.fixture(scope="module")
def msvd(tmp_path_factory):
    """1,310 videos of YouTube2Text, ten of them in the test split; one of these is gone from the web."""
    folder = tmp_path_factory.mktemp("msvd")
    write_msvd(folder, 1310)
    videos = load_videos(DataRecipe(dataset="msvd", data_dir=str(folder), check_counts=False), "test")
    generator = np.random.default_rng(0)
    rows = [features_to_row(video["video_id"], generator.normal(size=(3, VIDEO_FEATURE_DIM))) for video in videos[:-1]]
    schema = FEATURES.arrow_schema.remove_metadata()
    write_shard([rows_to_table(rows)], folder / "features" / shard_name("train", 0, 1), schema)
    for seed in (0, 1):
        tiny_model(seed=seed).save_pretrained(folder / f"model{seed}")
        tiny_processor().save_pretrained(folder / f"model{seed}")
    return folder


def run(msvd, output, model="model0", **options):
    defaults = dict(benchmark="YouTube2Text", features=msvd / "features", data_dir=msvd, check_counts=False)
    evaluate(str(msvd / model), output=output, device="cpu", **(defaults | options))
    return json.loads((output / "results.json").read_text())


def test_results_tell_how_they_came_about(msvd, tmp_path, capsys):
    results = run(msvd, tmp_path / "a", name="vtt_en_mmp")
    assert results["name"] == "vtt_en_mmp"
    assert results["protocol"] | {"source": ""} == {
        "benchmark": "msvd",
        "protocol": "standard",
        "split": "test",
        "source": "",
        "caption_kinds": None,
        "captions_by": {"en": ["human"], "zh": ["human"]},
    }
    counts = results["counts"]
    assert (counts["videos"], counts["videos_with_features"], counts["queries"]) == (10, 9, {"en": 20, "zh": 10})
    assert counts["missing_videos"] == ["yt-1310_id_1310_1319"]
    assert results["scores"]["all"]["text_to_video"]["en"]["queries"] == 20
    assert results["scores"]["with_features"]["text_to_video"]["en"]["queries"] == 18
    low, high = results["intervals_95"]["zh"]["R@5"]
    assert low <= results["scores"]["all"]["text_to_video"]["zh"]["R@5"] <= high
    assert {"polyvid", "torch", "git_revision", "date"} <= set(results["environment"])
    assert results["text_ceilings"]["zh"]["queries"] == 10  # whether or not the video has features

    table = (tmp_path / "a" / "results.md").read_text()
    assert table in capsys.readouterr().out
    assert "10 videos, 9 of them with features" in table
    ceiling = results["text_ceilings"]["zh"]["R@1"]
    assert f"| text ceiling |  | {ceiling:.1f} | {ceiling:.1f} |" in table
    assert (tmp_path / "a" / "recall.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "a").glob(".*"))


def test_text_ceilings_can_be_left_out(msvd, tmp_path):
    assert "text_ceilings" not in run(msvd, tmp_path / "out", text_ceilings=False)
    assert "eiling" not in (tmp_path / "out" / "results.md").read_text()


def test_a_video_model_searches_images_in_other_languages(msvd, tmp_path):
    """Cross-modal and cross-lingual, zero-shot (§5.6's future work): an image is a video of one second."""
    write_multi30k(tmp_path, {"train": 2, "val": 2, "test": 5})
    videos = load_videos(DataRecipe(dataset="multi30k", data_dir=str(tmp_path), check_counts=False), "test")
    generator = np.random.default_rng(0)
    rows = [features_to_row(video["video_id"], generator.normal(size=(1, VIDEO_FEATURE_DIM))) for video in videos]
    path = tmp_path / "images" / shard_name("train", 0, 1)
    write_shard([rows_to_table(rows)], path, FEATURES.arrow_schema.remove_metadata())
    results = run(msvd, tmp_path / "out", benchmark="m30k", features=tmp_path / "images", data_dir=tmp_path)
    assert results["protocol"]["benchmark"] == "multi30k"
    assert results["counts"]["queries"] == {"en": 25, "de": 25, "fr": 5, "cs": 5}
    assert results["scores"]["all"]["video_to_text"]["de"]["queries"] == 5


def test_translations_come_from_the_recipe_and_all_are_the_languages_they_are_in(tmp_path):
    """A model fine-tuned with machine-translated captions (§5.1) is tested with them without being told where."""
    data, model = write_small_msrvtt(tmp_path / "msrvtt"), tmp_path / "model"
    (data / "translations").mkdir()
    lines = [
        json.dumps(dict(video_id=f"video{n}", caption_id=f"ret{k}", language="de", text="der Hund", source="opus-mt"))
        for k, n in enumerate((9, 11))
    ]
    (data / "translations" / "de.jsonl").write_text("\n".join(lines) + "\n")
    rows = [features_to_row(f"video{n}", np.ones((2, VIDEO_FEATURE_DIM))) for n in (9, 11)]
    write_shard([rows_to_table(rows)], data / "features" / shard_name("train", 0, 1), FEATURES.arrow_schema)
    tiny_model().save_pretrained(model)
    tiny_processor().save_pretrained(model)
    recipe = dict(dataset="msrvtt", data_dir=str(data), features=str(data / "features"), config="1k-A")
    recipe["translations"] = str(data / "translations")
    save_recipe(
        load_recipe(CONFIGS / "vtt_en.yaml", [f"data.{k}={v}" for k, v in recipe.items()]), model / "recipe.yaml"
    )
    evaluate(str(model), check_counts=False, output=tmp_path / "out", device="cpu")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["counts"]["queries"] == {"en": 2, "de": 2}
    assert results["protocol"]["captions_by"] == {"de": ["opus-mt"], "en": ["human"]}

    (data / "translations").rename(data / "elsewhere")  # on a machine that has none, people's captions are left
    evaluate(str(model), check_counts=False, output=tmp_path / "other", device="cpu")
    assert json.loads((tmp_path / "other" / "results.json").read_text())["counts"]["queries"] == {"en": 2}


def test_texts_in_int8_report_what_they_cost_in_recall(msvd, tmp_path):
    results = run(msvd, tmp_path / "out", int8=True)
    int8, whole = results["int8"]["scores"]["text_to_video"]["en"], results["scores"]["all"]["text_to_video"]["en"]
    assert int8["queries"] == whole["queries"]
    table = (tmp_path / "out" / "results.md").read_text()
    assert f"| R@5 | {int8['R@5'] - whole['R@5']:+.1f} |" in table.split("int8 less float32")[1]


def test_int8_texts_are_near_the_model_s_own_and_videos_are_the_same():
    model, processor = tiny_model(), tiny_processor()
    quantized = quantize_text_tower(model)
    texts, video = ["a dog runs in the park", "der hund", "狗 跑"], np.ones((3, VIDEO_FEATURE_DIM), np.float32)
    ours, theirs = (each.encode_texts(texts, processor) for each in (model, quantized))
    assert 0.99 < F.cosine_similarity(ours, theirs).min() < 1 - 1e-6  # rounded, but near
    torch.testing.assert_close(*(each.encode_videos([video], processor) for each in (model, quantized)))
    torch.testing.assert_close(ours, model.encode_texts(texts, processor))  # the model given is as it was
    with pytest.raises(ValueError, match="int8 starts from float32, the model is in torch.bfloat16"):
        quantize_text_tower(tiny_model().bfloat16())


def test_two_runs_are_compared_query_by_query(msvd, tmp_path, capsys):
    for model in (0, 1):
        run(msvd, tmp_path / str(model), f"model{model}", languages="zh")
    capsys.readouterr()
    compare(tmp_path / "0", tmp_path / "1", "MRR")
    table = capsys.readouterr().out
    assert "| Chinese |" in table
    assert "English" not in table
    compare(tmp_path / "0", tmp_path / "0", "R@5")
    assert "+0.00 | 1.0000 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(benchmark="vttt"), "Unknown dataset 'vttt': choose from"),
        (dict(benchmark="vttt", features=None), "Unknown dataset 'vttt': choose from"),
        (dict(benchmark=None), "has no recipe that names a benchmark: pass --benchmark"),
        (dict(features=None), "Pass --features: the folder with the features of the videos of msvd"),
        (dict(languages="de"), "has no human captions in de: pass translations="),
        (dict(languages="xx"), "Unknown language 'xx'"),
        (dict(check_counts=True), "expected 670 videos, found 10"),
        (dict(split="dev"), "has no split 'dev': choose from train validation test"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_line(msvd, tmp_path, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(msvd, tmp_path / "none", **options)
    assert not (tmp_path / "none").exists()


def test_a_misspelt_model_is_not_looked_for_on_the_hub(msvd, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.create_connection", lambda *_: pytest.fail("asked the network"))
    with pytest.raises(FileNotFoundError, match="There is no model at '.*/modell0'"):
        run(msvd, tmp_path / "none", model="modell0")


@pytest.mark.parametrize("option", ["features", "data_dir", "translations", "dataset"])
def test_the_recipe_of_a_model_from_the_hub_reads_nothing_outside_the_working_folder(tmp_path, monkeypatch, option):
    """It came with the model, from a stranger. What it names inside, and what the user names, is read."""
    (tmp_path / "private").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    recipe = load_recipe(CONFIGS / "vtt_en.yaml", [f"data.{option}={tmp_path / 'private'}"])
    monkeypatch.setattr(benchmarks, "recipe_of", lambda model: recipe)
    (tmp_path / "cache" / "models--lab--mmp").mkdir(parents=True)  # as if the model had come from the Hub
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    flag = "--benchmark" if option == "dataset" else f"--{option.replace('_', '-')}"
    with pytest.raises(PolyvidError, match=f"recipe of lab/mmp names .*private, outside the working .* pass {flag}"):
        evaluate("lab/mmp")
    (tmp_path / "work" / "link").symlink_to(tmp_path / "private")
    setattr(recipe.data, option, "link")
    with pytest.raises(PolyvidError, match="names link, outside the working folder"):
        evaluate("lab/mmp")
    if option != "dataset":
        named = {"features": tmp_path / "private"} | {option: tmp_path / "private"}
        with pytest.raises(FileNotFoundError, match="No train-.*.parquet in .*private"):  # the user may name any
            evaluate("lab/mmp", **named)


def test_a_recipe_that_ships_says_where_its_model_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no checkout around
    (tmp_path / "outputs").mkdir()
    with pytest.raises(FileNotFoundError, match="There is no model at 'outputs/demo/mmp'"):
        evaluate(config="demo/mmp")
    with pytest.raises(PolyvidError, match="Pass --model, a folder or Hub id, or --config"):
        evaluate()


def test_blank_captions_are_no_queries_and_are_counted(benchmark):
    videos, features = benchmark
    blank = [captioned(video["video_id"].removeprefix("video"), ("en", " \n"), ("de", "")) for video in videos[:3]]
    blank = [
        {**video, "captions": [*extra["captions"], *video["captions"]]}
        for video, extra in zip(videos[:3], blank, strict=True)
    ]
    model, processor = tiny_model(), tiny_processor()
    expected = rank_benchmark(model, processor, videos, features, ["en", "de"])
    found = rank_benchmark(model, processor, [*blank, *videos[3:]], features, ["en", "de"])
    for direction, language in ((d, code) for d in expected for code in ("en", "de")):
        assert np.array_equal(found[direction][language].ranks, expected[direction][language].ranks)
    assert count_blank_captions([*blank, *videos[3:]], ["en", "de", "fr"]) == {"en": 3, "de": 3}


def test_one_bar_shows_the_whole_evaluation(benchmark, capsys):
    videos, features = benchmark
    rank_benchmark(tiny_model(), tiny_processor(), videos, features, ["en", "de"], progress="evaluate")
    shown = capsys.readouterr().err
    texts = sum(len(video["captions"]) for video in videos)
    assert f"{len(videos) + texts}/{len(videos) + texts}" in shown
    assert shown.count("100%") == shown.count("evaluate: 100%") and "German" in shown


def test_a_second_evaluation_into_one_folder_is_refused(msvd, tmp_path):
    code = (
        "import sys; from polyvid.dataset_scripts.locking import locked\n"
        "with locked(sys.argv[1], 'polyvid evaluate'): print('locked', flush=True); sys.stdin.readline()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"locked\n"
    try:
        with pytest.raises(LockedError, match=f"process {holder.pid} on "):
            run(msvd, tmp_path / "out")
    finally:
        holder.communicate(b"done\n")


def test_comparing_what_was_not_evaluated_says_how_to(tmp_path):
    with pytest.raises(FileNotFoundError, match="polyvid evaluate makes it"):
        compare(tmp_path, tmp_path)
