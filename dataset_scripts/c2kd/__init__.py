"""C2KD's data pack: pickles of captions in up to nine languages with video features in, rows of both out."""
