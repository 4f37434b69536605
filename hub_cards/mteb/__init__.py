"""MTEB: our benchmarks as tasks for any of its models, and our models as encoders for any of its video tasks.

In: a model and a built or pushed dataset. Out: what `mteb.evaluate` takes. Nothing else here imports mteb.

`tasks.py` holds the task definitions, `models.py` the encoder and its description. Both are written as mteb's own
repository has them; README.md says what sending them there takes.
"""
