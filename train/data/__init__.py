"""From datasets and features on disk to the batches of a training run.

In: captioned videos (`dataset_scripts`), feature shards, or shards of subtitles joined with features. Out: batches of
padded tensors with their masks, for any number of processes, in an order that depends on (seed, epoch) alone and can
resume at any batch.

`videos` and `statistics` load what a recipe names; `captions` and `clips` draw training rows from it; `collate` makes
rows a batch and adds the noise of Eq. 3; `batches` puts these together for one process. Nothing here knows a model.
"""
