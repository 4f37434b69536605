"""Cards say what files say: every language's score, every recipe's value, and no number of their own."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import synthetic_howto100m as synthetic
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from published import EMOJI, emoji_ids, write_features, write_model

from polyvid.dataset_scripts.build import build
from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.hub_cards.publish.cards import dataset_card, model_card
from polyvid.hub_cards.publish.facts import bibtex, find_evaluations
from polyvid.hub_cards.publish.files import collect_model
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.recipe import DataRecipe, ModelRecipe, load_recipe, save_recipe
from polyvid.train.scoring.evaluate import evaluate

REPO = "lab/searcher"
NUMBER = re.compile(r"(?<![\w@.:/-])\d[\d,]*(?:\.\d+)?(?!\.?\w|[@/-])")
OF_THE_TEMPLATE = {"95"}  # the width of the intervals


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A model, and its results on the embedded benchmark by `polyvid evaluate`; one clip lacks features."""
    folder = tmp_path_factory.mktemp("outputs")
    write_features(folder / "features", emoji_ids("validation")[1:])
    write_model(folder / "mmp")
    evaluate(str(folder / "mmp"), split="validation", output=folder / "results" / "mmp", device="cpu")
    return folder / "mmp"


@pytest.fixture(scope="module")
def card(run) -> ModelCard:
    return card_of(run, results_of(run)[0])


def card_of(folder: Path, *results: Path) -> ModelCard:
    return model_card(folder, REPO, find_evaluations(folder, load_recipe(folder / "recipe.yaml").name, results))


def results_of(run: Path) -> tuple[Path, dict]:
    file = run.parent / "results" / "mmp" / "results.json"
    return file, json.loads(file.read_text())


def values(content) -> list[float]:
    """Every number among the leaves of what a JSON or YAML file holds, and within its texts."""
    if isinstance(content, dict):
        return [number for key, value in content.items() for part in (key, value) for number in values(part)]
    if isinstance(content, list):
        return [number for value in content for number in values(value)]
    if isinstance(content, str):
        return [float(token.replace(",", "")) for token in NUMBER.findall(content)]
    return [float(content)] if isinstance(content, int | float) else []


def unsupported(card: str, sources: list[float]) -> list[str]:
    """The numbers of a card that no source holds, rounded to as many digits as the card shows."""
    missing = []
    for token in NUMBER.findall(card):
        digits = len(token.partition(".")[2])
        supported = any(round(value, digits) == float(token.replace(",", "")) for value in sources)
        if not supported and token not in OF_THE_TEMPLATE:
            missing.append(token)
    return missing


def counted_captions() -> list[float]:
    """Videos and captions of the training splits, counted from the benchmark's own files."""
    with open(EMOJI / "splits.csv", newline="") as file:
        splits = Counter(row["split_0"] for row in csv.DictReader(file))
    assert pq.read_table(EMOJI / "captions.parquet").num_rows == 9 * sum(splits.values())  # a name in each language
    return [splits["pretrain"], splits["finetune"]]


def sources_of(run: Path) -> list[float]:
    recipes = [yaml.safe_load((folder / "recipe.yaml").read_text()) for folder in (run, Path(f"{run}_pretrain"))]
    extraction = json.loads((run.parent / "features" / "extraction.json").read_text())
    citation = yaml.safe_load((EMOJI.parents[1] / "CITATION.cff").read_text())
    return values([results_of(run)[1], *recipes, extraction, citation]) + counted_captions()


def test_every_number_in_a_card_is_in_a_file(run, card):
    assert len(NUMBER.findall(str(card))) > 9 * 2 * 6 * 2  # languages, directions, scores; in metadata and text
    assert unsupported(str(card), sources_of(run)) == []


@pytest.mark.parametrize("typed", ["R@1 of 23.8 percent", "1,234 videos", "| 99.9 |", "value: 12.3456"])
def test_a_typed_number_would_be_noticed(run, card, typed):
    assert unsupported(f"{card}\n{typed}\n", sources_of(run))


def test_the_model_index_holds_every_language_in_both_directions(run, card):
    results = results_of(run)[1]
    card = ModelCard(str(card))  # as the Hub parses it
    found = {
        (result.metric_args["direction"], result.metric_args["language"], result.metric_type): result.metric_value
        for result in card.data.eval_results
    }
    assert len(found) == 2 * 9 * 7
    for direction, by_language in results["scores"]["all"].items():
        assert set(by_language) == set(LANGUAGES)
        for language, scores in by_language.items():
            assert found[direction, language, "recall_at_1"] == round(scores["R@1"], 4)
            assert found[direction, language, "mean_reciprocal_rank"] == round(scores["MRR"], 4)
    one = card.data.eval_results[0]
    assert (one.dataset_type, one.dataset_config, one.dataset_split) == ("fluent_emoji_9", "split_0", "validation")


def test_the_metadata_say_what_the_hub_sorts_and_links_by(run, card, tmp_path):
    evaluations = find_evaluations(run, "mmp", [results_of(run)[0]])
    data = ModelCard(str(model_card(run, REPO, evaluations, {"fluent_emoji_9": "lab/emoji"}))).data  # as the Hub does
    assert data.library_name == "transformers" and data.pipeline_tag == "feature-extraction"
    assert {"text-to-video-retrieval", "sentence-transformers"} <= set(data.tags)
    assert data.base_model == "intfloat/multilingual-e5-small" and data.language == list(LANGUAGES)
    assert data.datasets == ["lab/emoji"] and data.eval_results[0].dataset_type == "lab/emoji"
    assert all(example["text"] for example in data.widget)
    assert card.data.datasets is None  # a name of this project is no id on the Hub
    with pytest.raises(PolyvidError, match="trained nor evaluated on msrvtt: no recipe says what it was trained on"):
        model_card(tmp_path, REPO, [], {"msrvtt": "lab/msrvtt"})


def test_the_page_of_the_benchmark_gets_the_score_of_each_language(run, tmp_path):
    collect_model(run, tmp_path, REPO, [results_of(run)[0]], {"fluent_emoji_9": "lab/emoji"})
    file = tmp_path / ".eval_results" / "fluent_emoji_9-split_0-validation.yaml"
    entries = {entry.task_id: entry for entry in parse_eval_result_entries(yaml.safe_load(file.read_text("utf-8")))}
    scores = results_of(run)[1]["scores"]["all"]
    assert len(entries) == 2 * 9 and {entry.dataset_id for entry in entries.values()} == {"lab/emoji"}
    for direction in scores:
        for language in LANGUAGES:
            assert entries[f"split_0_{direction}_{language}"].value == round(scores[direction][language]["R@1"], 4)
    source = entries["split_0_text_to_video_de"].source_url.removeprefix(f"https://huggingface.co/{REPO}/blob/main/")
    assert (tmp_path / source).is_file()


def test_the_card_says_what_was_trained_how_and_what_is_missing(run, card):
    text = card.text
    counts = ", ".join(f"{language} 637" for language in LANGUAGES)
    assert (
        f"| `mmp_pretrain` | Fluent-Emoji-9 (`split_0`) | pretrain | {' '.join(LANGUAGES)} | 637 | {counts} |" in text
    )
    assert "| `mmp` | Fluent-Emoji-9 (`split_0`) | finetune | en | 400 | en 400 |" in text
    assert "| setting | `mmp_pretrain` | `mmp` |" in text and "| `training.epochs` | 31 | 10 |" in text
    assert "150 videos, 149 of them with features; queries of the others count as not found." in text
    assert "`net` (windows of 5 frames every 6, at 7 frames per second)" in text
    assert "[intfloat/multilingual-e5-small](https://huggingface.co/intfloat/multilingual-e5-small)" in text
    assert "Captions by: cs human, de human" in text
    assert "num_workers" not in text and "outputs/" not in text
    assert str(run.parent) not in text  # where it was made is nobody's affair


def test_without_results_a_card_says_so_and_has_no_model_index(run):
    card = card_of(run)
    assert "Machine and time: not recorded by this run." in card.text
    assert "Not evaluated." in card.text and "R@1" not in card.text
    assert card.data.eval_results is None
    assert unsupported(str(card), sources_of(run)) == []


def test_each_model_of_the_demo_gets_its_own_scores(run, tmp_path):
    scores = results_of(run)[1]["scores"]["all"]["text_to_video"]
    other = {language: by | {"R@1": 77.7} for language, by in scores.items()}
    protocol = {"dataset": "fluent_emoji_9", "config": "split_0", "split": "validation", "clips": 150}
    fitted = {name: {lang: {"R@1": r1} for lang in scores} for name, r1 in (("none", 66.6), ("mmp", 55.54))}
    content = {"protocol": protocol, "scores": {"none": other, "mmp": scores}, "baselines": {"kernel_ridge": fitted}}
    (tmp_path / "results.json").write_text(json.dumps(content))
    (tmp_path / "mmp").symlink_to(run)
    card = str(card_of(tmp_path / "mmp"))
    assert f"| R@1 | {scores['en']['R@1']:.1f} |" in card and "77.7" not in card and "66.6" not in card
    assert f"| R@1, RBF kernel ridge regression |{' 55.5 |' * len(scores)}" in card
    assert "closed forms to compare with" in card
    (none,) = find_evaluations(tmp_path / "none", "none")
    assert none.scores["text_to_video"]["sw"]["R@1"] == 77.7
    assert find_evaluations(tmp_path / "mp", "mp") == []


@pytest.mark.parametrize("most_columns", [1, 20])
def test_closed_forms_stand_beside_the_model_for_few_languages_and_for_many(run, tmp_path, monkeypatch, most_columns):
    monkeypatch.setattr("polyvid.hub_cards.publish.cards.MOST_COLUMNS", most_columns)
    _, results = results_of(run)
    found = {
        kind: {lang: {"R@1": r1} for lang in LANGUAGES} for kind, r1 in (("ridge", 12.34), ("kernel_ridge", 23.45))
    }
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results | {"closed_forms": found}))
    card = card_of(run, file).text
    of_text = card[card.index("text to video") : card.index("video to text")]
    shown = (
        "ridge regression | R@1, RBF kernel ridge" if most_columns == 1 else "| R@1, ridge regression | 12.3 | 12.3 |"
    )
    assert shown in of_text
    assert of_text.count("12.3") == of_text.count("23.4") + of_text.count("23.5") == len(LANGUAGES)
    assert "R@1, ridge" not in card[card.index("video to text") :]


def test_results_in_the_default_folder_count_if_they_are_of_this_model(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file, results = results_of(run)
    place = tmp_path / "outputs" / "results" / "mmp" / "fluent_emoji_9" / "results.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(results))
    assert len(find_evaluations(run, "mmp")) == 1
    place.write_text(json.dumps(results | {"model": str(tmp_path / "another" / "mmp")}))
    assert find_evaluations(run, "mmp") == []
    assert len(find_evaluations(run, "mmp", [place])) == 1  # moved, and said to be its results


def test_after_the_demo_and_mmp_evaluate_the_latter_counts(run, tmp_path, monkeypatch):
    """As the README goes: `make demo`, `polyvid evaluate`, `polyvid push`; both have searched the same videos."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "mmp").symlink_to(run)
    _, results = results_of(run)
    known = results["protocol"]
    protocol = {"dataset": known["benchmark"], "config": known["protocol"], "split": known["split"], "clips": 420}
    scores = results["scores"]["all"]["text_to_video"]
    (tmp_path / "demo" / "results.json").write_text(json.dumps({"protocol": protocol, "scores": {"mmp": scores}}))
    place = tmp_path / "outputs" / "results" / "mmp" / "fluent_emoji_9" / "results.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(results))
    (found,) = find_evaluations(tmp_path / "demo" / "mmp", "mmp")
    assert found.file.resolve() == place.resolve()
    place.unlink()
    assert find_evaluations(tmp_path / "demo" / "mmp", "mmp")[0].environment is None  # the demo's


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "There is no results.json in .*: `polyvid evaluate` writes it"),
        ('{"name": "vtt_en", "model": "elsewhere", "protocol": {}, "counts": {}}', "holds no results of 'mmp'"),
        ("{}", "is not what polyvid evaluate writes .KeyError: 'protocol'"),
        ("[", "is not what polyvid evaluate writes .JSONDecodeError"),
    ],
)
def test_results_that_are_none_or_of_another_model_are_refused(run, tmp_path, content, message):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        find_evaluations(run, "mmp", [tmp_path])


def test_the_card_names_the_machine_if_the_run_recorded_it(tmp_path):
    state = {"step": 1, "environment": {"device": "NVIDIA A100", "torch": "2.13.0", "git_revision": None}}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    assert "Machine: device NVIDIA A100, torch 2.13.0." in model_card(tmp_path, REPO, []).text


def test_settings_that_were_not_recorded_are_not_filled_in(run, tmp_path):
    recorded = yaml.safe_load((run / "recipe.yaml").read_text())
    recorded["model"]["init_from"], recorded["data"] = None, {"clips": "gone"}
    del recorded["training"]["schedule"]  # of a version that did not have it yet
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recorded))
    text = model_card(tmp_path, REPO, []).text
    assert "| `training.epochs` | 10 |" in text and "training.schedule" not in text


def test_limits_and_licences_are_those_of_the_data(run, card, tmp_path):
    emoji = card
    assert emoji.data.license == "apache-2.0" and "drawings of emoji" in emoji.text and "ASR" not in emoji.text
    recipe = load_recipe(run / "recipe.yaml")
    recipe.model = ModelRecipe()
    recipe.data = DataRecipe(clips=str(tmp_path / "gone"), languages=["en", "sw"])
    save_recipe(recipe, tmp_path / "recipe.yaml")
    card = card_of(tmp_path)
    assert (card.data.license, card.data.base_model) == ("other", "FacebookAI/xlm-roberta-large")
    assert card.data.language == ["en", "sw"]
    for limit in ("(ASR)", "machine translations", "not balanced", "subject to its terms"):
        assert limit in card.text
    assert "| training data Multi-HowTo100M | howto100m (https://www.di.ens.fr/" in card.text
    assert "| `mmp` | Multi-HowTo100M | train | en sw | not recorded | not recorded |" in card.text
    assert "emoji" not in card.text


def test_weights_trained_on_share_alike_drawings_are_not_under_the_licence_of_the_code(run, tmp_path):
    recipe = load_recipe(run / "recipe.yaml")
    recipe.data = DataRecipe(dataset="fluent_emoji_9", config="four_styles", features="gone", train_split="finetune")
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert card_of(tmp_path).data.license == "other"


def test_where_the_data_are_not_at_hand_the_protocol_says_the_counts(run, tmp_path):
    recipe = load_recipe(run / "recipe.yaml")
    recipe.model = ModelRecipe(init_from="lab/mmp")
    recipe.data = DataRecipe(dataset="msrvtt", data_dir=str(tmp_path / "gone"), features="gone", languages=["en", "de"])
    recipe.data.translations = "translated"
    save_recipe(recipe, tmp_path / "recipe.yaml")
    text = card_of(tmp_path).text
    assert "(`1k-A`) | train | en de | 6,513 | en 130,260 |" in text
    assert "The first stage started from `lab/mmp`" in text
    assert "translated by machine" in text


@pytest.mark.parametrize("backbone", ["outputs/my-backbone", "./backbone", "/data/models/backbone", "models/a/b"])
def test_a_backbone_whose_folder_is_gone_is_not_published_as_a_hub_id(run, tmp_path, backbone):
    recipe = load_recipe(run / "recipe.yaml")
    recipe.model = ModelRecipe(backbone=backbone)
    save_recipe(recipe, tmp_path / "recipe.yaml")
    with pytest.raises(PolyvidError, match=f"names the backbone '{backbone}', a folder that does not exist"):
        card_of(tmp_path)


def test_a_model_without_recipe_has_a_card_that_admits_it(tmp_path):
    card = model_card(tmp_path, REPO, [])
    assert "what it was trained on was not recorded" in card.text and "Not evaluated." in card.text
    assert card.data.license == "other"
    assert NUMBER.findall(card.text) == ["2021", "2021"]  # of the paper


def test_paper_and_software_are_cited_from_the_citation_file():
    paper, software = bibtex()
    assert paper.startswith("@inproceedings{huang2021multilingual,") and "Huang, Po-Yao and Patrick, Mandela" in paper
    assert software.startswith("@software{polyvid,")
    assert all(entry in str(model_card(Path("nowhere"), REPO, [])) for entry in (paper, software))


def test_a_dataset_card_keeps_what_is_there_and_counts_what_the_shards_hold(tmp_path):
    release = synthetic.write_release(tmp_path / "raw", 12)
    build("multi_howto100m", ["de", "cz"], data_dir=release, output_dir=tmp_path / "built", num_shards=2)
    card = dataset_card(tmp_path / "built", "lab/subtitles")
    assert [config["config_name"] for config in card.data.configs] == ["de", "cs"]
    assert 'load_dataset("lab/subtitles", "de", split="train", streaming=True)' in card.text
    assert "<this repository>" not in card.text and "## Licence and limits" in card.text
    for language in ("de", "cs"):
        rows = len(json.loads((release / f"how2_{language}.json").read_text()))
        size = sum(path.stat().st_size for path in (tmp_path / "built" / language).glob("*.parquet"))
        assert f"| `{language}` | `train` | {rows} | 2 | {size:,} |" in card.text
    assert "@software{polyvid," in card.text and card.text.count("@inproceedings") == 1  # the paper's stood there

    (tmp_path / "built" / "de" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="lacks 1 of 2 shards"):
        dataset_card(tmp_path / "built", "lab/subtitles")
