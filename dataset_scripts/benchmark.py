"""What the builders of benchmarks share: options, languages, translations and the check of counts.

A benchmark's own file only says how its official files are read (`read_split`). Every row follows
`polyvid.dataset_scripts.schema.CAPTIONS`.
"""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from polyvid.dataset_scripts.building import LocalBuilder
from polyvid.dataset_scripts.protocols import Protocol, check_counts, protocols_of
from polyvid.dataset_scripts.schema import CAPTIONS, canonical_language, in_table_order
from polyvid.dataset_scripts.translations import Translations, translated_captions
from polyvid.modeling.errors_mmp import PolyvidError

Row = dict[str, Any]
"""A row of `polyvid.dataset_scripts.schema.CAPTIONS`."""


@dataclass
class BenchmarkConfig(datasets.BuilderConfig):
    """Options of a benchmark; the config's name is the name of the protocol.

    Args:
        languages: which languages to keep, `"all"` for those of the files and of `translations`; default: those of the
            files.
        translations: file or folder of translated captions (see `translations.py`), for the languages without.
        splits: which splits to build, if you have only some of the files; default: all of the protocol.
        check_counts: refuse files whose counts differ from the protocol's.
    """

    languages: str | list[str] | None = None
    translations: str | None = None
    splits: str | list[str] | None = None
    check_counts: bool = True


def configs(benchmark: str) -> list[BenchmarkConfig]:
    """One config per protocol, the paper's first."""
    return [
        BenchmarkConfig(name=protocol.name, version=datasets.Version("1.0.0"), description=protocol.source)
        for protocol in protocols_of(benchmark).values()
    ]


class BenchmarkBuilder(LocalBuilder, datasets.GeneratorBasedBuilder):
    """Builds one benchmark from its official files, which must be in `data_dir` (searched recursively).

    A subclass sets `BENCHMARK`, `BUILDER_CONFIGS`, `DEFAULT_CONFIG_NAME` and writes `read_split`.

    Raises (when built):
        FileNotFoundError: a file is missing; the message names it.
        PolyvidError: unknown language or split, counts that differ from the protocol, incomplete translations.
    """

    BUILDER_CONFIG_CLASS = BenchmarkConfig
    BENCHMARK: str

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(description=self.config.description, features=CAPTIONS)

    @property
    def protocol(self) -> Protocol:
        return protocols_of(self.BENCHMARK)[self.config.name]

    def read_split(self, split: str, languages: list[str]) -> list[Row]:
        """The rows of a split, with its captions in `languages` that people wrote."""
        raise NotImplementedError

    def other_ids(self, video_id: str, caption_id: str) -> list[str]:
        """Further names a translation file may use for a caption."""
        return []

    def find_file(self, *names: str) -> Path:
        """The first of these names that is found under `data_dir`, plain or gzipped, nearest to its root.

        Raises:
            FileNotFoundError: if none of them is found.
        """
        if self.config.data_dir is None:
            raise FileNotFoundError(
                f"{self.BENCHMARK}: pass data_dir, the folder with the official files ({names[0]})."
            )
        root = Path(self.config.data_dir)
        for name in names:
            found = [path for variant in (name, f"{name}.gz") for path in root.rglob(variant)]
            if found:
                return min(found, key=lambda path: (len(path.parts), str(path)))
        raise FileNotFoundError(
            f"{self.BENCHMARK}, protocol {self.config.name!r}: no {' or '.join(names)} in {root}. "
            "The dataset card says where the official files come from; splits=[...] builds only some splits."
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        human_languages, translated = self._languages()
        names = self.config.splits or list(self.protocol.splits)
        names = names if isinstance(names, list | tuple) else [names]
        unknown = sorted(set(names) - set(self.protocol.splits))
        if unknown:
            raise PolyvidError(
                f"{self.BENCHMARK}, protocol {self.config.name!r} has no split {unknown[0]!r}: "
                f"choose from {' '.join(self.protocol.splits)}."
            )
        translations = None
        if translated:
            if self.config.translations is None:
                raise PolyvidError(
                    f"{self.BENCHMARK} has no human captions in {' '.join(translated)}: pass translations=, a folder "
                    "of translated captions (`polyvid translate` makes them), or leave these languages out."
                )
            translations = Translations(self.config.translations, translated)
        generators = []
        # Everything is read and checked before the first row is written: a refusal leaves nothing behind.
        for split in names:
            rows = self.read_split(split, human_languages)
            if self.config.check_counts:
                check_counts(self.protocol, split, rows, human_languages, str(self.config.data_dir))
                self._check_translations(split, rows, translations)
            generators.append(
                datasets.SplitGenerator(name=split, gen_kwargs={"rows": rows, "translations": translations})
            )
        return generators

    def _generate_examples(self, rows: list[Row], translations: Translations | None) -> Iterator[tuple[str, Row]]:
        kept = set(self._kept_languages())
        for row in rows:
            captions = [caption for caption in row["captions"] if caption["language"] in kept]
            captions += [caption for _, caption in self._translated(row, translations) if caption is not None]
            yield row["video_id"], {**row, "captions": captions}

    def _kept_languages(self) -> list[str]:
        languages = self.config.languages
        if languages is None:
            return list(self.protocol.languages)
        if languages == "all":
            path = self.config.translations
            return in_table_order([*self.protocol.languages, *(Translations(path).languages if path else ())])
        languages = languages.replace(",", " ").split() if isinstance(languages, str) else languages
        return [canonical_language(language) for language in languages]

    def _languages(self) -> tuple[list[str], list[str]]:
        """The languages to read from the official files and those to take from translations."""
        kept, written = self._kept_languages(), self.protocol.languages
        translated = [language for language in kept if language not in written]
        read = [language for language in written if language in kept or (translated and language == "en")]
        return read, translated

    def _translated(
        self, row: Row, translations: Translations | None
    ) -> Iterator[tuple[tuple[str, str], dict[str, str] | None]]:
        if translations is not None:
            yield from translated_captions(row, translations, self.other_ids)

    def _check_translations(self, split: str, rows: list[Row], translations: Translations | None) -> None:
        if translations is None:
            return
        missing = [
            (row["video_id"], caption_id, language)
            for row in rows
            for (language, caption_id), caption in self._translated(row, translations)
            if caption is None
        ]
        if missing:
            video_id, caption_id, language = missing[0]
            expected = sum(caption["language"] == "en" for row in rows for caption in row["captions"]) * len(
                translations.languages
            )
            raise PolyvidError(
                f"{self.BENCHMARK} {split}: expected {expected:,} translated captions "
                f"({' '.join(translations.languages)}), found {expected - len(missing):,} in {translations.path}; the "
                f"first missing or empty one is {language}, video {video_id}, caption {caption_id}. "
                "Finish the translation, or build from what exists with check_counts=False."
            )


def human(caption_id: str, language: str, text: str) -> dict[str, str]:
    """A caption written by a person."""
    return {"caption_id": caption_id, "language": language, "text": text, "source": "human"}


def read_lines(file: Path) -> list[str]:
    """The lines of a UTF-8 text file, plain or gzipped.

    Lines end at "\\n" only: captions contain U+2028 and the like, where `str.splitlines` would cut.

    Raises:
        PolyvidError: if the file is not UTF-8 or a broken gzip.
    """
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rt", encoding="utf-8-sig", newline="\n") as lines:
            return [line.rstrip("\r\n") for line in lines]
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise PolyvidError(f"{file} cannot be read as UTF-8 text ({error}); download it again.") from error
