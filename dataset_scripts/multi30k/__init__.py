"""Multi30K: official text files in, rows of captions out; region features in, a feature dataset out."""
