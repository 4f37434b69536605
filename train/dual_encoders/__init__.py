"""Dual encoders such as CLIP, SigLIP 2 and X-CLIP, zero-shot, under the protocols of this package.

In: a model of transformers that embeds texts and images, or texts and videos, in one space, and video files. Out:
embeddings, as `polyvid.train.scoring` takes them of an MMP model, so that results are made and compared in one way.

`frames` chooses frames of a video by a named rule; `models` and `sentence_models` have one adapter for each kind of
model, and `loading` finds the one that a name needs; `searching` puts a dual encoder in the place of an MMP model for
an index.
"""
