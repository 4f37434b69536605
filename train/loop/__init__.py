"""From batches to a trained model.

In: a recipe, which names data and a model. Out: the selected model as a Hub repository, a record of every step, and
checkpoints that resume a run exactly.

Read it in this order. `setup` loads what the recipe names and puts the parts together; `warm_start` computes first
weights where the recipe asks for a start that is not random. `trainer` is the loop. `step` is forward, objective and
backward of one batch. `state` is what the next step depends on, and `checkpoints` keeps it on disk; `repository` writes
a model for the Hub. `step_log` and `curves` record the run, `validation` scores it, `frozen_states` saves work,
`processes` is what the processes of a run agree about, `dry_run` estimates what a recipe takes.
"""
