"""What the demo's report says about ranks and about runs with several seeds."""

import statistics

import numpy as np

from polyvid.train.demo.report import seeds_table
from polyvid.train.demo.run import found_best
from polyvid.train.scoring.evaluation import Ranks


def test_the_clip_shown_has_the_best_mean_reciprocal_rank():
    ids = np.array(["a", "b", "c"])
    ranks = {"en": [1, 9, 2], "de": [40, 9, 2], "sw": [50, 9, 2]}  # a: first once; c: second everywhere
    found = {language: Ranks(np.array(r), np.ones(3, dtype=bool), ids) for language, r in ranks.items()}
    assert found_best(found) == "c"


def test_the_table_over_seeds_gives_mean_and_deviation_of_each_arm():
    def run(english, others):
        return {"en": {"R@1": english}, "de": {"R@1": others - 1}, "fr": {"R@1": others + 1}}

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
