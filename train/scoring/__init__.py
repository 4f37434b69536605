"""Scoring: a model and a benchmark in, retrieval scores out.

In: a trained model, a benchmark's captions and the features of its videos.
Out: `results.json`, the rank of every query, tables, plots and contact sheets.

Reading order: `evaluate` (the command), `benchmark` (which captions search for which videos), `measure` (from model to
results), `evaluation` (search in both directions), `ranking` (embeddings to ranks), `corrections` (of hubs and
languages, by a bank of texts), `significance` (intervals and tests), `results` (the files written). These build on the
results: `compare`, `tables` (the paper's tables, with `published.yaml`) and `ablation` (a grid of runs).
`contact_sheet` shows what a model finds. `baselines` are closed forms to compare with, `closed_forms` puts them beside
a model, `sentences` gives the sentence vectors of the backbone, and `text_ceilings` says how far these get without any
video.
"""
