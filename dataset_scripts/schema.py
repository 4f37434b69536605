"""What every dataset of this package shares: languages, column types and the sharding key.

One row is one video. Subtitles (pre-training) and captions (benchmarks) are kept in separate schemas because they
mean different things: subtitles are timed and noisy, captions describe the whole clip.
"""

import hashlib

from datasets import Features, Value

from polyvid.modeling.errors_mmp import PolyvidError

LANGUAGES = ("en", "de", "fr", "cs", "zh", "ru", "vi", "sw", "es")
"""The nine languages, in the column order of the paper's Table 4."""

LANGUAGE_NAMES = {
    "en": "English",
    "de": "German",
    "fr": "French",
    "cs": "Czech",
    "zh": "Chinese",
    "ru": "Russian",
    "vi": "Vietnamese",
    "sw": "Swahili",
    "es": "Spanish",
}

ALIASES = {"cz": "cs"}
"""The paper writes Czech as `cz` (the country); the language code is `cs`."""

CAPTIONS = Features(
    {
        "video_id": Value("string"),
        "captions": [
            {
                "caption_id": Value("string"),  # the same id in two languages: translations of one sentence
                "language": Value("string"),
                "text": Value("string"),
                "source": Value("string"),  # "human", or the translator as "model@revision"
            }
        ],
    }
)
"""A benchmark row: a video with all its captions."""


def canonical_language(language: str) -> str:
    """The code used throughout: `"cz"` and `"CS"` give `"cs"`.

    Raises:
        PolyvidError: for a language that is not one of the nine.
    """
    code = ALIASES.get(language.lower(), language.lower())
    if code not in LANGUAGES:
        raise PolyvidError(f"Unknown language {language!r}: choose from {' '.join(LANGUAGES)} (cz is accepted for cs).")
    return code


def shard_of(video_id: str, num_shards: int) -> int:
    """The shard a video belongs to, the same in every dataset and on every machine.

    Subtitles and features that are sharded by this key join shard by shard.
    """
    digest = hashlib.blake2b(video_id.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % num_shards
