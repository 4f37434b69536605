"""Every evaluation protocol of the benchmarks, as data: which videos, how many captions, and who defined it.

A score means nothing without the protocol it was measured under. The builders refuse files whose counts differ from
this table; the cards and the README show it (`python -m polyvid.dataset_scripts.protocols` prints it as Markdown).
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.modeling.errors_mmp import PolyvidError


@dataclass(frozen=True)
class Split:
    """How many videos (images, for Multi30K and XM3600) a split has, and how many captions per language.

    `captions` counts those in the official files. A count of `None` is not asserted, because releases of the file
    differ or state none. `also` are numbers of videos in incomplete copies which the authors' own code accepts. `total`
    counts the captions of all languages together.
    """

    videos: int | None
    captions: dict[str, int | None]
    also: tuple[int, ...] = ()
    total: int | None = None


@dataclass(frozen=True)
class Protocol:
    """One way to split one benchmark; the first protocol of a benchmark is the one the paper uses (§5.1)."""

    benchmark: str
    name: str
    splits: dict[str, Split]
    source: str

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages with captions in the official files; others come from translation files."""
        return tuple(dict.fromkeys(language for split in self.splits.values() for language in split.captions))


VTT_1K_A = Split(1000, {"en": 1000})
YOUCOOK2_LANGUAGES = (*(language for language in LANGUAGES if language != "sw"), "ja")
XM3600_LANGUAGES = (
    *LANGUAGES,
    *"ar bn da el fa fi fil he hi hr hu id it ja ko mi nl no pl pt quz ro sv te th tr uk".split(),
)
RUDDER_LANGUAGES = ("en", "hi", "kn", "ml", "mr", "ta", "te")


def _uncounted(languages: Iterable[str]) -> dict[str, int | None]:
    return dict.fromkeys(languages)


def _counts(pairs: str) -> dict[str, int | None]:
    """`"en:626 de:625"` → `{"en": 626, "de": 625}`."""
    return {language: int(count) for language, count in (pair.split(":") for pair in pairs.split())}


TUX_ALL = _counts(
    "en:626 de:625 fr:626 cs:626 zh:476 ru:625 vi:593 sw:108 es:625 ach:598 af:603 am:621 an:625 ar:557 ast:604 "
    "be:604 bg:604 ca:626 ca-valencia:626 cy:105 da:625 el:625 eo:621 eu:619 fa:348 ff:625 fi:621 ga:625 gd:625 "
    "gl:626 gu:625 he:399 hi:604 hr:625 hu:621 hy:621 id:621 is:626 it:621 iu:598 ja:626 ka:625 kab:296 km:352 "
    "ko:621 lv:621 mk:130 ml:604 ms:467 nb:617 nl:625 nn:617 pl:625 pt:626 pt-BR:625 ro:604 sk:626 sl:625 son:625 "
    "sq:620 sr:607 sr-Latn:604 sv:625 th:472 tr:604 uk:625 vec:621 zh-TW:506 zu:497 "
)
"""Captions of Tux-8 by language, those with at least 100; British and Australian English are left out as English."""

PROTOCOLS = (
    Protocol(
        "msrvtt",
        "1k-A",
        {"train": Split(6513, {"en": 130_260}), "validation": Split(497, {"en": 9_940}), "test": VTT_1K_A},
        "Official train and validation (Xu et al. 2016), tested on the 1,000 pairs of Yu et al. 2018; paper §5.1",
    ),
    Protocol(
        "msrvtt",
        "7k",
        {"train": Split(7010, {"en": 140_200}), "test": VTT_1K_A},
        "Official train + validation, tested on 1k-A (Miech et al. 2019); has no validation videos",
    ),
    Protocol(
        "msrvtt",
        "9k",
        {"train": Split(9000, {"en": 180_000}), "test": VTT_1K_A},
        "Every video outside 1k-A (Liu et al. 2019), the 180K pairs of paper App. C; has no validation videos",
    ),
    Protocol(
        "msrvtt",
        "official",
        {
            "train": Split(6513, {"en": 130_260}),
            "validation": Split(497, {"en": 9_940}),
            "test": Split(2990, {"en": 59_800}),
        },
        "The splits of Xu et al. 2016, 20 captions per video",
    ),
    Protocol(
        "vatex",
        "chen2020",
        {
            "train": Split(25_991, {"en": 259_910, "zh": 259_910}),
            "validation": Split(1500, {"en": 15_000, "zh": 15_000}),
            "test": Split(1500, {"en": 15_000, "zh": 15_000}),
        },
        "Official train; official validation halved by the id lists of Chen et al. 2020; paper §5.1",
    ),
    Protocol(
        "vatex",
        "hashed-halves",
        {
            "train": Split(25_991, {"en": 259_910, "zh": 259_910}),
            "validation": Split(1500, {"en": 15_000, "zh": 15_000}),
            "test": Split(1500, {"en": 15_000, "zh": 15_000}),
        },
        "Same sizes without the id lists: validation videos in the order of their hashed ids, first half / second half",
    ),
    Protocol(
        "vatex",
        "official",
        {
            "train": Split(25_991, {"en": 259_910, "zh": 259_910}),
            "validation": Split(3000, {"en": 30_000, "zh": 30_000}),
        },
        "The public splits of Wang et al. 2019 (captions of the official test videos were never released)",
    ),
    Protocol(
        "multi30k",
        "both",
        {
            "train": Split(29_000, {"en": 145_000, "de": 145_000, "fr": 29_000, "cs": 29_000}),
            "validation": Split(1014, {"en": 5_070, "de": 5_070, "fr": 1_014, "cs": 1_014}),
            "test": Split(1000, {"en": 5_000, "de": 5_000, "fr": 1_000, "cs": 1_000}),
        },
        "Task 2 in English and German, task 1 in French and Czech, test 2016 (as Kim et al. 2020); paper §5.6, Table 7",
    ),
    Protocol(
        "multi30k",
        "task1",
        {
            "train": Split(29_000, {"en": 29_000, "de": 29_000, "fr": 29_000, "cs": 29_000}),
            "validation": Split(1014, {"en": 1_014, "de": 1_014, "fr": 1_014, "cs": 1_014}),
            "test": Split(1000, {"en": 1_000, "de": 1_000, "fr": 1_000, "cs": 1_000}),
        },
        "One English caption and its three translations, test 2016 (Elliott et al. 2016, 2017; Barrault et al. 2018)",
    ),
    Protocol(
        "multi30k",
        "task2",
        {
            "train": Split(29_000, {"en": 145_000, "de": 145_000}),
            "validation": Split(1014, {"en": 5_070, "de": 5_070}),
            "test": Split(1000, {"en": 5_000, "de": 5_000}),
        },
        "Five English and five German descriptions, written independently, test 2016 (Elliott et al. 2016)",
    ),
    Protocol(
        "msvd",
        "standard",
        {
            "train": Split(1200, {"en": None, "zh": 7_194}),
            "validation": Split(100, {"en": None, "zh": 584}),
            "test": Split(670, {"en": None, "zh": 3_980}),
        },
        "vid1–1200 / 1201–1300 / 1301–1970 (Venugopalan et al. 2015), paper App. E; English from the corpus CSV, "
        "whose releases differ in their count, Chinese from MSVD-CN",
    ),
    Protocol(
        "msvd",
        "descriptions-txt",
        {
            "train": Split(1200, {"en": 48_774, "zh": 7_194}),
            "validation": Split(100, {"en": 4_290, "zh": 584}),
            "test": Split(670, {"en": 27_763, "zh": 3_980}),
        },
        "Same videos; English from AllVideoDescriptions.txt, the 80,827 sentences most retrieval papers use",
    ),
    Protocol(
        "c2kd",
        "msrvtt",
        {"train": Split(None, _uncounted(LANGUAGES)), "test": Split(1000, _uncounted(LANGUAGES), also=(968,))},
        "Multi-MSRVTT of C2KD (Rouditchenko et al. 2023): the nine languages of the paper, tested on 1k-A. Copies with "
        "audio lack 32 test videos, which C2KD counts as not found",
    ),
    Protocol(
        "c2kd",
        "vatex",
        {"train": Split(None, _uncounted(("en", "zh"))), "test": Split(None, _uncounted(("en", "zh")))},
        "VATEX of C2KD, tested with one caption a video and language: not comparable with `vatex`",
    ),
    Protocol(
        "c2kd",
        "youcook2",
        {
            "train": Split(None, _uncounted(YOUCOOK2_LANGUAGES)),
            "validation": Split(3350, _uncounted(YOUCOOK2_LANGUAGES), also=(3339,)),
        },
        "Multi-YouCook2 of C2KD: clips of recipes, one caption each, translated. Of 3,350 validation clips, 3,339 have "
        "all features; C2KD counts the others as not found",
    ),
    Protocol(
        "c2kd",
        "rudder",
        {"train": Split(None, _uncounted(RUDDER_LANGUAGES)), "test": Split(None, _uncounted(RUDDER_LANGUAGES))},
        "RUDDER (Akula et al. 2021) as in C2KD, which reports en hi mr kn; not every video has every language",
    ),
    Protocol(
        "xm3600",
        "all",
        {"test": Split(3600, _uncounted(XM3600_LANGUAGES), total=261_375)},
        "Crossmodal-3600 (Thapliyal et al. 2022): images, about two captions in each of 36 languages, written anew. "
        "Each language is searched by itself, as in MTEB's XM3600T2IRetrieval, which reports nDCG@10",
    ),
    Protocol(
        "activitynet",
        "val1",
        {"train": Split(10_009, {"en": 10_009}), "test": Split(4917, {"en": 4_917})},
        "ActivityNet Captions, paragraph to video (Zhang et al. 2018): trained on train, tested on val_1; has no "
        "validation videos",
    ),
    Protocol(
        "didemo",
        "paragraph",
        {
            "train": Split(8395, {"en": None}, also=(8392,)),
            "validation": Split(1065, {"en": 1_065}),
            "test": Split(1004, {"en": 1_004}),
        },
        "DiDeMo, paragraph to video (Liu et al. 2019), whose list of training videos lacks three",
    ),
    Protocol(
        "lsmdc",
        "1k",
        {
            "train": Split(None, {"en": None}),
            "validation": Split(None, {"en": None}),
            "test": Split(1000, {"en": 1_000}),
        },
        "LSMDC 2016 with its public test of 1,000 clips of films",
    ),
    Protocol(
        "tux8",
        "tux8",
        {"test": Split(461, dict.fromkeys(("en", "de", "fr", "cs", "zh", "ru", "vi", "es"), 461))},
        "Stamps of Tux Paint with captions in eight of the nine languages; test only, and not in the paper",
    ),
    Protocol(
        "tux8",
        "tux_sw",
        {"test": Split(106, dict.fromkeys(("en", "de", "fr", "cs", "zh", "ru", "vi", "sw", "es"), 106))},
        "Those of `tux8` with a caption in Swahili, too",
    ),
    Protocol(
        "tux8",
        "tux_all",
        {"test": Split(626, TUX_ALL)},
        "All stamps but symbols and repeated English captions, in each language with at least 100 captions",
    ),
)

ALIASES = {"vtt": "msrvtt", "m30k": "multi30k", "youtube2text": "msvd"}
"""The paper's names of the benchmarks."""


def canonical_benchmark(name: str) -> str:
    """The folder name of a benchmark: `"VTT"` and `"msrvtt"` give `"msrvtt"`.

    Raises:
        PolyvidError: for a benchmark that is not in the table.
    """
    code = ALIASES.get(name.lower(), name.lower())
    known = list(dict.fromkeys(protocol.benchmark for protocol in PROTOCOLS))
    if code not in known:
        nearest = difflib.get_close_matches(code, [*ALIASES, *known], n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise PolyvidError(f"Unknown benchmark {name!r}: choose from {' '.join(known)} (or {' '.join(ALIASES)}).{hint}")
    return code


def protocols_of(benchmark: str) -> dict[str, Protocol]:
    """The protocols of a benchmark by name; the first is the paper's."""
    code = canonical_benchmark(benchmark)
    return {protocol.name: protocol for protocol in PROTOCOLS if protocol.benchmark == code}


def check_counts(protocol: Protocol, split: str, rows: list[dict], languages: list[str], files: str) -> None:
    """Refuse rows that are not the protocol's split.

    Args:
        rows: rows of the `CAPTIONS` schema, before translations are added.
        languages: the languages the rows were read in; only these are counted.
        files: where the rows came from, for the message.

    Raises:
        PolyvidError: naming what was expected, what was found and how to build anyway.
    """
    expected = protocol.splits[split]
    found = dict.fromkeys(languages, 0)
    for row in rows:
        for caption in row["captions"]:
            found[caption["language"]] += 1
    counts: list[tuple[str, int | None, int]] = [("videos", expected.videos, len(rows))]
    counts += [(f"captions ({language})", expected.captions.get(language), found[language]) for language in languages]
    wrong = [f"{want:,} {what}, found {have:,}" for what, want, have in counts if want is not None and want != have]
    if len(rows) in expected.also:
        wrong = wrong[1:]
    if expected.total not in (None, sum(found.values())) and set(languages) == set(expected.captions):
        wrong.append(f"{expected.total:,} captions in all, found {sum(found.values()):,}")
    if wrong:
        raise PolyvidError(
            f"{protocol.benchmark} {split}, protocol {protocol.name!r}: expected {'; expected '.join(wrong)} "
            f"in {files}. Scores on other data are not comparable with published ones; "
            "to build from these files anyway pass check_counts=False."
        )


def to_markdown(benchmark: str | None = None) -> str:
    """The table of protocols (of one benchmark, if given) as Markdown."""
    lines = ["| benchmark | protocol | split | videos | captions | source |", "| --- | --- | --- | ---: | --- | --- |"]
    for protocol in PROTOCOLS:
        if benchmark is not None and protocol.benchmark != canonical_benchmark(benchmark):
            continue
        head, source = [f"`{protocol.benchmark}`", f"`{protocol.name}`"], protocol.source
        for name, split in protocol.splits.items():
            captions = ", ".join(
                language if count is None else f"{language} {count:,}" for language, count in split.captions.items()
            )
            captions += f"; {split.total:,} in all" if split.total else ""
            videos = " or ".join(f"{count:,}" for count in (split.videos, *split.also) if count is not None)
            lines.append(f"| {' | '.join(head)} | {name} | {videos or 'not stated'} | {captions} | {source} |")
            head, source = ["", ""], ""
    return "\n".join(lines)


if __name__ == "__main__":
    print(to_markdown())
