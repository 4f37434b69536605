"""Crossmodal-3600: the official lines of captions in 36 languages in, rows of captions out."""
