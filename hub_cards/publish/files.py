"""Which files `polyvid push` sends: a folder of links to them and of what is written for the push, such as the card.

Lists of what belongs, not of what does not: an optimizer's state, a log or a forgotten file never goes along.
"""

import json
import re
import runpy
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from polyvid.hub_cards.publish import cards, facts
from polyvid.modeling.errors_mmp import PolyvidError

MODEL_FILES = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "*.py")
MODEL_FILES += ("processor_config.json", "preprocessor_config.json", "tokenizer*", "special_tokens_map.json")
MODEL_FILES += ("added_tokens.json", "vocab.*", "merges.txt", "*.model", "recipe.yaml", "curves.png")
METRIC = Path(__file__).parents[2] / "train" / "scoring" / "text_video_retrieval"
SPACE = facts.HERE.with_name("space")
TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")
SCANNED_BYTES = 5 << 20  # nobody types a token into a larger file


def collect_model(source: Path, folder: Path, repo_id: str, results: Sequence[Path] = ()) -> None:
    """Weights, configuration, remote code, processor, recipes, results and a card, from what training left in `source`.

    A converted video backbone (`polyvid convert-backbone`) brings its card with it.

    Raises:
        FileNotFoundError: if `source` is no finished model, or `results` are missing.
        PolyvidError: if `results` are another model's.
    """
    if not (source / "config.json").is_file() or not any(source.glob("*.safetensors")):
        best = source / "checkpoints" / "best"
        hint = f"; its best model so far is {best}" if best.is_dir() else ""
        raise FileNotFoundError(f"{source} is no finished model: config.json or *.safetensors is missing{hint}.")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    for reference in config.get("auto_map", {}).values():
        module = f"{reference.split('--')[-1].split('.')[0]}.py"
        if not (source / module).is_file():
            raise FileNotFoundError(f"{source} lacks {module}, which config.json names: save the model again.")
    for pattern in MODEL_FILES:
        for path in source.glob(pattern):
            _link(path, folder / path.name)
    _write(folder / "LICENSE-code", facts.project_file("LICENSE"))
    if config["model_type"] != "mmp":
        if not (source / "README.md").is_file():
            raise FileNotFoundError(f"{source} has no README.md: `polyvid convert-backbone` writes it.")
        return _link(source / "README.md", folder / "README.md")
    stages = facts.stages_of(source)
    for stage in stages[:-1]:
        _link(stage.file, folder / "recipes" / f"{stage.recipe.name}.yaml")
    evaluations = facts.find_evaluations(source, stages[-1].recipe.name if stages else source.name, results)
    for evaluation in evaluations:
        name = f"results/{'-'.join(evaluation.searched)}.json"
        if (folder / name).exists():
            raise PolyvidError(f"{evaluation.file} is a second result for {name}: say with --results which one counts.")
        content = asdict(evaluation) | {"file": evaluation.file.name}
        _write(folder / name, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    _write(folder / "README.md", str(cards.model_card(source, repo_id, evaluations)))


def collect_dataset(source: Path, folder: Path, repo_id: str) -> None:
    """The configs the card names, reports, statistics, licences and the card, from what `polyvid build` filled.

    Raises:
        FileNotFoundError: if card or shards are missing.
    """
    card = cards.dataset_card(source, repo_id)
    for split in cards.splits_of(source, card):
        for shard in split["shards"]:
            _link(shard, folder / split["config"] / shard.name)
    for path in [*source.glob("reports/*.json"), *source.glob("statistics/*")]:
        _link(path, folder / path.relative_to(source))
    if (dataset := facts.source_of(card)) is not None:
        for path in facts.dataset_folder(dataset).glob("LICENSE*"):  # a condition of passing the data on
            _link(path, folder / path.name)
    _write(folder / "README.md", str(card))


def collect_metric(source: Path, folder: Path, repo_id: str) -> None:
    """The metric as a Space, which is where `evaluate.load(repo_id)` looks: for a file named as the repository.

    Raises:
        PolyvidError: if the repository is named otherwise.
    """
    if not (source / f"{repo_id.split('/')[1]}.py").is_file():
        name = source.resolve().name
        raise PolyvidError(f"evaluate.load({repo_id!r}) would look for another file: name it <owner>/{name}.")
    for path in [*source.glob("*.py"), source / "README.md", source / "requirements.txt"]:
        if path.name != "__init__.py":
            text = path.read_text(encoding="utf-8")
            _write(folder / path.name, text.replace("train/scoring/text_video_retrieval", repo_id))


def collect_space(source: Path, folder: Path) -> None:
    """The demo: what `build(folder)` in its `build.py` makes, else its folder as it is.

    Raises:
        FileNotFoundError: if there is no README.md, in which the Hub reads how to run it.
    """
    if (source / "build.py").is_file():
        runpy.run_path(str(source / "build.py"))["build"](folder)
    else:
        for path in source.rglob("*"):
            inside = path.relative_to(source)
            if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in inside.parts):
                _link(path, folder / inside)
    if not (folder / "README.md").is_file():
        raise FileNotFoundError(f"{source} makes no Space: README.md, which says how to run it, is missing.")


def refuse_tokens(folder: Path, token: str | None) -> None:
    """Nothing that looks like an access token may be published.

    Raises:
        PolyvidError: naming file and line.
    """
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.stat().st_size > SCANNED_BYTES:
            continue
        content = path.read_bytes()
        found = TOKEN.search(content)
        start = found.start() if found else content.find(token.encode()) if token else -1
        if start >= 0:
            line = content[:start].count(b"\n") + 1
            raise PolyvidError(f"{path.relative_to(folder)}, line {line}: this looks like an access token; remove it.")


def _link(path: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(path.resolve())


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
