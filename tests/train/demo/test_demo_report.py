"""What the demo's report says about ranks, baselines and runs with several seeds."""

import statistics

import numpy as np
import pytest
from lock_holder import held_elsewhere

from polyvid.dataset_scripts.building import write_json
from polyvid.dataset_scripts.locking import LockedError
from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.train.demo.models import STAGES, recipes_of, stages_of
from polyvid.train.demo.report import ceilings_sentence, recall_table, seeds_table, summary_table
from polyvid.train.demo.run import OUTPUT, best_found_clip, main
from polyvid.train.demo.seeds import collect
from polyvid.train.scoring.evaluation import Ranks


def test_the_clip_shown_has_the_best_mean_reciprocal_rank():
    ids = np.array(["a", "b", "c"])
    ranks = {"en": [1, 9, 2], "de": [40, 9, 2], "sw": [50, 9, 2]}  # a: first once; c: second everywhere
    found = {language: Ranks(np.array(r), np.ones(3, dtype=bool), ids) for language, r in ranks.items()}
    assert best_found_clip(found) == "c"


def run(english, others):
    return {"en": {"R@1": english}, "de": {"R@1": others - 1}, "fr": {"R@1": others + 1}}


def test_the_table_over_seeds_gives_mean_and_deviation_of_each_model():
    runs = {
        "mmp_split_0_0": run(6, 5.0),
        "mmp_split_1_0": run(8, 6.0),
        "mmp_keywords_split_0_0": run(3, 1.0),
        "mmp_keywords_split_1_0": run(3, 2.0),
        "none_split_0_0": run(4, 1.0),  # one run has no spread
    }
    assert seeds_table({"runs": runs, "random_start": {"mp_split_0_0": run(1, 1.0), "mp_split_0_1": run(1, 1.0)}}) == (
        seeds_table({})
        + f"""
| no pre-training | 0 | 1 | 4.0 | 1.0 |
| MMP | 0 1 | 2 | 7.0 ± {statistics.stdev([6, 8]):.1f} | 5.5 ± {statistics.stdev([5, 6]):.1f} |
| MMP, keywords only | 0 1 | 2 | 3.0 ± 0.0 | 1.5 ± 0.7 |
| MP, random start | 0 | 2 | 1.0 ± 0.0 | 1.0 ± 0.0 |"""
    )


def test_baselines_are_shown_below_the_models_with_the_data_they_were_fitted_on():
    scores = {"mmp": {language: {"R@1": 8.0} for language in LANGUAGES}}
    better = {"ridge": {"mmp": {language: {"R@1": 15.0} for language in LANGUAGES}}}
    lines = recall_table(scores, "R@1", better).splitlines()
    assert lines[2].startswith("| MMP | 8.0 |")
    assert lines[3].startswith("| ridge regression, data of MMP | 15.0 |")

    both = {"ridge": {"mmp_split_0": run(14, 10.0), "mmp_split_1": run(16, 12.0), "none_split_0": run(1, 1.0)}}
    assert seeds_table({"baselines": both}).splitlines()[2:] == [
        "| ridge regression, data of no pre-training | 0 | 1 | 1.0 | 1.0 |",
        f"| ridge regression, data of MMP | 0 1 | 2 | 15.0 ± {statistics.stdev([14, 16]):.1f} | 11.0 ± 1.4 |",
    ]


def test_the_report_says_how_far_text_alone_gets():
    assert ceilings_sentence({"de": {"R@1": 59.52}, "sw": {"R@1": 29.5}}).endswith("with R@1 de 59.5, sw 29.5.")
    assert ceilings_sentence({}) == ""  # results of an earlier version


def test_the_summary_sets_methods_side_by_side_on_the_splits_that_were_trained_on():
    measured = {
        "runs": {"mmp_split_0_0": run(20, 15.0), "mmp_split_1_0": run(22, 15.0)},
        "baselines": {"ridge": {f"mmp_split_{split}": run(10 + split, 5.0) for split in range(4)}},
    }
    lines = summary_table(measured).splitlines()
    assert lines[0] == "| pre-training | warm start | ridge regression |"
    assert lines[4] == "| MMP | 21.0 ± 1.4 / 15.0 ± 0.0 | 10.5 ± 0.7 / 5.0 ± 0.0 |"


def test_a_results_file_is_collected_from_the_scores_of_runs_and_baselines(tmp_path):
    for start in ("warm", "random"):
        (tmp_path / start).mkdir()
        write_json(tmp_path / start / "mmp_split_0_2.json", run({"warm": 8, "random": 4}[start], 6.0))
    write_json(tmp_path / "baselines_split_0.json", {"ridge": {"mmp": run(15, 12.0)}})
    assert collect(tmp_path) == {
        "runs": {"mmp_split_0_2": run(8, 6.0)},
        "random_start": {"mmp_split_0_2": run(4, 6.0)},
        "baselines": {"ridge": {"mmp_split_0": run(15, 12.0)}},
    }


def test_stages_follow_one_another_in_the_folder_of_the_model(tmp_path):
    (first, of_first), (second, of_second) = stages_of("mmp_keywords", tmp_path)
    assert (first.name, second.name) == ("mmp_pretrain_warm.yaml", "mmp_warm.yaml")
    assert of_first == [f"output_dir={tmp_path / 'mmp_pretrain'}", "data.caption_kinds=[keywords]"]
    assert of_second == [f"output_dir={tmp_path / 'mmp'}", f"model.init_from={tmp_path / 'mmp_pretrain'}"]
    assert [file.name for file, _ in stages_of("none", tmp_path, "random")] == ["none.yaml"]


@pytest.mark.parametrize("name", STAGES)
def test_both_starts_train_on_the_same_clips_and_captions(name, tmp_path):
    for warm, random in zip(*(recipes_of(name, tmp_path, (), start) for start in ("warm", "random")), strict=True):
        assert (warm.model.start, random.model.start) == ("warm", "random")
        for key in ("train_split", "validation_split", "languages", "caption_kinds", "features"):
            assert getattr(warm.data, key) == getattr(random.data, key)


def test_a_second_demo_in_one_folder_is_refused_and_names_the_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with held_elsewhere(tmp_path / OUTPUT) as first, pytest.raises(LockedError, match=rf"process {first.pid} on "):
        main()
    assert not (tmp_path / OUTPUT).exists()
