"""Everything that faces the Hub and its readers: publishing, card templates, guides, the demo app, and kept results.

In: what the other rooms make (models, datasets, scores). Out: repositories on the Hub, each with a card that says what
is in it. Nothing in the package imports this room.
"""
