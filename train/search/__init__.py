"""Search from the terminal, and the engines for large collections.

In: folders of feature shards and a model, or an index file and queries. Out: an index file, or hits.
`commands` are `polyvid index` and `polyvid search`; `indexing` embeds a folder of features and can be resumed;
`metadata` reads the table and the filters of a search; `faiss_engine` and `lance_engine` are found by `VideoIndex`
through the entry points `polyvid.index_engines`.
"""
