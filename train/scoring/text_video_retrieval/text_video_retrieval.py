"""Text-to-video retrieval for `evaluate`: recall at 1, 5 and 10, median and mean rank, MRR, nDCG@10."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike

from .ranks import ranks_in_rows, retrieval_scores

DESCRIPTION = """\
How high the right video (image, text, ...) stands in the list that a query retrieves. Recall is in percent. Ties count
against the model: candidates exactly as similar as the right one all stand before it, so a collapsed model scores 0.
"""

INPUTS = """
Args:
    predictions: one row per query with its similarity to each candidate (higher is more similar).
    references: for each query the index of its right candidate.

Returns:
    R@1, R@5, R@10 (percent), MedR, MnR (ranks from 1), MRR and nDCG@10 (0 to 1).

Example:

    >>> metric = evaluate.load("train/scoring/text_video_retrieval")
    >>> metric.compute(predictions=[[0.9, 0.1], [0.8, 0.3]], references=[0, 1])
    {'R@1': 50.0, 'R@5': 100.0, 'R@10': 100.0, 'MedR': 1.5, 'MnR': 1.5, 'MRR': 0.75, 'nDCG@10': 0.8154648767857288}
"""

CITATION = """\
@inproceedings{huang-etal-2021-multilingual,
    title = "Multilingual Multimodal Pre-training for Zero-Shot Cross-Lingual Transfer of Vision-Language Models",
    author = "Huang, Po-Yao and Patrick, Mandela and Hu, Junjie and Neubig, Graham and Metze, Florian and Hauptmann, \
Alexander",
    booktitle = "NAACL",
    year = "2021",
}
"""


@evaluate.utils.file_utils.add_start_docstrings(DESCRIPTION, INPUTS)
class TextVideoRetrieval(evaluate.Metric):
    """R@1, R@5, R@10 and ranks of the right videos, from rows of similarities; see `DESCRIPTION`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Sequence[Sequence[float]], references: Sequence[int]) -> dict[str, float]:
        widths = {len(row) for row in predictions}
        if len(widths) != 1:
            raise ValueError(
                f"All queries must be compared with the same candidates; rows have {sorted(widths)} values."
            )
        similarity, right = np.array(predictions, dtype=np.float64), np.array(references, dtype=np.int64)
        if not np.isfinite(similarity).all():
            raise ValueError(f"Similarities of query {_first(~np.isfinite(similarity).all(1))} hold NaN or infinity.")
        outside = (right < 0) | (right >= similarity.shape[1])
        if outside.any():
            query = _first(outside)
            raise ValueError(
                f"Query {query}: its right candidate is {right[query]}, but there are {similarity.shape[1]} (from 0)."
            )
        return retrieval_scores(ranks_in_rows(similarity, right, right + 1))


def _first(flags: ArrayLike) -> int:
    return int(np.argmax(flags))
