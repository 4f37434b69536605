"""Search from the terminal, and the engines for large collections.

In: videos, or folders of feature shards, a model and queries; or an index file and queries. Out: an index file, or hits
as a table, JSON or a page. `commands` are `polyvid index` and `polyvid search`.

The user's own videos: `sources` finds them, `collection` keeps their index up to date, `frames` extracts features with
the networks of a model; `results`, `page` and `player` show what was found. `text_tower` and `query_tokens` read the
queries of a warm index without transformers, whose import takes longer than the search. Folders of features: `indexing`
embeds them and can be resumed. `metadata` reads the table and the filters of a search; `faiss_engine` and
`lance_engine` are found by `VideoIndex` through the entry points `polyvid.index_engines`. `lance_embeddings` lends a
model to tables of LanceDB.
"""
