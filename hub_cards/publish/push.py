"""`polyvid push`: a model, a dataset, the metric or the demo as a repository on the Hub, with its card."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from huggingface_hub import HfApi, RepoCard, get_token
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import validate_repo_id

from polyvid.hub_cards.publish.files import (
    METRIC,
    SPACE,
    collect_dataset,
    collect_metric,
    collect_model,
    collect_space,
    refuse_tokens,
)
from polyvid.modeling.errors_mmp import PolyvidError

LOADING = {
    "model": 'AutoModel.from_pretrained("{}", trust_remote_code=True)',
    "dataset": 'load_dataset("{}")',
    "metric": 'evaluate.load("{}")',
}
# Of an earlier push: a build with another number of shards, or weights split otherwise, would be read beside the new.
OUTDATED = {
    "model": ["*.safetensors", "*.safetensors.index.json", "*.py", "results/*", "recipes/*"],
    "dataset": ["*/*-of-*.parquet"],
    "metric": ["*.py"],
    "space": None,
}


def push(
    kind: Annotated[Literal["model", "dataset", "metric", "space"], typer.Argument(help="What to publish.")],
    source: Annotated[
        Path | None,
        typer.Argument(help="model: what training left; dataset: what `polyvid build` filled; else our own."),
    ] = None,
    repo_id: Annotated[str, typer.Option(help="Where to: <your name or organisation>/<name>.")] = ...,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Who sees it. Default: as the account is set.")
    ] = None,
    revision: Annotated[str, typer.Option(help="Branch; it is made where there is none.")] = "main",
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    results: Annotated[
        list[Path] | None,
        typer.Option(help="results.json, or a folder of them, for the card. Default: those polyvid evaluate left."),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="List every file and its size; touch no network.")] = False,
) -> None:
    """Publish a model, a dataset, the metric or the demo on the Hub, with its card.

    Log in with `hf auth login`, or set HF_TOKEN. A push that was interrupted is taken up by the same command: what
    has arrived is not sent again. The card is filled from recipes and results, never typed.
    """
    validate_repo_id(repo_id)
    if "/" not in repo_id:
        raise PolyvidError(f"Say whose repository it is: --repo-id <your name or organisation>/{repo_id}.")
    if results and kind != "model":
        raise PolyvidError("--results are for the card of a model.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        collect(kind, source, folder, repo_id, results or [])
        token = get_token()
        refuse_tokens(folder, token)
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in _files(folder)}
        if dry_run:
            width = len(f"{sum(sizes.values()):,}")
            for name, size in sizes.items():
                print(f"{size:>{width},}  {name}")
        print(f"{sum(sizes.values()):,} bytes in {len(sizes)} files, for {repo_id} ({revision})")
        if dry_run:
            return print("Nothing was sent.")
        with said_plainly(repo_id, token):
            url = upload(kind, folder, repo_id, private, revision, message)
    print(url)
    if kind in LOADING:
        print(LOADING[kind].format(repo_id))


def collect(kind: str, source: Path | None, folder: Path, repo_id: str, results: list[Path]) -> None:
    """Fill `folder` with what is to be pushed."""
    if source is None and kind in ("model", "dataset"):
        raise PolyvidError(f"Which {kind}? Give its folder: polyvid push {kind} FOLDER --repo-id {repo_id}.")
    if source is not None and not source.is_dir():
        raise FileNotFoundError(f"There is no folder {source}.")
    if kind == "model":
        collect_model(source, folder, repo_id, results)
    elif kind == "dataset":
        collect_dataset(source, folder, repo_id)
    elif kind == "metric":
        collect_metric(source or METRIC, folder, repo_id)
    else:
        collect_space(source or SPACE, folder)


def upload(kind: str, folder: Path, repo_id: str, private: bool | None, revision: str, message: str | None) -> str:
    """Make repository and branch where they are missing, send what they lack, and return the address of the commit.

    By `upload_folder`, which is what resumes: with hf_xet it sends and commits in batches and asks the Hub for each
    chunk, without it for each large file, whether that has arrived already. (`upload_large_folder`, which kept its own
    record beside the files, is gone from huggingface_hub 2.)

    Raises:
        PolyvidError: if the repository is there, but not as private or public as asked for; nothing is sent then.
        huggingface_hub.errors.HTTPError, RuntimeError: whatever goes wrong on the way.
    """
    api = HfApi()
    repo_type = "space" if kind == "metric" else kind
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
def said_plainly(repo_id: str, token: str | None) -> Iterator[None]:
    """Turns what huggingface_hub raises into one line that says what to do, and never holds the token.

    Raises:
        PolyvidError: no token, or one that is refused or may not write here.
        ConnectionError: the Hub cannot be reached, or broke off.
    """
    hub = HfApi().endpoint
    if token is None:
        raise PolyvidError(f"No token: run `hf auth login`, or set HF_TOKEN to one of {hub}/settings/tokens.")
    try:
        yield
    except (HTTPError, RuntimeError) as error:
        cause = error
        while not isinstance(cause, HTTPError) and cause.__cause__ is not None:
            cause = cause.__cause__  # the upload of large files wraps what went wrong
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status == 401:
            raise PolyvidError(
                f"{hub} does not accept the token: make one that may write at {hub}/settings/tokens, then `hf auth "
                "login` (HF_TOKEN, where it is set, goes first)."
            ) from None
        if status in (403, 404):
            owner = repo_id.split("/")[0]
            raise PolyvidError(
                f"This token may not write to {repo_id}: it must have the role `write` (a fine-grained one: for "
                f"{owner}), and you a right to write in {owner}. See {hub}/settings/tokens."
            ) from None
        reason = " ".join((getattr(cause, "server_message", None) or str(cause)).split())[:200]
        reason = reason.replace(token, "<token>") or type(cause).__name__
        raise ConnectionError(
            f"{hub} cannot be reached, or broke off ({reason}): check network and HF_ENDPOINT, then run the same "
            "command again; what has arrived is not sent again."
        ) from None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
