"""Scoring: a model and a benchmark in, retrieval scores out.

In: a trained model, a benchmark's captions and the features of its videos.
Out: `results.json`, every query's rank, tables, plots and sheets of what was found.

Reading order: `evaluate` (the command), `benchmark` (whose captions search for which videos), `measure` (from model to
results), `evaluation` (search in both directions), `ranking` (embeddings to ranks), `significance` (intervals and
tests), `results` (what is written). On top of results: `compare`, `tables` (the paper's, with `published.yaml`),
`ablation` (a grid of runs) and `contact_sheet`.
"""
