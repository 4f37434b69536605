"""Rows to videos: which columns hold what, and every caption with its language.

Three layouts are read, and may be mixed: one caption in each row (`caption`, `language`), one column for each language
(`de`, `sw` or `caption_de`, `caption_sw`; a text or a list of texts), and lists (`captions`) as this package writes
them. A video may have several rows.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import langcodes

from polyvid.dataset_scripts.own_data.tables import Table
from polyvid.dataset_scripts.schema import canonical_language
from polyvid.modeling.errors_mmp import PolyvidError

NAMES = ("file_name", "video_id", "video", "caption", "language", "captions", "caption_id", "source", "split")
"""What a column can be, besides the code of a language."""

SPLITS = {"val": "validation", "valid": "validation", "dev": "validation", "training": "train", "testing": "test"}
"""Other names of splits."""

UNKNOWN_SOURCE = "own"
"""The source of a caption whose table does not say who wrote it."""

AMBIGUOUS = ("id", "no")  # a number of the row as often as Indonesian and Norwegian


def split_name(name: str) -> str:
    """The name of a split used throughout: `"val"`, `"Dev"` and `"validation"` are the same."""
    return SPLITS.get(name.strip().lower(), name.strip().lower())


class VideoCell(NamedTuple):
    """What a dataset holds in a column of videos: the path that the video had, and its content (see `OwnVideo`)."""

    path: str | None
    content: Path | Callable[[], bytes]
    size: int | None = None  # in bytes, where it is known without reading


@dataclass
class OwnVideo:
    """A video with all its captions.

    Attributes:
        video_id: by which features are found.
        where: the row in which it came first.
        split: as the table says it; None if it does not.
        file_name: of the video, relative to its folder; None if the table names none.
        cell: of the video, where a dataset holds it.
        captions: as in `polyvid.dataset_scripts.schema.CAPTIONS`.
    """

    video_id: str
    where: str
    split: str | None
    file_name: str | None
    cell: VideoCell | None = None
    captions: list[dict[str, str]] = field(default_factory=list)


def read_videos(tables: Iterable[Table], columns: Mapping[str, str] | None = None) -> list[OwnVideo]:
    """The videos of all tables, in order of appearance.

    Args:
        tables: see `polyvid.dataset_scripts.own_data.tables`.
        columns: what `NAMES` and languages are called in them, where it is something else.

    Raises:
        PolyvidError: for a column that is missing, and for a value that cannot be right; names file, row and column.
    """
    videos: dict[str, OwnVideo] = {}
    for table in tables:
        layout = _Layout(table, columns or {})
        for where, row in table.rows:
            place = f"{table.name}, {where}"
            video_id, file_name, split = layout.identity(place, row)
            video = videos.setdefault(video_id, OwnVideo(video_id, place, split, file_name, layout.cell(row)))
            if video.split != split:
                raise PolyvidError(
                    f"{place}: video {video_id!r} is in the split {split!r} here and in {video.split!r} in "
                    f"{video.where}: a video belongs to one split."
                )
            cell = layout.cell(row)
            if video.file_name != file_name or (video.cell and cell and video.cell.size != cell.size):
                shown = f", {video.file_name} and {file_name}" if file_name else ""
                raise PolyvidError(
                    f"{place}: two videos have the id {video_id!r}{shown}: give each an id of its own in a column "
                    "video_id."
                )
            captions = list(layout.captions(place, row, video))
            if not captions:
                raise PolyvidError(f"{place}, column {' '.join(layout.shown)}: video {video_id!r} has no caption here.")
            video.captions += captions
    return list(videos.values())


class _Layout:
    """Which columns of a table hold what.

    Raises:
        PolyvidError: for columns that are missing or contradict each other.
    """

    def __init__(self, table: Table, columns: Mapping[str, str]):
        self.table = table
        named: dict[str, str] = {}  # language -> column
        renamed: dict[str, str] = {}
        for name, column in columns.items():
            if column not in table.columns:
                raise PolyvidError(
                    f"{table.name} has no column {column!r} (data.columns.{name}); it has {' '.join(table.columns)}."
                )
            if name in NAMES:
                renamed[name] = column
            else:
                named[_language(name, "data.columns")] = column
        # Columns keep their own names, unless data.columns gives them another meaning: `en: caption`.
        taken = {*renamed.values(), *named.values()}
        self.column_of = {name: name for name in NAMES if name in table.columns and name not in taken} | renamed
        self.languages = dict(named)
        if "caption" not in self.column_of and "caption_id" in self.column_of and "caption_id" not in renamed:
            del self.column_of["caption_id"]  # the id of no caption: Indonesian, next to `caption_de`
        for column in table.columns:
            if column not in (*taken, *self.column_of) and (language := self._language_of(column)) is not None:
                if language in self.languages and language not in named:
                    raise PolyvidError(
                        f"{table.name}: the columns {self.languages[language]} and {column} both hold captions in "
                        f"{language}: leave out one, or give a row for each caption."
                    )
                self.languages.setdefault(language, column)
        self.shown = [self.column_of[name] for name in ("caption", "captions") if name in self.column_of]
        self.shown += self.languages.values()
        listed = " ".join(table.columns)
        if not {"file_name", "video_id", "video"} & self.column_of.keys():
            raise PolyvidError(
                f"{table.name} has no column file_name or video_id, which say what video a row is about; it has "
                f"{listed}. data.columns.video_id=NAME (or --column video_id=NAME) says which column it is."
            )
        if not self.shown:
            if unfilled := [column for column in table.columns if self._is_unfilled(column)]:
                raise PolyvidError(
                    f"{table.name} has no captions: nothing is written in any row of the columns {' '.join(unfilled)}."
                )
            raise PolyvidError(
                f"{table.name} has no captions: it needs the columns caption and language, a column for each language "
                f"(such as de and sw), or captions; it has {listed}. data.columns.de=NAME (or --column de=NAME) says "
                "that a column is German."
            )
        if "caption" in self.column_of and "language" not in self.column_of:
            column = self.column_of["caption"]
            raise PolyvidError(
                f"{table.name} has the column {column} but no column language: add it, or say which language all "
                f"captions are in: data.columns.en={column} (or --column en={column})."
            )

    def _language_of(self, column: str) -> str | None:
        """The language whose captions a column holds, by its name and its values; None if it holds something else."""
        prefix, _, code = column.partition("_")
        prefixed = prefix in ("caption", "captions")
        try:
            language = canonical_language(code if prefixed else column)
        except PolyvidError:
            return None
        if prefixed:
            return language
        texts = [text for _, row in self.table.rows for text in _texts(row.get(column)) if isinstance(text, str)]
        if len(language.split("-")[0]) > 2:  # `url`, `key` and `tag` are codes of languages, too
            is_language = bool(langcodes.Language.get(language).speaking_population()) and any(map(_is_sentence, texts))
        elif language in AMBIGUOUS:
            is_language = any(map(_is_sentence, texts))
        else:
            is_language = any(letter.isalpha() for text in texts for letter in text)
        return language if is_language else None

    def _is_unfilled(self, column: str) -> bool:
        """Whether a column is named like a language of the tables in the guide, but holds no text."""
        try:
            language = canonical_language(column)
        except PolyvidError:
            return False
        values = [value for _, row in self.table.rows for value in _texts(row.get(column))]
        return len(language.split("-")[0]) == 2 and not any(str(value).strip() for value in values)

    def identity(self, place: str, row: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
        """Id, file name and split of a row's video."""
        file_name = self._text(place, row, "file_name")
        if file_name is not None:
            path = PurePosixPath(file_name)
            if path.is_absolute() or ".." in path.parts or "://" in file_name:
                raise PolyvidError(
                    f"{place}, column {self.column_of['file_name']}: {file_name!r} is not a file below the folder."
                )
        video_id = self._text(place, row, "video_id") or (file_name and PurePosixPath(file_name).stem)
        if video_id is None and (cell := self.cell(row)) is not None and cell.path:
            video_id = PurePosixPath(cell.path).stem
        if video_id is None:
            raise PolyvidError(f"{place}: the row does not say which video it is about: add a column video_id.")
        split = self.table.split
        if "split" in self.column_of:
            split = split_name(str(self._text(place, row, "split")))
        return video_id, file_name, split

    def cell(self, row: Mapping[str, Any]) -> VideoCell | None:
        """A row's video, where the dataset holds it."""
        cell = row.get(self.column_of.get("video", ""))
        return cell if isinstance(cell, VideoCell) else None

    def captions(self, place: str, row: Mapping[str, Any], video: OwnVideo) -> Iterator[dict[str, str]]:
        """The captions of a row. Languages of one row are translations of each other, if there is one text of each."""
        source = self._text(place, row, "source") or UNKNOWN_SOURCE

        def caption(language: str, text: Any, column: str, caption_id: str) -> dict[str, str]:
            if not isinstance(text, str) or not text.strip():
                raise PolyvidError(f"{place}, column {column}: the caption is {'empty' if not text else repr(text)}.")
            return {"caption_id": caption_id, "language": language, "text": text.strip(), "source": source}

        count = len(video.captions)
        if "caption" in self.column_of and row.get(self.column_of["caption"]) is not None:
            column = self.column_of["caption"]
            language = _language(self._text(place, row, "language"), f"{place}, column {self.column_of['language']}")
            texts, own_id = _texts(row.get(column)) or [None], self._text(place, row, "caption_id")
            for number, text in enumerate(texts, count):
                name = own_id if own_id and len(texts) == 1 else f"{language}{number}"
                yield caption(language, text, column, name)
        if "captions" in self.column_of:
            column = self.column_of["captions"]
            for number, (language, text, rest) in enumerate(self._listed(place, row.get(column), column)):
                found = caption(language, text, column, str(rest.get("caption_id") or f"{language}{count + number}"))
                yield found | ({"source": str(rest["source"])} if rest.get("source") else {})
        by_language = {language: _texts(row.get(column)) for language, column in self.languages.items()}
        by_language = {language: those for language, those in by_language.items() if those}
        aligned = len({len(those) for those in by_language.values()}) == 1
        for language, those in by_language.items():
            for number, text in enumerate(those):
                name = f"{count + number}" if aligned else f"{language}{count + number}"
                yield caption(language, text, self.languages[language], name)

    def _listed(self, place: str, value: Any, column: str) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
        """Language, text, and what else is said of it, of each caption in a list or in lists by language."""
        if isinstance(value, Mapping):
            for code, texts in value.items():
                language = _language(code, f"{place}, column {column}")
                yield from ((language, text, {}) for text in _texts(texts))
            return
        if value is None:  # this row has captions of another layout, or none
            return
        if not isinstance(value, list | tuple):
            raise PolyvidError(
                f"{place}, column {column}: expected a list of captions, not {value!r}. In a CSV file, each caption "
                "has a row (columns caption and language), or each language a column."
            )
        for item in value:
            if not isinstance(item, Mapping) or not {"language", "text"} <= item.keys():
                raise PolyvidError(
                    f'{place}, column {column}: expected {{"language": ..., "text": ...}}, not {item!r}. Texts alone '
                    f"need their language: data.columns.en={column} if it is English."
                )
            for name in ("caption_id", "source"):
                if isinstance(item.get(name), Mapping | list | tuple):
                    raise PolyvidError(f"{place}, column {column}: the {name} of a caption is {item[name]!r}, no text.")
            yield _language(item["language"], f"{place}, column {column}"), item["text"], item

    def _text(self, place: str, row: Mapping[str, Any], name: str) -> str | None:
        """The value of a column as text; None if there is no such column.

        Raises:
            PolyvidError: if it is empty, unless it may be.
        """
        if name not in self.column_of:
            return None
        value = row.get(self.column_of[name])
        text = "" if value is None else str(value).strip()
        if not text and name not in ("caption_id", "source"):
            raise PolyvidError(f"{place}, column {self.column_of[name]}: nothing is written there.")
        return text or None


_canonical = lru_cache(canonical_language)  # asked for every caption


def _language(code: Any, where: str) -> str:
    try:
        return _canonical(str(code).strip())
    except PolyvidError as error:
        raise PolyvidError(f"{where}: {error}") from None


def _texts(value: Any) -> list[Any]:
    """A text as a list of one; nothing as none."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _is_sentence(text: str) -> bool:
    """Whether a text is more than a number or a name: several words, or letters beyond ASCII."""
    letters = any(letter.isalpha() for letter in text)
    return letters and (len(text.split()) > 1 or not text.isascii())
