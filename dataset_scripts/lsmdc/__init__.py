"""LSMDC: the official tables of clips of films in, rows of captions out."""
