"""`polyvid ablate`: the grids say what the paper's rows say; runs are skipped, resumed, evaluated and reported."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from emoji_features import write_features
from results_files import results_file, write_results

from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.recipe import load_recipe
from polyvid.train.scoring.ablation import ablate, load_grid, write_report
from polyvid.train.scoring.tables import published_tables
from tiny import tiny_model, tiny_processor

CONFIGS = Path(__file__).parents[3] / "train" / "configs"
GRID = CONFIGS / "ablation" / "fluent_emoji_9.yaml"


@pytest.fixture(scope="module")
def shipped():
    return load_grid(GRID)


@pytest.fixture
def rows_and_recipes(shipped):
    """Table → the labels of each of its rows, and the recipe of the run shown there."""

    def pairs(table: str):
        named = zip(published_tables()[table].rows, shipped.rows[table], strict=True)
        stages = [(row.labels, *shipped.runs[name]) for row, name in named if name is not None]
        return [(labels, load_recipe(stage.recipe, [*stage.changes, "output_dir=."])) for labels, stage in stages]

    return pairs


def test_table_9_rows_have_their_layers(rows_and_recipes):
    found = [
        (labels, [str(r.model.output_layer), str(r.model.freeze_below)]) for labels, r in rows_and_recipes("table_9")
    ]
    assert len(found) == 7
    assert all(labels == layers for labels, layers in found)


def test_states_are_cached_per_frozen_layer(rows_and_recipes):
    caches = {
        r.data.frozen_states: r.model.freeze_below for _, r in rows_and_recipes("table_9") if r.data.frozen_states
    }
    assert sorted(caches.values()) == [6, 9, 12]
    for _, recipe in rows_and_recipes("table_9"):
        assert (recipe.model.freeze_below == 0) == (recipe.data.frozen_states is None)


def test_table_2_rows_have_their_pooling_heads(rows_and_recipes):
    for labels, recipe in rows_and_recipes("table_2"):
        model = recipe.model
        video_layers = model.video_pooler_num_layers or model.pooler_num_layers
        assert [model.pooler_num_layers, video_layers] == [int(label.strip("*")) for label in labels]
        assert model.share_poolers == ("*" in labels[0])


def test_table_3_rows_have_their_objectives(rows_and_recipes):
    for (objective, *terms), recipe in rows_and_recipes("table_3"):
        checked = [name for name, mark in zip(("inter", "intra", "cross"), terms, strict=True) if mark]
        assert [name for name in recipe.objective.terms if name != "cross" or recipe.data.pivots] == checked
        assert recipe.objective.form.startswith("triplet") == (objective == "Triplet")
        assert recipe.data.languages == (["en", "de", "fr"] if "*" in objective else ["en"])


def test_figure_2_adds_a_language_at_a_time_and_then_fine_tunes_in_english(shipped):
    assert len(shipped.figure) == 9
    for number, name in enumerate(shipped.figure, 1):
        pretrain, finetune = (load_recipe(s.recipe, [*s.changes, "output_dir=."]) for s in shipped.runs[name])
        assert pretrain.data.languages == list(LANGUAGES[:number])
        assert (pretrain.data.train_split, finetune.data.train_split) == ("pretrain", "finetune")
        assert finetune.data.languages == ["en"]


def test_the_vtt_grid_has_every_run_the_papers_tables_name():
    grid = load_grid(CONFIGS / "ablation" / "vtt.yaml")
    tables = [published_tables()[f"table_{number}"] for number in (1, 2, 3, 9, 10)]
    named = {row.run for table in tables for row in table.rows}
    assert named <= set(grid.runs)
    assert set(grid.runs) - named == set(grid.figure)
    for table in tables[-2:]:
        for row in table.rows:
            (stage,) = grid.runs[row.run]
            recipe = load_recipe(stage.recipe, stage.changes)
            assert [str(recipe.model.output_layer), str(recipe.model.freeze_below)] == row.labels
            assert recipe.model.init_from is None
            assert ("multilingual-cased" in recipe.model.backbone) == ("mBERT" in table.title)


def write_grid(folder: Path, **content) -> Path:
    base = str(CONFIGS / "demo" / "none.yaml")
    path = folder / "grid.yaml"
    path.write_text(
        yaml.safe_dump({"base": base, "output": str(folder / "out"), "runs": {"paper": {}}} | content, sort_keys=False)
    )
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"run": {}}, "there is no key 'run'; did you mean 'runs'"),
        ({"runs": {"a": {"model.layers": 3}}}, "run a: .*no key 'model.layers'; did you mean 'model"),
        ({"tables": {"table_9": ["paper"]}}, "table_9 is not a table of the paper with 1 rows"),
        ({"tables": {"table_12": ["papr"] + [None] * 4}}, "table_12: there is no run 'papr'"),
    ],
)
def test_a_grid_that_cannot_be_run_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        load_grid(write_grid(tmp_path, **content))


def test_unknown_runs_and_missing_grids_are_named(tmp_path):
    with pytest.raises(ValueError, match="has no run 'papper'; did you mean 'paper'"):
        ablate(write_grid(tmp_path), run=["papper"])
    with pytest.raises(FileNotFoundError, match="There is no grid"):
        ablate(tmp_path / "nothing.yaml")


def test_a_dry_run_lists_what_is_left(tmp_path, capsys):
    grid = write_grid(tmp_path, runs={"paper": {}, "deep": {"model.pooler_num_layers": 4}})
    done = tmp_path / "out" / "paper" / "seed_1" / "results.json"
    done.parent.mkdir(parents=True)
    done.write_text("{}")
    ablate(grid, ["training.epochs=2"], seed=[1, 2], launch="accelerate launch", dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("accelerate launch ") and "training.epochs=2" in line for line in lines)
    assert [("seed_2" in line, "pooler_num_layers=4" in line) for line in lines] == [
        (False, True),
        (True, False),
        (True, True),
    ]


def scores(value: float) -> dict:
    return {code: {"R@1": value, "R@5": 2 * value, "R@10": 3 * value} for code in LANGUAGES}


def test_the_report_has_the_papers_layout_and_figure_2_its_spread(tmp_path, shipped):
    write_results(
        tmp_path,
        results_file("layer_3_freeze_0", "fluent_emoji_9", "split_0", scores(4.0)),
        *(results_file("paper", "fluent_emoji_9", "split_0", scores(10.0 + seed), seed) for seed in (0, 1)),
        *(results_file(f"languages_{n}", "fluent_emoji_9", "split_0", scores(n), n) for n in (1, 2, 3)),
        results_file("languages_3", "fluent_emoji_9", "split_0", scores(5.0), 9),
    )
    write_report(shipped, tmp_path, "polyvid ablate grid.yaml")
    report = (tmp_path / "report.md").read_text()
    assert "`polyvid ablate grid.yaml`; seeds 0, 1, 2, 3, 9;" in report
    assert "interval of a run's English R@1 is ± 1.5 on average" in report
    assert "Published: on msrvtt, to compare the order of the rows. Ours: on fluent_emoji_9." in report
    assert "| 3 | 0 | 20.9 | 4.0 | 3.2 | 4.0 |" in report
    assert "| 12 | 9 | 21.0 | 10.5 ± 0.7 (2) | 16.3 | 10.5 ± 0.7 (2) |" in report
    assert "| 18 | 0 | 20.8 |  | 12.6 |  |" in report
    assert "| 2 | 2.0 | 2.0 | 2.0 |" in report
    assert "| 3 | 4.0 ± 1.4 |" in report
    assert (tmp_path / "figure_2.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_in_the_repository_matches_the_results_next_to_it(tmp_path, shipped):
    kept = Path(__file__).parents[3] / "hub_cards" / "results" / "ablation" / "fluent_emoji_9"
    shutil.copytree(kept, tmp_path / "copy")
    report = (kept / "report.md").read_text(encoding="utf-8")
    command = re.search("`(polyvid ablate .*?)`", report)[1]
    assert command.startswith("polyvid ablate train/configs/ablation/fluent_emoji_9.yaml --seed ")
    write_report(shipped, tmp_path / "copy", command)
    assert (tmp_path / "copy" / "report.md").read_text(encoding="utf-8") == report
    assert {path.parts[-3] for path in kept.rglob("results.json")} == set(shipped.runs)


@pytest.mark.slow
def test_a_grid_on_the_embedded_benchmark_from_one_command_interrupted_and_resumed(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    write_features(tmp_path / "features", dim=10)
    tiny_model().text_model.save_pretrained(tmp_path / "backbone")
    tiny_processor().tokenizer.save_pretrained(tmp_path / "backbone")
    grid = write_grid(
        tmp_path,
        runs={"shallow": {"model.pooler_num_layers": 1}},
        tables={"table_2": ["shallow", None, None, None, None]},
        figure_2={
            "pretrain": str(CONFIGS / "demo" / "mmp_pretrain.yaml"),
            "finetune": str(CONFIGS / "demo" / "mmp.yaml"),
            "languages": ["de"],
        },
    )
    overrides = [
        f"model.backbone={tmp_path / 'backbone'}",
        f"data.features={tmp_path / 'features'}",
        f"data.frozen_states={tmp_path / 'states'}",
        "model.output_layer=3",
        "model.freeze_below=3",
        "model.embed_dim=16",
        "model.video_feature_dim=10",
        "training.epochs=1",
    ]
    out = tmp_path / "out"
    with pytest.raises(SystemExit, match="Run shallow stopped .*the same command resumes it"):
        ablate(grid, [*overrides, f"data.features={tmp_path / 'gone'}"], run=["shallow"])
    ablate(grid, overrides, run=["shallow"])
    first = (out / "shallow" / "seed_0" / "results.json").stat().st_mtime_ns
    ablate(grid, overrides)
    assert (out / "shallow" / "seed_0" / "results.json").stat().st_mtime_ns == first
    assert not list(out.rglob("model.safetensors"))
    results = json.loads((out / "languages_1" / "seed_0" / "results.json").read_text())
    assert results["name"] == "languages_1"
    assert set(results["scores"]["all"]["text_to_video"]) == set(LANGUAGES)
    assert results["protocol"]["caption_kinds"] == ["name"]
    report = (out / "report.md").read_text()
    assert re.search(r"^\| 1 \| 1 \| 20.0 \| \d", report, re.MULTILINE)
    assert (out / "figure_2.png").exists()


def test_a_launch_command_with_an_open_quote_is_refused():
    with pytest.raises(PolyvidError, match="--launch accelerate 'launch: No closing quotation"):
        ablate(GRID, launch="accelerate 'launch", dry_run=True)
