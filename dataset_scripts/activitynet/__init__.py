"""ActivityNet Captions: official JSON files in, rows with one paragraph for each video out."""
