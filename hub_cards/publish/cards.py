"""Model and dataset cards, filled from files: `facts.py` reads the numbers, the templates hold the text."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, EvalResult, ModelCard, ModelCardData

from polyvid.dataset_scripts.building import find_shards
from polyvid.dataset_scripts.schema import LANGUAGE_NAMES, LANGUAGES
from polyvid.hub_cards.publish import facts
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.paths_mmp import is_local_path
from polyvid.train.scoring.results import RESULTS

METRICS = {  # names in results → types in the model index
    "R@1": "recall_at_1",
    "R@5": "recall_at_5",
    "R@10": "recall_at_10",
    "MedR": "median_rank",
    "MnR": "mean_rank",
    "MRR": "mean_reciprocal_rank",
}
REPOSITORY = "<this repository>"  # what the cards in dataset_scripts/ say where the id belongs


def model_card(folder: Path, repo_id: str, evaluations: Sequence[facts.Evaluation]) -> ModelCard:
    """The card of a training run's output folder.

    Metadata hold every language's scores (model-index); the text says how to use the model, what it was trained on,
    by which recipes and on which machine as far as that was recorded, how it scored, what it is for and not for,
    licences, and how to cite. Without results it says "Not evaluated."

    Raises:
        PolyvidError: if the recipe's backbone is a folder that does not exist.
    """
    runs = facts.stages_of(folder)
    stages = [(run.recipe.name, facts.training_data(run.recipe.data)) for run in runs]
    datasets = list(dict.fromkeys(data.dataset for _, data in stages))
    trained = [code for code in LANGUAGES if any(code in data.languages for _, data in stages)]
    backbone = _backbone(runs[0].recipe.model.backbone, folder) if runs else None
    restricted = [name for name in datasets if name not in facts.licenses()["open_data"]]
    card_data = ModelCardData(
        language=trained or None,
        library_name="transformers",
        pipeline_tag="feature-extraction",
        base_model=backbone["id"] if backbone else None,
        tags=["text-to-video-retrieval", "video", "multilingual", "cross-lingual", "mmp"]
        + ["sentence-transformers"] * facts.is_sentence_transformer(folder),
        license="other" if restricted or not runs else "apache-2.0",
        license_name="see-the-card" if restricted or not runs else None,
        model_name=repo_id.split("/")[-1],
        eval_results=[result for evaluation in evaluations for result in _model_index(evaluation)] or None,
    )
    return ModelCard.from_template(
        card_data,
        template_path=str(facts.TEMPLATES / "model_card.md"),
        repo_id=repo_id,
        stages=stages,
        starts_from=_starts_from(runs),
        backbone=backbone,
        settings=facts.settings(runs),
        is_sentence_transformer=facts.is_sentence_transformer(folder),
        encoders=facts.encoders_of(folder),
        encoder_licenses=facts.encoder_licenses(folder),
        machine=facts.recorded_machine(folder),
        evaluations=evaluations,
        metrics=list(METRICS),
        names=LANGUAGE_NAMES,
        cards={name: facts.source_card(name).data for name in datasets},
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


def _model_index(evaluation: facts.Evaluation) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-to-video-retrieval",
            task_name="Text-video retrieval",
            dataset_type=evaluation.benchmark,
            dataset_name=facts.source_card(evaluation.benchmark).data.get("pretty_name"),
            dataset_config=evaluation.protocol,
            dataset_split=evaluation.split,
            metric_type=METRICS[metric],
            metric_value=round(value, 4),
            metric_name=f"{metric} {direction.replace('_', ' ')}, {LANGUAGE_NAMES[language]}",
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
    return DatasetCard.from_template(
        card.data,
        template_path=str(facts.TEMPLATES / "dataset_card.md"),
        text=text,
        repo_id=repo_id,
        splits=splits_of(folder, card),
        bibtex=[entry for entry in facts.bibtex() if entry.split("title = ")[1].split("\n")[0] not in text],
    )


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
