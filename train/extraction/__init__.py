"""Feature extraction: videos in, feature shards out.

In: video files (`polyvid extract`), or features extracted elsewhere (`polyvid import-features`).
Out: a folder of Parquet shards with one float16 vector per second of video, `failures.jsonl` (which videos could not be
read, and why) and `extraction.json` (which networks made the features, and with which settings).

Reading order: `extract` (the command), `listing` (which videos), `job` (the share of one process), `encode` (videos to
features), `pool` and `decoding` (videos to frames), `encoders` (frames to features), `shards` (features to disk).
"""
