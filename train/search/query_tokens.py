"""The tokens of queries, by a tokenizer that has only the pieces which a query can be cut into.

A tokenizer of 250,000 pieces takes longer to build, and then to free, than all else that a search in a warm index does
once torch is imported. A Unigram model (SentencePiece) chooses among the pieces that occur in a text, and no others
matter to it; only the lowest score of all does, from which that of unknown characters follows. So a tokenizer with
these pieces cuts the text in the same way.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer


class QueryTokens:
    """A tokenizer from its file, as far as `VideoIndex` uses the one of transformers.

    Args:
        file: tokenizer.json.
        unknown: the token for what is not known.

    Raises:
        KeyError, OSError, TypeError, ValueError: if the file is not as expected.
    """

    def __init__(self, file: Path, unknown: str):
        self._file = file
        self._content: dict[str, Any] = json.loads(file.read_bytes())
        self._positions = _positions_of(self._content["model"])
        self._whole: Tokenizer | None = None
        if not self._positions:
            self.unk_token_id = self._read_whole().token_to_id(unknown)
            return
        added = {token["content"]: token["id"] for token in self._content["added_tokens"]}
        self.unk_token_id = added.get(unknown, self._positions.get(unknown))
        vocabulary = self._content["model"]["vocab"]
        lowest = min(range(len(vocabulary)), key=lambda position: vocabulary[position][1])
        self._always = {self._content["model"]["unk_id"], lowest}
        self._always |= {self._positions[content] for content in added if content in self._positions}
        self._longest_piece = max(map(len, self._positions))
        self._without_pieces, _ = self._with_pieces(set())
        self._names = added.keys() | {self._normal(content) for content in added}

    def ids(self, text: str, longest: int) -> list[int]:
        """With the special tokens, and at most `longest`."""
        tokenizer, known_as = self._for(text)
        tokenizer.enable_truncation(longest)
        return _ids(tokenizer, known_as, text, True)

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        tokenizer, known_as = self._for(text)
        tokenizer.no_truncation()
        return {"input_ids": _ids(tokenizer, known_as, text, add_special_tokens)}

    def _for(self, text: str) -> tuple[Tokenizer, dict[int, int] | None]:
        """A tokenizer that cuts `text` as that of the file does; and what its ids are there, unless they are the same.

        Special tokens that somebody typed are left to the whole tokenizer.
        """
        if not self._positions:
            return self._read_whole(), None
        normal = self._normal(text)
        if any(name in text or name in normal for name in self._names):
            return self._read_whole(), None
        splitter = self._without_pieces.pre_tokenizer
        words = [normal] if splitter is None else [word for word, _ in splitter.pre_tokenize_str(normal)]
        found = set()
        for word in set(words):
            for start in range(len(word)):
                for end in range(start + 1, min(len(word), start + self._longest_piece) + 1):
                    if (position := self._positions.get(word[start:end])) is not None:
                        found.add(position)
        return self._with_pieces(found)

    def _with_pieces(self, positions: set[int]) -> tuple[Tokenizer, dict[int, int]]:
        """A tokenizer with the pieces at these positions, and the ids that its ids stand for."""
        model, kept = self._content["model"], sorted(positions | self._always)
        pieces = [model["vocab"][position] for position in kept]
        places = {piece: place for place, (piece, _) in enumerate(pieces)}
        known_as, added = dict(enumerate(kept)), []
        for token in self._content["added_tokens"]:  # those that are no pieces follow them
            place = places.setdefault(token["content"], len(places))
            known_as[place] = token["id"]
            added.append(token | {"id": place})
        small = model | {"vocab": pieces, "unk_id": kept.index(model["unk_id"])}
        tokenizer = Tokenizer.from_str(json.dumps(self._content | {"model": small, "added_tokens": added}))
        tokenizer.no_padding()
        return tokenizer, known_as

    def _normal(self, text: str) -> str:
        normalizer = self._without_pieces.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def _read_whole(self) -> Tokenizer:
        if self._whole is None:
            self._whole = Tokenizer.from_file(str(self._file))
            self._whole.no_padding()
        return self._whole


def _positions_of(model: dict[str, Any]) -> dict[str, int]:
    """Piece → position of a Unigram model; nothing of models of which a part could cut a text in another way."""
    if model.get("type") != "Unigram" or model.get("byte_fallback") or model.get("unk_id") is None:
        return {}
    if model.keys() - {"type", "unk_id", "vocab", "byte_fallback"}:  # of a newer version
        return {}
    positions = {piece: position for position, (piece, _) in enumerate(model["vocab"])}
    return positions if len(positions) == len(model["vocab"]) else {}


def _ids(tokenizer: Tokenizer, known_as: dict[int, int] | None, text: str, with_special: bool) -> list[int]:
    encoded = tokenizer.encode(text, add_special_tokens=with_special)
    if known_as is None:
        found: list[int] = encoded.ids
        return found
    # The post-processor puts special tokens around a text by ids that are written in the file: those of the whole.
    pairs = zip(encoded.ids, encoded.special_tokens_mask, strict=True)
    return [number if is_put else known_as[number] for number, is_put in pairs]
