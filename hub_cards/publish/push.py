"""`polyvid push`: publish a model, a dataset, the metric or the demo app on the Hub, with its card."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import typer
from huggingface_hub import HfApi, RepoCard, constants, get_token
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from polyvid.dataset_scripts.locking import LockedError, locked
from polyvid.hub_cards.publish.collection import collect_models, models_in
from polyvid.hub_cards.publish.credentials import refuse_credentials
from polyvid.hub_cards.publish.files import (
    METRIC,
    PACKAGE,
    SPACE,
    collect_dataset,
    collect_metric,
    collect_model,
    collect_space,
    is_own_space,
)
from polyvid.hub_cards.publish.files import include as add_files
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.paths_mmp import check_local_path
from polyvid.train.errors import HUB_LIBRARIES, raised_in

LOADING = {
    "model": 'AutoModel.from_pretrained("{}", trust_remote_code=True)',
    "dataset": 'load_dataset("{}")',
    "metric": 'evaluate.load("{}")',
}
# Left by an earlier push: shards of another count would be loaded together with the new ones.
OUTDATED: dict[str, list[str] | None] = {
    "model": [
        "*.safetensors",
        "*.safetensors.index.json",
        "*.py",
        "modules.json",
        "config_sentence_transformers.json",
        "results/*",
        ".eval_results/*",
        "recipes/*",
    ],
    "dataset": ["*/*-of-*.parquet"],
    "metric": ["*.py"],
    "space": None,
}
LISTED = 8  # files left out that are named


def push(
    kind: Annotated[
        Literal["model", "dataset", "metric", "space", "collection"], typer.Argument(help="What to publish.")
    ],
    source: Annotated[
        Path | None,
        typer.Argument(
            help="Output folder of training (model) or `polyvid build` (dataset), or one with models in folders of it "
            "(collection). Default: our metric or demo."
        ),
    ] = None,
    repo_id: Annotated[str, typer.Option(help="Repository: <your name or organisation>/<name>.")] = ...,  # type: ignore[assignment]
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Who can see it. Default: the account's setting.")
    ] = None,
    revision: Annotated[str, typer.Option(help="Branch; created if it does not exist.")] = "main",
    message: Annotated[str | None, typer.Option(help="Commit message.")] = None,
    results: Annotated[
        list[Path] | None,
        typer.Option(help="results.json, or a folder of them, for the card. Default: those of `polyvid evaluate`."),
    ] = None,
    hub_dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="Where a dataset is on the Hub, e.g. fluent_emoji_9=lab/fluent-emoji-9, for the model's card and "
            "the benchmark's page. Repeatable."
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(help="Also send files that this package did not write, e.g. 'docs/*.md'. Repeatable."),
    ] = None,
    run_build: Annotated[
        bool, typer.Option("--run-build", help="space: execute the folder's build.py. Read it first.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="List files and sizes; execute and send nothing.")] = False,
) -> None:
    """Publish a model, a dataset, the metric or the demo on the Hub, with its card.

    `collection` publishes each model of a folder as <repo-id>-<its folder>, and a collection of them.

    Log in with `hf auth login`, or set HF_TOKEN. The same command resumes an interrupted push: what has arrived is not
    sent again. The card is filled from recipes and results, never typed. Only files that this package writes are sent;
    others are listed and need --include. A folder that another command writes to, and a repository that another push
    on this machine fills, are refused.
    """
    validate_repo_id(repo_id)
    if "/" not in repo_id:
        raise PolyvidError(f"Name the owner: --repo-id <your name or organisation>/{repo_id}.")
    if results and kind != "model":
        raise PolyvidError("--results are for the card of a model.")
    if hub_dataset and kind not in ("model", "collection"):
        raise PolyvidError("--hub-dataset is for the cards of models.")
    hub_datasets = _hub_datasets(hub_dataset or [])
    source = source_of(kind, source, repo_id)
    if kind == "collection":
        ids = {f"{repo_id}-{folder.name}": folder for folder in models_in(source)}
        for model_id, folder in ids.items():
            push("model", folder, model_id, private, revision, message, None, hub_dataset, include, False, dry_run)
        if dry_run:
            return print(f"A collection {repo_id} would hold {', '.join(ids)}.")
        with explained(repo_id, get_token()):
            return print(collect_models(repo_id, ids, private))
    for path in results or []:
        check_local_path(path, "results.json")
    if dry_run and kind == "space" and (run_build or is_own_space(source)):
        return print(
            f"The Space would be built by {source / 'build.py'}. A dry run executes nothing; nothing was sent."
        )
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as locks:
        if not dry_run:
            locks.enter_context(_only_push_to(kind, repo_id))
        locks.enter_context(_unchanged(source))
        folder = Path(temporary) / "files"
        folder.mkdir()
        collect(kind, source, folder, repo_id, results or [], run_build, hub_datasets)
        left_out = add_files(include or [], source, folder)
        token = get_token()
        refuse_credentials(folder, token)
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in _files(folder)}
        if dry_run:
            width = len(f"{sum(sizes.values()):,}")
            for name, size in sizes.items():
                print(f"{size:>{width},}  {name}")
        print(f"{sum(sizes.values()):,} bytes in {len(sizes)} files, for {repo_id} ({revision})")
        if left_out and source not in (METRIC, SPACE):
            more = f" and {len(left_out) - LISTED} more" if len(left_out) > LISTED else ""
            print(f"Left out (--include sends them): {', '.join(left_out[:LISTED])}{more}")
        if dry_run:
            return print("Nothing was sent.")
        with explained(repo_id, token):
            url = upload(kind, folder, repo_id, private, revision, message)
    print(url)
    if kind in LOADING:
        print(LOADING[kind].format(repo_id))


@contextmanager
def _only_push_to(kind: str, repo_id: str) -> Iterator[None]:
    """No other push of this user on this machine sends files to the repository meanwhile: they would be mixed.

    Raises:
        PolyvidError: another one does; the message says which.
        OSError: the lock cannot be written, in the folder of the Hub's cache.
    """
    hub = re.sub(r"\W+", "-", HfApi().endpoint.partition("://")[2])
    mark = Path(constants.HF_HOME) / "polyvid" / "push" / hub / f"{_repo_type(kind)}--{repo_id.replace('/', '--')}"
    with ExitStack() as lock:
        try:
            lock.enter_context(locked(mark, f"polyvid push {kind}"))
        except LockedError as error:
            raise PolyvidError(f"{error.owner} is sending files to {repo_id}: wait until it has ended.") from None
        yield


@contextmanager
def _unchanged(source: Path) -> Iterator[None]:
    """No other command writes to a folder meanwhile, nor a training to the run that a checkpoint belongs to.

    This package's own folders, and those in which this user may not write, are pushed without a lock.

    Raises:
        LockedError: another command writes to it; the message says which.
    """
    source = source.resolve()
    folder = source.parents[1] if source.parent.name == "checkpoints" else source
    is_changed = os.access(folder, os.W_OK) and not source.is_relative_to(PACKAGE.resolve())
    with locked(folder, "polyvid push") if is_changed else nullcontext():
        yield


def _repo_type(kind: str) -> str:
    return "space" if kind == "metric" else kind


def source_of(kind: str, source: Path | None, repo_id: str) -> Path:
    """The folder to publish; the metric and the demo app have one in this package."""
    if source is None and kind in ("model", "dataset", "collection"):
        raise PolyvidError(f"Which {kind}? Give its folder: polyvid push {kind} FOLDER --repo-id {repo_id}.")
    if source is None:
        return METRIC if kind == "metric" else SPACE
    if not source.is_dir():
        raise FileNotFoundError(f"There is no folder {source}.")
    return source


def _hub_datasets(given: Sequence[str]) -> dict[str, str]:
    """`["msrvtt=lab/msrvtt"]` -> `{"msrvtt": "lab/msrvtt"}`."""
    found = {}
    for item in given:
        name, equals, dataset_id = item.partition("=")
        if not equals or dataset_id.count("/") != 1:
            raise PolyvidError(f"--hub-dataset {item} is not <dataset>=<owner>/<name>.")
        validate_repo_id(dataset_id)
        found[name] = dataset_id
    return found


def collect(
    kind: str,
    source: Path,
    folder: Path,
    repo_id: str,
    results: list[Path],
    run_build: bool = False,
    hub_datasets: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Fill `folder` with what will be published."""
    if kind == "model":
        collect_model(source, folder, repo_id, results, hub_datasets)
    elif kind == "dataset":
        collect_dataset(source, folder, repo_id)
    elif kind == "metric":
        collect_metric(source, folder, repo_id)
    else:
        collect_space(source, folder, run_build)


def upload(kind: str, folder: Path, repo_id: str, private: bool | None, revision: str, message: str | None) -> str:
    """Create repository and branch if they are missing, send what they lack, and return the address of the commit.

    `upload_folder` resumes: it asks the Hub for each chunk (with hf_xet) or each large file (without) whether that has
    already arrived.

    Raises:
        PolyvidError: if the repository exists but is not private or public as asked; nothing is sent then.
        huggingface_hub.errors.HTTPError, RuntimeError: if the transfer fails.
        ValueError, KeyError, TypeError: if the server does not answer like the Hub.
    """
    api = HfApi()
    repo_type = _repo_type(kind)
    sdk = RepoCard.load(folder / "README.md").data.to_dict().get("sdk") if repo_type == "space" else None
    api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, space_sdk=sdk)
    is_private = bool(api.repo_info(repo_id, repo_type=repo_type).private)
    if private is not None and is_private != private:
        state = "private" if is_private else "public"
        raise PolyvidError(f"{repo_id} exists and is {state}: change that in its settings, or choose another id.")
    if revision != "main":
        api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo_id,
        repo_type=repo_type,
        folder_path=folder,
        revision=revision,
        commit_message=message or f"Push {kind} with polyvid",
        delete_patterns=OUTDATED[kind],
    )
    return commit.commit_url


@contextmanager
def explained(repo_id: str, token: str | None) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line that says what to do and never contains the token.

    Raises:
        PolyvidError: no token, or one that is refused or may not write here.
        ConnectionError: the Hub cannot be reached, broke off, or does not answer like the Hub.
    """
    hub = HfApi().endpoint
    if token is None:
        raise PolyvidError(f"No token: run `hf auth login`, or set HF_TOKEN to one of {hub}/settings/tokens.")
    try:
        yield
    except PolyvidError:
        raise
    except (HTTPError, RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        cause: BaseException = error
        while not isinstance(cause, HTTPError) and cause.__cause__ is not None:
            cause = cause.__cause__  # the upload of large files wraps what went wrong
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status == 401:
            raise PolyvidError(
                f"{hub} does not accept the token: make one that may write at {hub}/settings/tokens, then `hf auth "
                "login` (HF_TOKEN, if set, takes precedence)."
            ) from None
        if status in (403, 404):
            owner = repo_id.split("/")[0]
            raise PolyvidError(
                f"This token may not write to {repo_id}: it needs the role `write` (a fine-grained one: for {owner}), "
                f"and you need the right to write in {owner}. See {hub}/settings/tokens."
            ) from None
        if not isinstance(cause, HTTPError) and not raised_in(error, HUB_LIBRARIES):
            raise  # a defect of this package
        if not isinstance(cause, HTTPError | RuntimeError):  # JSON that is none, or without what the Hub always sends
            raise ConnectionError(
                f"{hub} does not answer like the Hub ({type(cause).__name__}: {_shortened(str(cause), token)}): check "
                "HF_ENDPOINT and your proxy."
            ) from None
        reason = _shortened(getattr(cause, "server_message", None) or str(cause), token) or type(cause).__name__
        raise ConnectionError(
            f"{hub} cannot be reached, or broke off ({reason}): check network and HF_ENDPOINT, then run the same "
            "command again; what has arrived is not sent again."
        ) from None


def _shortened(reason: str, token: str) -> str:
    """One line of at most 200 characters. The token goes first: cut in two, it would not be recognised."""
    return " ".join(reason.replace(token, "<token>").split())[:200]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
