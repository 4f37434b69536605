"""Model and dataset cards, filled from files: `facts.py` reads the numbers, the templates hold the text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import DatasetInfo, Features, Video
from datasets.info import DatasetInfosDict
from huggingface_hub import (
    DatasetCard,
    EvalResult,
    EvalResultEntry,
    ModelCard,
    ModelCardData,
    eval_result_entries_to_yaml,
)

from polyvid.dataset_scripts.building import find_shards
from polyvid.dataset_scripts.schema import in_table_order, language_name
from polyvid.hub_cards.publish import facts
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.paths_mmp import is_local_path
from polyvid.train.recipe import DISTILLED, distilled
from polyvid.train.scoring.language_table import MOST_COLUMNS
from polyvid.train.scoring.results import RESULTS

METRICS = {  # names in results → types in the model index
    "R@1": "recall_at_1",
    "R@5": "recall_at_5",
    "R@10": "recall_at_10",
    "MedR": "median_rank",
    "MnR": "mean_rank",
    "MRR": "mean_reciprocal_rank",
    "nDCG@10": "ndcg_at_10",
}
WIDGET = ("a dog runs", "ein Hund läuft", "mbwa anakimbia")
CLIP = "clip"  # the column of our datasets that holds video files
REPOSITORY = "<this repository>"  # what the cards in dataset_scripts/ say where the id belongs


def model_card(
    folder: Path,
    repo_id: str,
    evaluations: Sequence[facts.Evaluation],
    hub_datasets: Mapping[str, str] = MappingProxyType({}),
) -> ModelCard:
    """The card of a training run's output folder.

    Metadata hold every language's scores (model-index); the text says how to use the model, what it was trained on,
    by which recipes and on which machine as far as that was recorded, how it scored, what it is for and not for,
    licences, and how to cite. Without results it says "Not evaluated."

    Args:
        hub_datasets: name of a dataset of this project -> its id on the Hub, for the metadata.

    Raises:
        PolyvidError: if the recipe's backbone is a folder that does not exist, or the model has nothing to do with a
            dataset of `hub_datasets`.
    """
    runs = facts.stages_of(folder)
    stages = [(run.recipe.name, facts.training_data(run.recipe.data)) for run in runs]
    datasets = list(dict.fromkeys(data.dataset for _, data in stages))
    trained = in_table_order(code for _, data in stages for code in data.languages)
    backbone = _backbone(runs[0].recipe.model.backbone, folder) if runs else None
    own = {name: name for name in datasets if "/" in name}  # a dataset that was trained on from the Hub
    for name in hub_datasets.keys() - {*datasets, *(evaluation.benchmark for evaluation in evaluations)}:
        raise PolyvidError(f"The model in {folder} was neither trained nor evaluated on {name}: {_known(datasets)}")
    hub_datasets = own | dict(hub_datasets)
    restricted = not all(facts.is_open(data) for _, data in stages)
    card_data = ModelCardData(
        language=list(dict.fromkeys(code.split("-")[0] for code in trained)) or None,  # the Hub knows no regions
        library_name="transformers",
        pipeline_tag="feature-extraction",
        base_model=backbone["id"] if backbone else None,
        datasets=[hub_datasets[name] for name in datasets if name in hub_datasets] or None,
        widget=[{"text": text} for text in WIDGET],
        tags=["text-to-video-retrieval", "video", "multilingual", "cross-lingual", "mmp"]
        + ["sentence-transformers"] * facts.is_sentence_transformer(folder),
        license="other" if restricted or not runs else "apache-2.0",
        license_name="see-the-card" if restricted or not runs else None,
        model_name=repo_id.split("/")[-1],
        eval_results=[result for evaluation in evaluations for result in _model_index(evaluation, hub_datasets)]
        or None,
    )
    return ModelCard.from_template(
        card_data,
        template_path=str(facts.TEMPLATES / "model_card.md"),
        repo_id=repo_id,
        stages=stages,
        starts_from=_starts_from(runs),
        distilled=[run.recipe.name for run in runs if distilled(run.recipe)],
        label=DISTILLED,
        backbone=backbone,
        settings=facts.settings(runs),
        is_sentence_transformer=facts.is_sentence_transformer(folder),
        encoders=facts.encoders_of(folder),
        encoder_licenses=facts.encoder_licenses(folder),
        machine=facts.recorded_machine(folder),
        evaluations=evaluations,
        metrics=list(METRICS),
        most_columns=MOST_COLUMNS,
        language_name=language_name,
        cards={name: facts.source_card(name).data for name in datasets if name != facts.PARALLEL},
        bibtex=facts.bibtex(),
    )


def _starts_from(runs: Sequence[facts.Stage]) -> str | None:
    """What the first known stage was initialised from: a Hub id, or the name of a folder without its path."""
    name = runs[0].recipe.model.init_from if runs else None
    return name if name is None or _is_hub_id(name) else Path(name).name


def _backbone(name: str, folder: Path) -> dict[str, str | None]:
    """`id`: on the Hub, None for a local folder of unknown origin, which is shown by its name.

    Raises:
        PolyvidError: if `name` is a folder that does not exist: nothing says which model was in it.
    """
    known = facts.licenses()["backbones"].get(name, {})
    is_hub_id = _is_hub_id(name)
    if not known and not is_hub_id and not Path(name).exists():
        raise PolyvidError(
            f"{folder / 'recipe.yaml'} or that of an earlier stage names the backbone {name!r}, a folder that does not "
            "exist: restore it, or set model.backbone in that file to the backbone's id on the Hub."
        )
    on_hub = known.get("id", name if is_hub_id else None)
    shown = {"name": on_hub or Path(name).name, "note": known.get("note"), "license": known.get("license")}
    return {"id": on_hub} | shown


def _is_hub_id(name: str) -> bool:
    """`outputs/x` is none, even where there is no such folder: recipes write there by default."""
    return not is_local_path(name) and Path(name).parts[0] != RESULTS.parts[0]


def _known(datasets: Sequence[str]) -> str:
    return f"it was trained on {', '.join(datasets)}." if datasets else "no recipe says what it was trained on."


def eval_results(evaluation: facts.Evaluation, repo_id: str, dataset_id: str, file: str) -> list[dict[str, Any]]:
    """R@1 in the form of `.eval_results/*.yaml`, which the Hub shows on the pages of the model and of the benchmark.

    Args:
        repo_id: of the model.
        dataset_id: of the benchmark, on the Hub.
        file: with the results, in the repository of the model.
    """
    entries = [
        EvalResultEntry(
            dataset_id=dataset_id,
            task_id=f"{evaluation.protocol}_{direction}_{language}",
            value=round(scores["R@1"], 4),
            source_url=f"https://huggingface.co/{repo_id}/blob/main/{file}",
            source_name="results",
            notes=f"R@1 in percent, {direction.replace('_', ' ')}, {language_name(language)}, {evaluation.split}",
        )
        for direction, by_language in evaluation.scores.items()
        for language, scores in by_language.items()
    ]
    return eval_result_entries_to_yaml(entries)


def _model_index(evaluation: facts.Evaluation, hub_datasets: Mapping[str, str]) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-to-video-retrieval",
            task_name="Text-video retrieval",
            dataset_type=hub_datasets.get(evaluation.benchmark, evaluation.benchmark),
            dataset_name=facts.source_card(evaluation.benchmark).data.get("pretty_name"),
            dataset_config=evaluation.protocol,
            dataset_split=evaluation.split,
            metric_type=METRICS[metric],
            metric_value=round(value, 4),
            metric_name=f"{metric} {direction.replace('_', ' ')}, {language_name(language)}",
            metric_args={"language": language, "direction": direction},
        )
        for direction, by_language in evaluation.scores.items()
        for language, scores in by_language.items()
        for metric, value in scores.items()
        if metric in METRICS
    ]


def dataset_card(folder: Path, repo_id: str) -> DatasetCard:
    """The card that `polyvid build` wrote, completed for a repository: how to load it, what the files hold, citation.

    Raises:
        FileNotFoundError: if the folder holds no card, or not all shards of a config the card names.
    """
    if not (folder / "README.md").is_file():
        raise FileNotFoundError(f"{folder} holds no README.md: `polyvid build ... --output-dir {folder}` writes it.")
    card = DatasetCard.load(folder / "README.md")
    text = card.text.replace(REPOSITORY, repo_id).strip()
    splits = splits_of(folder, card)
    has_clips = _declare_clips(card, splits)
    return DatasetCard.from_template(
        card.data,
        template_path=str(facts.TEMPLATES / "dataset_card.md"),
        text=text,
        repo_id=repo_id,
        splits=splits,
        has_clips=has_clips,
        bibtex=[entry for entry in facts.bibtex() if entry.split("title = ")[1].split("\n")[0] not in text],
    )


def _declare_clips(card: DatasetCard, splits: Sequence[Mapping[str, Any]]) -> bool:
    """Declare files in the column `clip` as videos, which the Hub plays; whether there are any.

    The shards stay as they are: datasets makes of bytes what the card declares.
    """
    found = {}
    for split in splits:
        schema = pq.read_schema(split["shards"][0])
        if CLIP in schema.names and schema.field(CLIP).type == pa.binary():
            features = Features.from_arrow_schema(schema) | {CLIP: Video()}
            found[split["config"]] = DatasetInfo(features=Features(features))
    DatasetInfosDict(found).to_dataset_card_data(card.data)
    return bool(found)


def splits_of(folder: Path, card: DatasetCard) -> list[dict]:
    """Config, split, shards, rows and bytes of what a dataset's card names, as the shards themselves say.

    Raises:
        FileNotFoundError: if the card names none, or a shard is missing.
    """
    found = []
    for config in card.data.get("configs") or []:
        name, files = config["config_name"], config["data_files"]
        for split in ["train"] if isinstance(files, str) else [entry["split"] for entry in files]:
            shards = find_shards(folder / name, split)
            rows = sum(pq.read_metadata(shard).num_rows for shard in shards)
            size = sum(shard.stat().st_size for shard in shards)
            found.append({"config": name, "split": split, "shards": shards, "rows": rows, "bytes": size})
    if not found:
        raise FileNotFoundError(f"{folder} holds no config of its card: build one with `polyvid build`.")
    return found
