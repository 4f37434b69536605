"""Which files `polyvid push` sends: a folder of links to them and of what is written for the push, such as the card.

Only what this package itself writes is collected: never an optimizer's state, a log or a forgotten file. Anything else
takes an explicit `--include`.
"""

import json
import runpy
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType

import yaml

from polyvid.dataset_scripts.own_data.tables import has_table
from polyvid.hub_cards.publish import cards, facts
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.video_encoders_mmp import FOLDER
from polyvid.train.extraction.bundling import bundle_encoders

PACKAGE = Path(__file__).parents[2]
METRIC = PACKAGE / "train" / "scoring" / "text_video_retrieval"
SPACE = PACKAGE / "hub_cards" / "space"
MODEL_FILES = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "recipe.yaml"),
    *("processor_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "curves.png"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt"),
    *("tokenizer.model", "sentencepiece.bpe.model", "spiece.model"),
    *("modules.json", "config_sentence_transformers.json"),
    *sorted(path.name for path in (PACKAGE / "modeling").glob("*.py")),  # a model's code, as it is saved with it
)
SPACE_FILES = (
    *("README.md", "requirements.txt", "packages.txt", "app.py", "limits.py", "render.py", "search.py", "watch.py"),
    *("decoding.py", "style.css", "LICENSE-animations", "LICENSE-captions", "clips.json", "clips/*.mp4"),
    *("frame_encoder.pt2", "frame_encoder.json", "video_embeds.safetensors"),
    *(f"models/{model}/{name}" for model in ("none", "mp", "mmp") for name in MODEL_FILES),
)
ENCODER_FILES = tuple(
    f"{FOLDER}/*/{name}" for name in ("config.json", "preprocessor_config.json", "*.safetensors", "*.py", "SHA256SUMS")
)
STATISTICS = ("statistics/*.json", "statistics/tokens_per_*.png")


def collect_model(
    source: Path,
    folder: Path,
    repo_id: str,
    results: Sequence[Path] = (),
    hub_datasets: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Collect weights, configuration, remote code, processor, recipes, results and a card from a run's output folder.

    A converted video backbone (`polyvid convert-backbone`) comes with its own card. The networks with which a model
    reads videos come along if they lie in its folder or with an installed package (`bundle_encoders`).

    Args:
        hub_datasets: name of a dataset of this project -> its id on the Hub, for the card and `.eval_results/`.

    Raises:
        FileNotFoundError: if `source` is no finished model, or `results` are missing.
        PolyvidError: if `results` or a dataset have nothing to do with this model, or a link points out of the folder.
    """
    if not (source / "config.json").is_file() or not any(source.glob("*.safetensors")):
        best = source / "checkpoints" / "best"
        hint = f"; its best model so far is {best}" if best.is_dir() else ""
        raise FileNotFoundError(f"{source} is not a finished model: config.json or *.safetensors is missing{hint}.")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    for reference in config.get("auto_map", {}).values():
        module = f"{reference.split('--')[-1].split('.')[0]}.py"
        if not (source / module).is_file():
            raise FileNotFoundError(f"{source} lacks {module}, which config.json names: save the model again.")
    _link_matching((*MODEL_FILES, *ENCODER_FILES), source, folder)
    bundle_encoders(config.get("video_encoders"), folder)
    _write(folder / "LICENSE-code", facts.project_file("LICENSE"))
    if config["model_type"] != "mmp":
        if not (source / "README.md").is_file():
            raise FileNotFoundError(f"{source} has no README.md: `polyvid convert-backbone` writes it.")
        return _link(source / "README.md", folder / "README.md", source)
    stages = facts.stages_of(source)
    for stage in stages[:-1]:
        _link(stage.file, folder / "recipes" / f"{stage.recipe.name}.yaml", stage.file.parent)
    evaluations = facts.find_evaluations(source, stages[-1].recipe.name if stages else source.name, results)
    for evaluation in evaluations:
        stem = "-".join(evaluation.searched)
        name = f"results/{stem}.json"
        if (folder / name).exists():
            raise PolyvidError(f"{evaluation.file} is a second result for {name}: say with --results which one counts.")
        content = asdict(evaluation) | {"file": evaluation.file.name}
        _write(folder / name, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        if (dataset_id := hub_datasets.get(evaluation.benchmark)) is not None:
            entries = cards.eval_results(evaluation, repo_id, dataset_id, name)
            _write(folder / f".eval_results/{stem}.yaml", yaml.safe_dump(entries, sort_keys=False, allow_unicode=True))
    _write(folder / "README.md", str(cards.model_card(source, repo_id, evaluations, hub_datasets)))


def collect_dataset(source: Path, folder: Path, repo_id: str) -> None:
    """Collect the configs that the card names, reports, statistics, licences and the card from a built dataset.

    Raises:
        FileNotFoundError: if card or shards are missing.
        PolyvidError: if a link points out of the folder, or it is one of the user's own videos that is not built yet.
    """
    if has_table(source):
        built = f"out/{source.resolve().name}"
        raise PolyvidError(
            f"{source} holds videos that are not built yet. Build them: `polyvid build {source} default --output-dir "
            f"{built}`. Say in {built}/README.md where they come from and under which licence. Then push: `polyvid "
            f"push dataset {built} --repo-id {repo_id}`."
        )
    card = cards.dataset_card(source, repo_id)
    for split in cards.splits_of(source, card):
        for shard in split["shards"]:
            _link(shard, folder / split["config"] / shard.name, source)
    _link_matching(("reports/*.json", *STATISTICS), source, folder)
    if (dataset := facts.source_of(card)) is not None:
        for path in facts.dataset_folder(dataset).glob("LICENSE*"):  # a condition of passing the data on
            _link(path, folder / path.name, path.parent)
    _write(folder / "README.md", str(card))


def collect_metric(source: Path, folder: Path, repo_id: str) -> None:
    """Collect the metric as a Space: `evaluate.load(repo_id)` looks there for a file with the repository's name.

    Raises:
        PolyvidError: if the repository has another name, or a link points out of the folder.
    """
    if not (source / f"{repo_id.split('/')[1]}.py").is_file():
        name = source.resolve().name
        raise PolyvidError(f"evaluate.load({repo_id!r}) would look for another file: name it <owner>/{name}.")
    for name in (path.name for path in METRIC.iterdir() if path.is_file() and path.name != "__init__.py"):
        if (source / name).is_file():
            _refuse_outside(source / name, source)
            text = (source / name).read_text(encoding="utf-8")
            _write(folder / name, text.replace("train/scoring/text_video_retrieval", repo_id))


def collect_space(source: Path, folder: Path, run_build: bool = False) -> None:
    """Collect the files of a Space from a folder, such as `polyvid demo-app` builds, or build them into `folder`.

    Args:
        source: the folder; the package's own is built, others only with `run_build`.
        folder: to fill; it exists and is empty.
        run_build: execute `source/build.py`, a program that defines `build(folder)`.

    Raises:
        FileNotFoundError: if there is no README.md, in which the Hub reads how to run it.
        PolyvidError: if `source` holds a build.py and `run_build` is not set, or a link points out of the folder.
    """
    if is_own_space(source):
        from polyvid.hub_cards.space.build import build  # decodes and encodes: slow to import

        build(folder)
    elif not (source / "build.py").is_file():
        _link_matching(SPACE_FILES, source, folder)
    elif run_build:
        runpy.run_path(str(source / "build.py"))["build"](folder)
    else:
        raise PolyvidError(
            f"{source / 'build.py'} is a program that makes the Space: read it, then push with --run-build to execute "
            "it, or push a folder that is already built."
        )
    if not (folder / "README.md").is_file():
        raise FileNotFoundError(f"{source} is not a Space: README.md, which tells the Hub how to run it, is missing.")


def is_own_space(source: Path) -> bool:
    """Whether a folder is this package's demo app, whose code is no stranger's."""
    return source.resolve() == SPACE.resolve()


def include(patterns: Sequence[str], source: Path, folder: Path) -> list[str]:
    """Add the files of `source` that patterns match, such as `docs/*.md`; what is left out after that.

    Raises:
        PolyvidError: if a pattern matches no file, or a link points out of the folder.
    """
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
    for pattern in patterns:
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            raise PolyvidError(f"--include {pattern} matches no file in {source}.")
        for name in matching:
            if not (folder / name).exists():
                _link(source / name, folder / name, source)
    return [name for name in names if not (folder / name).exists()]


def _link_matching(patterns: Sequence[str], source: Path, folder: Path) -> None:
    for pattern in patterns:
        for path in source.glob(pattern):
            _link(path, folder / path.relative_to(source), source)


def _link(path: Path, link: Path, root: Path) -> None:
    _refuse_outside(path, root)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(path.resolve())


def _refuse_outside(path: Path, root: Path) -> None:
    """A link out of the folder would publish what nobody sees in it."""
    target = path.resolve()
    if not target.is_relative_to(root.resolve()):
        raise PolyvidError(f"{path} is a link to {target}, outside {root}: copy the file there, or remove the link.")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
