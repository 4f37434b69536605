"""Fluent-Emoji-9, the small open benchmark that ships with the package: its data, its loader, and how it was made."""
