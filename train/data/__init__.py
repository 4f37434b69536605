"""From datasets and features on disk to the batches of a training run.

In: captioned videos (`dataset_scripts`) and feature shards, or shards of subtitles joined with features. Out: batches
of padded tensors with their masks, for any number of processes, in an order that depends only on (seed, epoch) and can
resume at any batch.

`videos`, `parallel` and `statistics` load what a recipe names; `captions` and `clips` draw training rows from it;
`collate` turns rows into a batch and adds the noise of Eq. 3; `batches` combines these for one process. None of these
depends on a model. `own_features` makes the features of one's own videos where a recipe names none, and `check` (a
command) looks at such videos before.
"""
