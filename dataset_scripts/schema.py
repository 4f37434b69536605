"""What every dataset of this package shares: languages, column types and the sharding key.

One row is one video. Subtitles (pre-training) and captions (benchmarks) are kept in separate schemas because they
mean different things: subtitles are timed and noisy, captions describe the whole clip.
"""

import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

import langcodes
from datasets import Features, Value
from langcodes.tag_parser import LanguageTagError

from polyvid.modeling.errors_mmp import PolyvidError

LANGUAGES = ("en", "de", "fr", "cs", "zh", "ru", "vi", "sw", "es")
"""The paper's nine languages, in the column order of its Table 4. They are a default, not a limit."""

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
    """The code used throughout: `"cz"`, `"CS"` and `"ces"` give `"cs"`; any valid BCP-47 code is a language.

    Raises:
        PolyvidError: for what is no code of a language.

    >>> [canonical_language(code) for code in ("cz", "CS", "zho", "pt-br")]
    ['cs', 'cs', 'zh', 'pt-BR']
    """
    code = ALIASES.get(language.lower(), language)
    try:
        if langcodes.tag_is_valid(code):
            return langcodes.standardize_tag(code)
    except LanguageTagError:
        pass
    raise PolyvidError(
        f"Unknown language {language!r}: choose from {' '.join(LANGUAGES)}, or give another BCP-47 code."
    )


def language_name(language: str) -> str:
    """The English name of a language.

    >>> [language_name(code) for code in ("sw", "hi", "mr")]
    ['Swahili', 'Hindi', 'Marathi']
    """
    code = canonical_language(language)
    return LANGUAGE_NAMES.get(code) or langcodes.Language.get(code).display_name()


def in_table_order(languages: Iterable[str]) -> list[str]:
    """Each language once, as tables, plots and cards list them: the paper's nine in its order, then by code.

    >>> in_table_order(["pt-BR", "sw", "ar", "en", "sw"])
    ['en', 'sw', 'ar', 'pt-BR']
    """
    found = set(languages)
    return [code for code in LANGUAGES if code in found] + sorted(found - set(LANGUAGES))


def written_captions(video: Mapping[str, Any], languages: Container[str]) -> Iterator[Mapping[str, Any]]:
    """The captions of a `CAPTIONS` row in these languages, without blank ones.

    A blank caption says nothing: it is no training text and no query, in training, validation and evaluation alike.
    """
    for caption in video["captions"]:
        if caption["language"] in languages and caption["text"].strip():
            yield caption


def shard_of(video_id: str, num_shards: int) -> int:
    """The shard a video belongs to, the same in every dataset and on every machine.

    Subtitles and features that are sharded by this key join shard by shard.

    >>> shard_of("1f355", 8), shard_of("1f355", 16) % 8  # a multiple of the number of shards splits each of them
    (7, 7)
    """
    digest = hashlib.blake2b(video_id.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % num_shards
