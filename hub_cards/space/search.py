"""The search behind the demo: three models, the embeddings of the clips, and the network that sees uploaded videos.

It runs without the polyvid package: each model brings its own code, and `build.py` copies `decoding.py` here.
"""

import io
import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import py3langid
import torch
from decoding import VideoError
from limits import DECODING_SECONDS
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from watch import UNREADABLE

MODELS = ("none", "mp", "mmp")
LANGUAGES = {
    "en": "English",
    "de": "Deutsch",
    "fr": "Français",
    "cs": "Čeština",
    "zh": "中文",
    "ru": "Русский",
    "vi": "Tiếng Việt",
    "sw": "Kiswahili",
    "es": "Español",
}
"""Codes and what each language calls itself."""

Ranking = list[dict]
"""`{"video_id", "score"}` of every clip, best first; the score is the cosine."""


class Searcher:
    """One model and its embeddings of the clips.

    Args:
        folder: a Hub folder of the model: weights, processor and code.
        video_embeds: (clips, embed_dim).
        video_ids: the clips' names, in the order of the rows.
    """

    def __init__(self, folder: Path, video_embeds: torch.Tensor, video_ids: Sequence[str]):
        self.model = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype="float32").eval()
        self.processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        index_class = get_class_from_dynamic_module("pipeline_mmp.VideoIndex", str(folder))
        self.index = index_class(video_embeds, video_ids)

    def rank_by_texts(self, texts: Sequence[str]) -> list[Ranking]:
        """All clips in the order of each text."""
        return self._rank(self.model.encode_texts(list(texts), self.processor))

    def rank_by_video(self, features: torch.Tensor) -> Ranking:
        """All clips in the order of a video; `features`: (seconds, video_feature_dim)."""
        return self._rank(self.model.encode_videos([features], self.processor))[0]

    def _rank(self, embeds: torch.Tensor) -> list[Ranking]:
        return self.index.search(embeds, len(self.index))


class Demo:
    """What a folder made by `build.py` holds, ready to search."""

    def __init__(self, folder: Path):
        content = json.loads((folder / "clips.json").read_text(encoding="utf-8"))
        self.folder = folder
        self.names: dict[str, dict[str, str]] = {clip["video_id"]: clip["names"] for clip in content["clips"]}
        self.stills = {clip["video_id"] for clip in content["clips"] if clip["frames"] == 1}
        self.examples: list[dict[str, str]] = content["examples"]
        self.scores: list[dict[str, Any]] = content["scores"]
        embeds = load_file(folder / "video_embeds.safetensors")
        self.searchers = {name: Searcher(folder / "models" / name, embeds[name], list(self.names)) for name in MODELS}
        self.max_seconds = self.searchers["mmp"].processor.feature_extractor.max_length
        self._encode_frames = torch.export.load(folder / "frame_encoder.pt2").module()
        py3langid.set_languages(list(LANGUAGES))
        self._named: dict[str, set[str]] = {}  # text → clips of which it is a name
        self._languages: dict[str, set[str]] = {}  # text → languages in which it is a caption
        for clip in content["clips"]:
            for language, name in clip["names"].items():
                self._named.setdefault(_plain(name), set()).add(clip["video_id"])
                for text in (name, *clip["keywords"].get(language, [])):
                    self._languages.setdefault(_plain(text), set()).add(language)

    def language_of(self, query: str) -> str:
        """The query's language. Only how clips are labelled depends on it: the models are told no language.

        A caption's language is known. For other texts it is guessed, and a single word is easily guessed wrong. Texts
        without letters count as English.
        """
        known = self._languages.get(_plain(query), set())
        if len(known) == 1:
            return next(iter(known))
        if not any(map(str.isalpha, query)):
            return next(iter(LANGUAGES))
        ranked = [language for language, _ in py3langid.rank(query)]
        return next(language for language in ranked if not known or language in known)

    def clips_named(self, query: str) -> set[str]:
        """The clips of which the query is the name in one of the languages: those a search should find."""
        return self._named.get(_plain(query), set())

    @lru_cache(maxsize=512)  # noqa: B019 (there is one demo in a process)
    def rank_by_name(self, video_id: str) -> dict[str, dict[str, int]]:
        """Language → model → the rank, from 1, at which the model finds the clip by its name in this language."""
        names = self.names[video_id]
        ranks: dict[str, dict[str, int]] = {language: {} for language in names}
        for model in MODELS:
            rankings = self.searchers[model].rank_by_texts(list(names.values()))
            for language, ranking in zip(names, rankings, strict=True):
                ranks[language][model] = rank_of({video_id}, ranking)
        return ranks

    @lru_cache(maxsize=32)  # noqa: B019 (likewise); another model asks for the same video again
    def video_features(self, path: str) -> torch.Tensor:
        """(seconds, video_feature_dim) of a video's first `max_seconds` seconds, made as those of the clips were.

        Raises:
            decoding.VideoError: if the file is no video that can be read, or one that takes too much time or memory.
        """
        windows = watch(path, self.folder / "frame_encoder.json", self.max_seconds)
        with torch.inference_mode():
            return torch.cat([self._encode_frames(torch.from_numpy(window[None])) for window in windows])


def watch(path: str, view_file: Path, seconds: int) -> np.ndarray:
    """What `watch.py` sees of a video: (seconds, window, height, width, 3) uint8.

    Raises:
        decoding.VideoError: if the file is no video that can be read, or one that takes too much time or memory.
    """
    command = [sys.executable, str(Path(__file__).with_name("watch.py")), path, str(view_file), str(seconds)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # each thread takes address space, which is limited
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=3 * DECODING_SECONDS)
    except subprocess.TimeoutExpired:
        raise VideoError("it takes too long to decode") from None
    if done.returncode == UNREADABLE:
        raise VideoError(done.stderr.decode(errors="replace").strip().splitlines()[-1])
    if done.returncode:
        raise VideoError("it takes too much time or memory to decode")
    return np.load(io.BytesIO(done.stdout), allow_pickle=False)


def rank_of(video_ids: set[str], ranking: Ranking) -> int:
    """The rank, from 1, of the first of these clips."""
    return next(rank for rank, hit in enumerate(ranking, start=1) if hit["video_id"] in video_ids)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
