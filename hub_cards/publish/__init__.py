"""Publishing: a folder on this machine becomes a repository on the Hub.

In: the output folder of a training run, a built dataset, the metric or the demo app. Out: a repository with exactly the
files that belong in it and a card whose numbers all come from files.

`push.py` is the command: it collects, checks, and sends. `files.py` says which files belong, `credentials.py` finds
what must not be published, `facts.py` reads what is known about a model, and `cards.py` fills the templates with it.
`collection.py` puts several models side by side.
"""
