"""From batches to a trained model.

In: a recipe, which names data and a model. Out: the selected model as a Hub repository, a record of every step, and
checkpoints that resume a run exactly.

Reading order: `setup` loads what the recipe names and assembles the trainer, after `inputs` has looked for its files;
`starting_model` builds the model, and `warm_start` computes its initial weights if the recipe asks for a start that is
not random; `teachers` are frozen models that it learns from. `trainer` is the loop. `step` is the forward pass,
objective and backward pass of one batch. `state` is everything the next step depends on, and `checkpoints` keeps it on
disk; `repository` writes a model for the Hub. `step_log` and `curves` record the run, `validation` scores it,
`frozen_states` caches the output of frozen layers, `processes` coordinates the processes of a run, and `dry_run`
estimates the time and memory of a recipe.
"""
