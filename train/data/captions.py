"""Drawing training pairs and visually pivoted triples from captioned videos (§3.3, §5.3)."""

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from torch.utils.data import Dataset

from polyvid.dataset_scripts.schema import canonical_language, written_captions
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.recipe import EPOCH_UNITS

ANY = -1  # instead of a language: one is drawn each epoch


class PivotSampler(Dataset):
    """Pairs (x, v), or triples (x, v, y) whose sentences in two languages describe the same video.

    A sentence is identified by its caption id within a video; an original and its translations are one sentence in
    several languages. With `epoch_unit="pairs"`, an epoch shows each sentence in each of its languages. §5.3 and
    Table 3 train with *additional* pairs, so VTT in three languages has three times the pairs of VTT in English,
    including the English ones. With `"sentences"`, an epoch shows each sentence once, in a language drawn uniformly in
    each epoch: as many pairs as with one language, a third of them English. Pre-training draws the languages of its
    clips in this way (§5.3).

    - English only, for zero-shot transfer: `languages=["en"]` (130K pairs for VTT, 260K for VATEX).
    - All languages mixed: several languages without pivots.
    - Triples (§3.3): `pivots=True` adds to each x a partner y in another language. If all captions in one of the two
      languages are translations of captions in the other, y is the same sentence ("aligned pairs"). Otherwise y is
      drawn from all captions of the video in that language, so over the epochs "all possible combinations" occur.
      As in the paper, VATEX belongs to the second case, although half of its captions are translation pairs.

    Item i of an epoch depends only on (seed, epoch, video id, sentence, and the language of a pair), not on the number
    of workers or processes. Shuffling is left to the data loader's sampler.

    Args:
        videos: rows of `polyvid.dataset_scripts.schema.CAPTIONS`.
        features: video id -> array (seconds, video_feature_dim). Missing videos are left out and listed in
            `videos_without_features`. None: texts alone, whose rows have no `video_features`.
        languages: of the captions to use.
        epoch_unit: what an epoch shows once: `"pairs"` (of sentence and language) or `"sentences"`.
        pivots: triples instead of pairs. Sentences without a partner in another language are left out.
        seed: for all random draws.
        with_english: rows also have `english_text`, the sentence in English, for a teacher. Sentences without are left
            out.
        group_by: column of `videos`; `groups` then holds its value for each item. Default: `groups` is None.

    Items are rows for `MMPCollator`: `video_id`, `language`, `text`, `video_features` and, for triples,
    `pivot_language` and `pivot_text`.

    Raises:
        PolyvidError: for an unknown language or epoch unit, pivots with a single language, a caption id that appears
            twice for one video and language, or if nothing is left to train on.
    """

    def __init__(
        self,
        videos: Iterable[Mapping[str, Any]],
        features: Mapping[str, Any] | None,
        languages: Sequence[str] = ("en",),
        pivots: bool = False,
        epoch_unit: str = "pairs",
        seed: int = 0,
        with_english: bool = False,
        group_by: str | None = None,
    ):
        if epoch_unit not in EPOCH_UNITS:
            raise PolyvidError(f"Unknown epoch_unit {epoch_unit!r}: choose from {' '.join(EPOCH_UNITS)}.")
        self.languages = list(dict.fromkeys(canonical_language(language) for language in languages))
        if pivots and len(self.languages) < 2:
            raise PolyvidError(f"Triples need captions in two languages or more, not only in {self.languages[0]}.")
        self.features, self.pivots, self.seed = features, pivots, seed
        # Read from the dataset even where no row is to be in English.
        self._english: dict[tuple[int, int], str] | None = {} if with_english else None
        self.video_ids: list[str] = []
        self.videos_without_features: list[str] = []
        # Per video and language: a bit set of the sentences available, and where their texts begin. All texts share one
        # Arrow array, ordered by video, language and sentence, to avoid a million Python objects.
        self._bits: list[list[int]] = []
        self._starts: list[list[int]] = []
        anchors: list[tuple[int, int, int]] = []  # video, sentence, language; ANY: drawn each epoch
        chunks: list[pa.Array] = []
        num_texts = 0
        values: list[Any] = []
        for video in videos:
            if features is not None and video["video_id"] not in features:
                self.videos_without_features.append(video["video_id"])
                continue
            texts, numbers = self._texts_of(video)
            if self._english is not None:
                english = {numbers.get(c["caption_id"]): c["text"] for c in written_captions(video, ["en"])}
                self._english |= {(len(self.video_ids), n): text for n, text in english.items() if n is not None}
            bits = [sum(1 << sentence for sentence in by_sentence) for by_sentence in texts]
            flat = [by_sentence[sentence] for by_sentence in texts for sentence in sorted(by_sentence)]
            starts = itertools.accumulate((len(by_sentence) for by_sentence in texts), initial=num_texts)
            for sentence in range(len(numbers)):
                if self._english is not None and (len(self.video_ids), sentence) not in self._english:
                    continue
                choices = self._choices(bits, sentence)
                shown = choices if epoch_unit == "pairs" else choices and [ANY]
                anchors += [(len(self.video_ids), sentence, language) for language in shown]
            self.video_ids.append(video["video_id"])
            if group_by is not None:
                if group_by not in video:
                    raise PolyvidError(f"The dataset has no column {group_by!r} to group by: it has {' '.join(video)}.")
                values.append(video[group_by])
            self._bits.append(bits)
            self._starts.append(list(starts))
            chunks.append(pa.array(flat, pa.string()))
            num_texts += len(flat)
        if not anchors:
            raise PolyvidError(
                f"No {'triples' if pivots else 'pairs'} in {' '.join(self.languages)}: of {len(self.video_ids)} videos "
                f"with features ({len(self.videos_without_features)} have none), none has such captions"
                + (" and the same sentence in English, which the teacher reads." if with_english else ".")
            )
        self._texts = pa.concat_arrays(chunks)
        self._anchors = np.array(anchors, dtype=np.int32)
        self.groups = [values[video] for video in self._anchors[:, 0]] if group_by is not None else None
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw new languages and partners for this epoch. Call it before workers start."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._anchors)

    def __getitem__(self, index: int) -> dict[str, Any]:
        video, sentence, language = self._anchors[index].tolist()
        bits, video_id = self._bits[video], self.video_ids[video]
        key = f"{self.seed} {self.epoch} {video_id} {sentence}"
        if language != ANY:
            key += f" {self.languages[language]}"
        number = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=16).digest(), "little")
        if language == ANY:
            number, language = _draw(number, self._choices(bits, sentence))
        row = {
            "video_id": video_id,
            "language": self.languages[language],
            "text": self._text(video, language, sentence),
        }
        if self.features is not None:
            row["video_features"] = self.features[video_id]
        if self._english is not None:
            row["english_text"] = self._english[video, sentence]
        if self.pivots:
            number, partner = _draw(number, self._partner_languages(bits, language, sentence))
            sentences = [sentence] if _aligned(bits[language], bits[partner]) else _sentences(bits[partner])
            number, partner_sentence = _draw(number, sentences)
            row["pivot_language"] = self.languages[partner]
            row["pivot_text"] = self._text(video, partner, partner_sentence)
        return row

    @property
    def english_texts(self) -> list[str]:
        """All that rows have as `english_text`, each once."""
        return list(dict.fromkeys((self._english or {}).values()))

    def _texts_of(self, video: Mapping[str, Any]) -> tuple[list[dict[int, str]], dict[str, int]]:
        """Per language, sentence number -> text; and caption id -> sentence number, in order of first appearance."""
        numbers: dict[str, int] = {}
        texts: list[dict[int, str]] = [{} for _ in self.languages]
        for caption in written_captions(video, self.languages):
            sentence = numbers.setdefault(caption["caption_id"], len(numbers))
            by_sentence = texts[self.languages.index(caption["language"])]
            if sentence in by_sentence:
                raise PolyvidError(
                    f"Video {video['video_id']} has caption {caption['caption_id']!r} twice in {caption['language']}: "
                    "an id must identify one sentence."
                )
            by_sentence[sentence] = caption["text"]
        return texts, numbers

    def _choices(self, bits: list[int], sentence: int) -> list[int]:
        """The languages the sentence can be shown in."""
        present = [language for language, those in enumerate(bits) if those >> sentence & 1]
        if not self.pivots:
            return present
        return [language for language in present if self._partner_languages(bits, language, sentence)]

    def _partner_languages(self, bits: list[int], language: int, sentence: int) -> list[int]:
        return [
            other
            for other, those in enumerate(bits)
            if those and other != language and (those >> sentence & 1 or not _aligned(bits[language], those))
        ]

    def _text(self, video: int, language: int, sentence: int) -> str:
        rank = (self._bits[video][language] & ((1 << sentence) - 1)).bit_count()
        return self._texts[self._starts[video][language] + rank].as_py()


def _aligned(bits: int, others: int) -> bool:
    """Whether one language's sentences are a subset of the other's, that is, one was translated from the other."""
    common = bits & others
    return common == bits or common == others


def _sentences(bits: int) -> list[int]:
    return [sentence for sentence in range(bits.bit_length()) if bits >> sentence & 1]


def _draw(number: int, choices: list[int]) -> tuple[int, int]:
    """Choose with a large random number. Returns the rest of the number, for further draws, and the choice."""
    number, choice = divmod(number, len(choices))
    return number, choices[choice]
