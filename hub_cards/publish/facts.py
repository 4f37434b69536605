"""Facts about a trained model, read from the files around it: recipes, results, data, licences.

What was not recorded is None or empty, and the card says so.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from huggingface_hub import DatasetCard

from polyvid.dataset_scripts.building import find_shards, known_datasets
from polyvid.dataset_scripts.features import SETTINGS, recorded_encoders
from polyvid.dataset_scripts.own_data.opening import shown_name
from polyvid.dataset_scripts.protocols import PROTOCOLS, protocols_of
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.provenance_mmp import Encoders, shown_encoders
from polyvid.train.data.parallel import load_parallel_texts
from polyvid.train.data.videos import load_videos
from polyvid.train.recipe import DataRecipe, Recipe, load_recipe
from polyvid.train.scoring.baselines import LABELS
from polyvid.train.scoring.results import RESULTS

HERE = Path(__file__).parent
TEMPLATES = HERE.with_name("templates")
PRETRAINING = "multi_howto100m"  # the source of joined clips
PARALLEL = "parallel texts"  # a table of one's own, which has no card


@dataclass(frozen=True)
class Evaluation:
    """One `results.json`: direction ("text_to_video") → language → score ("R@1") → value."""

    file: Path
    benchmark: str
    protocol: str
    split: str
    videos: int
    videos_with_features: int
    scores: Mapping[str, Mapping[str, Mapping[str, float]]]
    r1_intervals: Mapping[str, tuple[float, float]]  # of text to video, by language
    captions_by: Mapping[str, Sequence[str]]  # language → "human" or the translator
    environment: Mapping[str, str] | None
    baselines: Mapping[str, Mapping[str, float]]  # closed form → language → its R@1, text to video

    @property
    def searched(self) -> tuple[str, str, str]:
        """What distinguishes one evaluation of a model from another."""
        return self.benchmark, self.protocol, self.split


def find_evaluations(folder: Path, name: str, given: Sequence[Path] = ()) -> list[Evaluation]:
    """The results of the model in `folder`, whose run has the name `name`.

    Args:
        given: files or folders to read. Default: what `polyvid evaluate` wrote to `outputs/results/<name>/` for this
            folder, and the demo's `results.json` next to the folder unless `polyvid evaluate` has searched the same
            videos.

    Raises:
        FileNotFoundError: if a given path holds no results.
        PolyvidError: if given results belong to another model, or cannot be read.
    """
    found = []
    for path in given:
        files = sorted(path.rglob("results.json")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise FileNotFoundError(f"There is no results.json in {path}: `polyvid evaluate` writes it.")
        for file in files:
            if (evaluation := _read(file, folder, name, same_folder=False)) is None:
                raise PolyvidError(f"{file} holds no results of {name!r} ({folder}): pass the results of this model.")
            found.append(evaluation)
    if not given:
        read = [_read(file, folder, name, same_folder=True) for file in sorted((RESULTS / name).rglob("results.json"))]
        found = [evaluation for evaluation in read if evaluation is not None]
        file = folder.parent / "results.json"
        demo = _read(file, folder, name, same_folder=True) if file.is_file() else None
        if demo is not None and demo.searched not in [evaluation.searched for evaluation in found]:
            found.append(demo)
    return found


def _read(file: Path, folder: Path, name: str, same_folder: bool) -> Evaluation | None:
    """None for results of another model. `same_folder`: an equal name alone does not count."""
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        protocol = results["protocol"]
        if "counts" not in results:  # of the demo: all its models, each under the name of its folder
            scores = results["scores"].get(name)
            shape = (protocol["dataset"], protocol["config"], protocol["split"], protocol["clips"], protocol["clips"])
            fitted = {kind: by_model.get(name, {}) for kind, by_model in results.get("baselines", {}).items()}
            return scores and Evaluation(file, *shape, {"text_to_video": scores}, {}, {}, None, _r1(fitted))
        same = Path(results.get("model", "")).resolve() == folder.resolve()
        if not same and (same_folder or results["name"] != name):
            return None
        counts = results["counts"]
        searched = (protocol["benchmark"], protocol["protocol"], protocol["split"])
        intervals = {language: scores["R@1"] for language, scores in results["intervals_95"].items()}
        return Evaluation(
            file,
            *searched,
            counts["videos"],
            counts["videos_with_features"],
            results["scores"]["all"],
            intervals,
            protocol["captions_by"],
            results["environment"],
            _r1(results.get("closed_forms", {})),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise PolyvidError(f"{file} is not what polyvid evaluate writes ({type(error).__name__}: {error}).") from None


def _r1(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Label of each closed form → language → R@1."""
    return {
        LABELS[kind]: {language: scores["R@1"] for language, scores in by_language.items()}
        for kind, by_language in found.items()
        if by_language
    }


@dataclass(frozen=True)
class Stage:
    """One training run; `recorded` is its recipe file as written, without defaults that later versions add."""

    file: Path
    recipe: Recipe
    recorded: Mapping[str, Any]


def stages_of(folder: Path) -> list[Stage]:
    """The runs that made a model, from the first to its own: each was initialised from the one before.

    The chain ends at a model that is not on this machine or has no recipe.
    """
    chain: list[Stage] = []
    while (file := folder / "recipe.yaml").is_file() and file.resolve() not in (stage.file for stage in chain):
        recorded = yaml.safe_load(file.read_text(encoding="utf-8"))
        chain.insert(0, Stage(file.resolve(), load_recipe(file), recorded))
        if chain[0].recipe.model.init_from is None:
            break
        folder = Path(chain[0].recipe.model.init_from)
    return chain


def settings(stages: Sequence[Stage]) -> dict[str, list[Any]]:
    """The settings of all stages: `"training.epochs"` → its value in each stage, None if not set or not recorded.

    Paths, and settings that change no training step, are left out.
    """
    left_out = {"backbone", "init_from", "num_workers", "save_minutes", "keep_last", "log_steps", "trackers"}
    left_out |= {"max_skipped_steps", "divergence"}
    rows: dict[str, list[Any]] = {}
    for number, stage in enumerate(stages):
        for section in ("model", "objective", "training", "data"):
            for key, value in stage.recorded.get(section, {}).items():
                shown = key in ("max_text_length", "max_video_length") if section == "data" else key not in left_out
                if shown and value is not None:
                    rows.setdefault(f"{section}.{key}", [None] * len(stages))[number] = value
    return rows


@dataclass(frozen=True)
class TrainingData:
    """What one stage was trained on; counts are None if the data are missing and no protocol states them."""

    dataset: str
    config: str | None
    split: str
    languages: Sequence[str]
    videos: int | None
    captions: Mapping[str, int] | None
    translated: bool
    features: str | None


def training_data(data: DataRecipe) -> TrainingData:
    """Counted from the data if they are on this machine, else as the protocol states."""
    videos, captions, config = None, None, data.config
    is_own = data.dataset is not None and data.dataset not in known_datasets()
    try:
        if data.parallel_texts is not None:
            texts = [
                caption["language"] for row in load_parallel_texts(data.parallel_texts) for caption in row["captions"]
            ]
            videos, captions = 0, {code: n for code, n in Counter(texts).items() if code in data.languages}
        elif data.clips is not None:
            videos = sum(pq.read_metadata(shard).num_rows for shard in find_shards(data.clips, data.train_split))
        else:
            rows = load_videos(data, data.train_split, data.languages)
            texts = [caption["language"] for row in rows for caption in row["captions"]]
            videos, captions = len(rows), {code: n for code, n in Counter(texts).items() if code in data.languages}
    except (OSError, PolyvidError) as error:
        if not (is_own or isinstance(error, FileNotFoundError)):
            raise
        protocols = {p.name: p for p in PROTOCOLS if p.benchmark == data.dataset}
        if data.dataset and protocols and data.check_counts:
            config = config or next(iter(protocols_of(data.dataset)))
            split = protocols[config].splits[data.train_split]
            videos = split.videos
            captions = {code: n for code, n in split.captions.items() if code in data.languages and n is not None}
    shown = shown_name(data.dataset) if data.dataset is not None else PRETRAINING
    return TrainingData(
        PARALLEL if data.parallel_texts is not None else shown,
        config,
        data.train_split,
        data.languages,
        videos,
        captions or None,
        data.translations is not None,
        describe_features(data),
    )


def describe_features(data: DataRecipe) -> str | None:
    """Which networks made the video features, as their `extraction.json` says."""
    folder = Path(data.features or data.clips or "")
    file = folder / SETTINGS
    if not file.is_file():
        return None
    if (encoders := recorded_encoders(folder)) is not None:
        return describe_encoders(encoders)
    records = json.loads(file.read_text(encoding="utf-8")).get("encoders", [])
    shown = [
        f"`{record['name']}` (windows of {record['window']} frames every {record['stride']}, at {record['fps']} "
        "frames per second)"
        for record in records
    ]
    return " + ".join(shown) or None


def encoders_of(folder: Path) -> str | None:
    """Which networks made the video features that the model in a folder was made for, as its configuration says."""
    encoders = _recorded_in(folder)
    return describe_encoders(encoders) if encoders else None


def encoder_licenses(folder: Path) -> dict[str, str | None]:
    """Of each of these networks, as far as it is known."""
    known = licenses()["video_encoders"]
    return {record["id"]: known.get(record["id"]) for record in _recorded_in(folder)}


def _recorded_in(folder: Path) -> Encoders:
    file = folder / "config.json"
    return json.loads(file.read_text(encoding="utf-8")).get("video_encoders") or [] if file.is_file() else []


def describe_encoders(encoders: Encoders) -> str:
    """`` `s3d` (columns 512, fps 30, window 30, stride 30, weights 0123456789ab) + ... ``"""
    shown = ("columns", "fps", "window", "stride", "scaling", "revision", "weights")
    return " + ".join(f"`{record['id']}`" + shown_encoders([record], shown)[len(record["id"]) :] for record in encoders)


def is_sentence_transformer(folder: Path) -> bool:
    """Whether sentence-transformers loads it: models that were saved by older versions lack its files."""
    return (folder / "modules.json").is_file()


def recorded_machine(folder: Path) -> Mapping[str, Any] | None:
    """Device and versions of the training run, if its `trainer_state.json` recorded them."""
    file = folder / "trainer_state.json"
    return json.loads(file.read_text(encoding="utf-8")).get("environment") if file.is_file() else None


@cache
def licenses() -> Mapping[str, Any]:
    return yaml.safe_load((HERE / "licenses.yaml").read_text(encoding="utf-8"))


def is_open(data: TrainingData) -> bool:
    """Whether weights trained on these data can be published as freely as the code (see `licenses.yaml`)."""
    configs = licenses()["open_data"].get(data.dataset, [])
    return (data.config or next(iter(configs), None)) in configs


@cache
def source_card(dataset: str) -> DatasetCard:
    """The hand-written card of a dataset of this project, `dataset_scripts/<dataset>/README.md`.

    Of any other, nothing is known but its name.
    """
    if not (dataset_folder(dataset) / "README.md").is_file():
        return DatasetCard(f"---\n{yaml.safe_dump({'pretty_name': dataset, 'license': 'not stated'})}---\n")
    return DatasetCard.load(dataset_folder(dataset) / "README.md")


def dataset_folder(dataset: str) -> Path:
    return HERE.parents[1] / "dataset_scripts" / dataset


def source_of(card: DatasetCard) -> str | None:
    """Which dataset of this project a built card belongs to: building keeps the pretty name."""
    folders = (path.parent.name for path in dataset_folder("").glob("*/README.md"))
    return next((name for name in folders if _pretty_name(source_card(name)) == _pretty_name(card)), None)


def _pretty_name(card: DatasetCard) -> str | None:
    return card.data.get("pretty_name")


def project_file(name: str) -> str:
    """LICENSE or CITATION.cff: of the checkout, or of the installed distribution, which keeps them in its metadata."""
    path = HERE.parents[1] / name
    if path.is_file():
        return path.read_text(encoding="utf-8")
    text = distribution("polyvid").read_text(f"licenses/{name}")
    if text is None:
        raise FileNotFoundError(f"The installed polyvid has no {name}: install it again.")
    return text


def bibtex() -> list[str]:
    """The paper's entry and this software's, from CITATION.cff."""
    citation = yaml.safe_load(project_file("CITATION.cff"))
    paper = citation["preferred-citation"]
    authors = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    key = f"{paper['authors'][0]['family-names'].lower()}{paper['year']}{paper['title'].split()[0].lower()}"
    fields = {
        "title": paper["title"],
        "author": " and ".join(authors),
        "booktitle": paper["collection-title"],
        "year": paper["year"],
    }
    software = {
        "title": citation["title"],
        "author": " and ".join(f"{{{author['name']}}}" for author in citation["authors"]),
        "license": citation["license"],
    }
    return [_entry("inproceedings", key, fields), _entry("software", citation["title"], software)]


def _entry(kind: str, key: str, fields: Mapping[str, Any]) -> str:
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
    return f"@{kind}{{{key},\n{lines}}}"
