"""The datasets of the package: from official files to Parquet that the Hub can load. One folder is one dataset.

In: the files a dataset is released as, feature shards, translation models. Out: `<config>/*.parquet` with one video per
row, the dataset's card, and reports of what was repaired. Read `schema` for the rows, `protocols` for the splits,
`building` for how folders are written, `build` for the command, `own_data` for captioned videos of one's own.
"""
