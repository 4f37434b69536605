"""Reading translated captions, so that a benchmark in English becomes one in nine languages (paper §5.1).

Three shapes are read, all aligned with the English captions sentence by sentence:

- `*.jsonl`, what `translate.py` writes: `{"video_id", "caption_id", "language", "text", "source"}` on each line;
- `*_{language}.json` of the shape `{"video0.mp4": ["first caption", ...]}`, how VTT in nine languages circulates
  (`ref_captions_de.json`, `test_de.json`; the extension in the keys is optional). Sentence k is the translation of the
  video's k-th English caption, or, where the English file of the same name is in the folder too
  (`ref_captions_en.json`), of its caption at position k;
- `*_{language}.json` of MSR-VTT's own shape, `{"sentences": [{"video_id", "sen_id", "caption"}]}`, aligned by `sen_id`.

A language in a file's name is a code such as `de`, `fil`, `pt-BR` or `zh-Hant`. Codes of three letters count only if
the language is asked for: `all`, `new` and `val` are languages, too.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from polyvid.dataset_scripts.schema import canonical_language, in_table_order
from polyvid.modeling.errors_mmp import PolyvidError

LANGUAGE_IN_NAME = re.compile(r"(?:^|[._-])([a-z]{2}-(?:[A-Z]{2}|[A-Z][a-z]{3})|[A-Za-z]{2,3})$")

Lists = dict[str, list[str]]  # video -> its captions in order


def without_extension(video_id: str) -> str:
    """`"video0.mp4"` and `"video0"` are the same video."""
    return re.sub(r"\.(mp4|avi|webm|mkv)$", "", video_id)


class Translations:
    """The translations found in a file or folder, looked up by language, video and caption."""

    def __init__(self, path: str | Path, languages: list[str] | None = None):
        """
        Args:
            path: a file or a folder (searched recursively) of the shapes above.
            languages: only these are kept; default: all that are found.

        Raises:
            FileNotFoundError: if the path does not exist, or holds no translation into one of `languages`.
            PolyvidError: for a file that cannot be read, naming it and the line.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"No translations at {path}: give a file or folder written by `polyvid translate`.")
        self.path = path
        self._wanted = languages
        self.by_id: defaultdict[str, dict[tuple[str, str], tuple[str, str]]] = defaultdict(dict)
        self.lists: defaultdict[str, list[tuple[Lists, Lists, str]]] = defaultdict(list)
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in (".json", ".jsonl"))
        for file in files:
            if file.suffix == ".jsonl":
                self._read_lines(file)
            else:
                self._read_json(file)
        found = {*self.by_id, *self.lists}
        self.languages = in_table_order(found) if languages is None else list(languages)
        missing = [language for language in self.languages if language not in found]
        if missing or not found:
            into = " ".join(missing) or "any language"
            raise FileNotFoundError(f"No translations into {into} in {path} ({len(files)} files looked at).")

    def find(
        self, language: str, video_id: str, ids: list[str], text: str, position: int, count: int
    ) -> tuple[str, str] | None:
        """The translation of one English caption and where it comes from; None if there is none or it is empty.

        Args:
            ids: the names the sentence goes by.
            text: the English caption.
            position: its position among the `count` English captions of the video.
        """
        for found in self._candidates(language, video_id, ids, text, position, count):
            if found[0].strip():
                return found
        return None

    def _candidates(
        self, language: str, video_id: str, ids: list[str], text: str, position: int, count: int
    ) -> Iterator[tuple[str, str]]:
        for sentence_id in ids:
            if (video_id, sentence_id) in self.by_id[language]:
                yield self.by_id[language][video_id, sentence_id]
        for translated, english, source in self.lists[language]:
            texts, originals = translated.get(video_id, []), english.get(video_id)
            if originals is not None and len(originals) == len(texts) and text in originals:
                yield texts[originals.index(text)], source
            if originals is None and len(texts) == count:
                yield texts[position], source

    def _read_lines(self, file: Path) -> None:
        with open(file, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                    language = canonical_language(row["language"])
                    if self._wanted is None or language in self._wanted:
                        key = (row["video_id"], row["caption_id"])
                        self.by_id[language][key] = (row["text"], row["source"])
                except (ValueError, KeyError, TypeError) as error:
                    raise PolyvidError(f"{file}, line {number}: not a translated caption ({error!r}).") from error

    def _read_json(self, file: Path) -> None:
        match = LANGUAGE_IN_NAME.search(file.stem)
        try:
            language = canonical_language(match[1]) if match else None
        except PolyvidError:  # a short word that is no language
            language = None
        if match is None or language is None:
            return
        if language not in self._wanted if self._wanted is not None else len(match[1]) == 3:
            return
        source = f"file:{file.name}"
        content = read_json(file)
        if isinstance(content, dict) and "sentences" in content:
            for row in content["sentences"]:
                self.by_id[language][row["video_id"], str(row["sen_id"])] = (row["caption"], source)
            return
        english = file.with_name(f"{file.stem[: match.start(1)]}en{file.suffix}")
        english_texts = _captions_by_video(english) if english.exists() else {}
        self.lists[language].append((_captions_by_video(file), english_texts, source))


def translated_captions(
    row: Mapping[str, Any], translations: Translations, other_ids: Callable[[str, str], list[str]] | None = None
) -> Iterator[tuple[tuple[str, str], dict[str, str] | None]]:
    """Pairs of (language, English caption id) and its translated caption, or None, of one video.

    Args:
        row: of `polyvid.dataset_scripts.schema.CAPTIONS`.
        other_ids: (video id, caption id) -> further names that a translation file may use for a caption.
    """
    english = [caption for caption in row["captions"] if caption["language"] == "en"]
    for language in translations.languages:
        for position, caption in enumerate(english):
            ids = [caption["caption_id"]]
            if other_ids is not None:
                ids += other_ids(row["video_id"], caption["caption_id"])
            found = translations.find(language, row["video_id"], ids, caption["text"], position, len(english))
            translated = None
            if found is not None:
                translated = {"caption_id": ids[0], "language": language, "text": found[0], "source": found[1]}
            yield (language, ids[0]), translated


def read_json(file: Path) -> Any:
    """Parse a JSON file; the error of a broken one names it."""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise PolyvidError(f"{file} is not valid JSON ({error}); download it again.") from error


def _captions_by_video(file: Path) -> dict[str, list[str]]:
    content = read_json(file)
    if not isinstance(content, dict) or not all(isinstance(texts, list) for texts in content.values()):
        raise PolyvidError(f'{file}: expected {{"video id": ["caption", ...]}} or MSR-VTT\'s own shape.')
    return {without_extension(video_id): texts for video_id, texts in content.items()}
