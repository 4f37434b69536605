"""Captioned videos of one's own: a folder, Parquet or a Hub dataset, wherever a dataset is named.

In: a folder with `metadata.csv`, `.jsonl` or `.parquet`, a folder that `load_dataset` reads (such as `polyvid build`
writes), or the id of a dataset on the Hub. Out: rows of `polyvid.dataset_scripts.schema.CAPTIONS` by split, and the
video files. Read `opening` for what counts as which, `tables` for files to rows, `captions` for rows to videos.
"""
