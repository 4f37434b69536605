"""Multi-HowTo100M: the released JSON files of any size in, rows of timed subtitles out, in bounded memory."""
