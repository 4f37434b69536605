"""What the demo's report says about ranks, baselines and runs with several seeds."""

import statistics

import numpy as np

from polyvid.dataset_scripts.building import write_json
from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.train.demo.report import recall_table, seeds_table
from polyvid.train.demo.run import best_found_clip
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
    assert seeds_table(runs).splitlines()[2:] == [
        f"| MMP | 2 | 7.0 ± {statistics.stdev([6, 8]):.1f} | 5.5 ± {statistics.stdev([5, 6]):.1f} |",
        "| MMP, keywords only | 2 | 3.0 ± 0.0 | 1.5 ± 0.7 |",
    ]


def test_baselines_are_shown_below_the_models_with_the_data_they_were_fitted_on():
    scores = {"mmp": {language: {"R@1": 8.0} for language in LANGUAGES}}
    better = {"ridge": {"mmp": {language: {"R@1": 15.0} for language in LANGUAGES}}}
    lines = recall_table(scores, "R@1", better).splitlines()
    assert lines[2].startswith("| MMP | 8.0 |")
    assert lines[3].startswith("| ridge regression, data of MMP | 15.0 |")

    both = {"ridge": {"mmp_split_0": run(14, 10.0), "mmp_split_1": run(16, 12.0), "none_split_0": run(1, 1.0)}}
    assert seeds_table({}, both).splitlines()[2:] == [
        f"| ridge regression, data of MMP | 2 | 15.0 ± {statistics.stdev([14, 16]):.1f} | 11.0 ± 1.4 |"
    ]


def test_a_results_file_is_collected_from_the_scores_of_runs_and_baselines(tmp_path):
    write_json(tmp_path / "mmp_split_0_2.json", run(8, 6.0))
    write_json(tmp_path / "baselines_split_0.json", {"ridge": {"mmp": run(15, 12.0)}})
    assert collect(tmp_path) == {
        "runs": {"mmp_split_0_2": run(8, 6.0)},
        "baselines": {"ridge": {"mmp_split_0": run(15, 12.0)}},
    }
