"""VATEX: official JSON files and lists of ids in, rows of captions out."""
