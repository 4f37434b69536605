"""Everything that computes: from videos to features, from features to a model, from a model to scores and search.

In: videos, official caption files (through `dataset_scripts`) and a recipe from `configs/`. Out: Hub repositories of
models, feature shards, results and indexes, all below the working folder.

`cli.py` is the command `polyvid`, `train.py` the entry of a training, `recipe.py` what decides it (read by
`recipe_files.py`). The rooms, in the order of a study: `extraction` (videos to features), `data` (what a batch is
made of), `loop` (the training itself), `scoring` (search a benchmark, compare, fill tables), `dual_encoders` (models
such as CLIP, scored alike), `search` (collections of one's own), `planning` (what a run takes, before it starts),
`demo` (all of it on embedded data).
"""
