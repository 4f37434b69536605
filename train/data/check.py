"""`polyvid check`: looks at captioned videos of one's own before any work is done with them.

A problem would make training or scores wrong, and the command ends with exit code 1. A hint is worth a look.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from polyvid.dataset_scripts.hub import check_source
from polyvid.dataset_scripts.own_data.opening import OwnDataset, known_dataset, parse_columns
from polyvid.dataset_scripts.schema import language_name
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.video_reading_mmp import VideoError, open_container
from polyvid.train.data.own_features import Content, videos_at_hand
from polyvid.train.data.videos import open_dataset
from polyvid.train.errors import visible
from polyvid.train.recipe import ALL_LANGUAGES, Recipe, load_recipe
from polyvid.train.wording import counted

FEW = 30  # videos: fewer tell models apart by chance
SHOWN = 3  # examples of what was found
CERTAIN = 0.97  # probability of another language from which a caption is worth a look
LONG_ENOUGH = 25  # letters from which a language can be told


@dataclass(frozen=True)
class Finding:
    """What was found, and whether it would make training or scores wrong."""

    text: str
    is_problem: bool = False

    def __str__(self) -> str:
        return visible(f"{'problem' if self.is_problem else 'hint'}: {self.text}")


def check(
    dataset: Annotated[str, typer.Argument(help="A folder with metadata.csv, or a Hub id.")],
    config: Annotated[str, typer.Option(help="The recipe that you would train by, a file or a name.")] = "own",
    model: Annotated[
        str | None, typer.Option(help="The model that training would start from. Default: the recipe's.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the videos, if not that of the table.")] = None,
    column: Annotated[list[str] | None, typer.Option(help="A column's name, such as en=caption. Repeatable.")] = None,
) -> None:
    """Look at your captioned videos before training: what is there, missing, broken, twice, too long or mislabelled.

    Reads each video file once and changes nothing. Ends with exit code 1 if something would make training or scores
    wrong.
    """
    if known_dataset(dataset) is not None:
        raise PolyvidError(f"{dataset} is a dataset of this package; `polyvid coverage` counts its videos.")
    if model is not None:
        check_source(model, "model")
    overrides = [f"data.dataset={dataset}"] + ([f"model.init_from={model}"] if model else [])
    recipe = load_recipe(config, overrides)
    recipe.data.columns |= parse_columns(column or [])
    recipe.data.data_dir = str(data_dir) if data_dir else recipe.data.data_dir
    own = open_dataset(recipe.data)
    assert own is not None
    captions = sum(len(video.captions) for video in own.videos)
    print(f"{own.origin}: {counted(len(own.videos), 'video')}, {counted(captions, 'caption')}\n")
    print("\n".join(map(visible, to_markdown(own).splitlines())) + "\n")
    findings = [*check_splits(own, recipe), *check_videos(own), *check_captions(own), *check_lengths(own, recipe)]
    for finding in sorted(findings, key=lambda finding: not finding.is_problem):
        print(finding)
    print("\n" + "\n".join(map(visible, plan(own, recipe))))
    if count := sum(finding.is_problem for finding in findings):
        print(f"\n{counted(count, 'problem')}: training or scores would be wrong.")
        raise typer.Exit(1)


def to_markdown(own: OwnDataset) -> str:
    """A table of splits: videos, and captions in each language."""
    lines = [f"| split | videos | {' | '.join(own.languages)} |", f"| --- | ---: |{' ---: |' * len(own.languages)}"]
    for split in own.splits:
        rows = own.rows(split)
        counts = Counter(caption["language"] for row in rows for caption in row["captions"])
        cells = " | ".join(f"{counts[language]:,}" for language in own.languages)
        lines.append(f"| {split} | {len(rows):,} | {cells} |")
    return "\n".join(lines)


def check_splits(own: OwnDataset, recipe: Recipe) -> Iterator[Finding]:
    """The splits that the recipe needs, the languages in them, and one for tests."""
    for split, use in ((recipe.data.train_split, "training"), (recipe.data.validation_split, "validation")):
        if split is not None and split not in own.splits:
            advice = "" if use == "training" else ", or data.validation_split=null keeps the last model"
            yield Finding(f"no video is in the split {split!r}, which is for {use}: put some there{advice}.", True)
    if "test" not in own.splits:
        yield Finding("no video is in the split 'test': `polyvid evaluate` will need --split.")
    elif (count := len(own.rows("test"))) < FEW:
        said = f"only {counted(count, 'video', 'is', 'are')} for tests"
        yield Finding(f"{said}: one more that is found changes R@1 by {100 / count:.1f}.")
    if recipe.data.languages != ALL_LANGUAGES:
        if missing := [code for code in recipe.data.languages if code not in own.languages]:
            yield Finding(f"no caption is in {' '.join(missing)}, which the recipe's data.languages names.", True)


def check_videos(own: OwnDataset) -> Iterator[Finding]:
    """Files that are missing, broken, or the same in two splits; and files that no caption speaks of."""
    videos = videos_at_hand(own)
    if missing := [video.file_name or video.video_id for video in own.videos if video.video_id not in videos]:
        yield Finding(
            f"there is no file for {len(missing)} of {counted(len(own.videos), 'video')}: {_some(missing)}.", True
        )
    split_of = {video.video_id: video.split for video in own.videos}
    broken, same = [], defaultdict(list)
    for name, content in tqdm(videos.items(), desc="check", unit=" videos", leave=False):
        digest, error = _examined(content)
        if error is not None:
            broken.append(f"{name} ({error})")
        same[digest].append(name)
    if broken:
        yield Finding(f"{counted(len(broken), 'video')} cannot be read: {_some(broken)}.", True)
    twice = [names for names in same.values() if len(names) > 1]
    across = [names for names in twice if len({split_of[name] for name in names}) > 1]
    if across:
        shown = _some([" = ".join(f"{name} ({split_of[name]})" for name in names) for names in across])
        yield Finding(
            f"{counted(len(across), 'file', 'is', 'are')} in two splits under different names: {shown}.", True
        )
    if within := [names for names in twice if names not in across]:
        shown = _some([" = ".join(names) for names in within])
        yield Finding(f"{counted(len(within), 'file', 'is', 'are')} there twice: {shown}.")


def check_captions(own: OwnDataset) -> Iterator[Finding]:
    """Captions that appear in two splits, and those that seem to be in another language than they say."""
    splits_of: dict[tuple[str, str], set[str]] = defaultdict(set)
    for video in own.videos:
        for caption in video.captions:
            splits_of[caption["language"], caption["text"].casefold()].add(str(video.split))
    across = [text for (_, text), splits in splits_of.items() if len(splits) > 1]
    if across:
        shown = _some([repr(text) for text in across])
        yield Finding(f"{counted(len(across), 'caption', 'is', 'are')} in two splits: {shown}.")
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        yield Finding("languages were not compared with the texts: pip install 'polyvid[check]' does that.")
        return
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    known = set(identifier.nb_classes)
    for language in own.languages:
        code = language.split("-")[0]
        texts = [c["text"] for video in own.videos for c in video.captions if c["language"] == language]
        if code not in known:
            continue
        found, probability = identifier.classify(" ".join(texts[:1000]))
        if found != code and probability > CERTAIN:
            yield Finding(f"the captions marked {language} ({language_name(language)}) look like {found}.")
            continue
        other = [
            f"{text!r} ({guess[0]})"
            for text in texts
            if len(text) >= LONG_ENOUGH and (guess := identifier.classify(text))[0] != code and guess[1] > CERTAIN
        ]
        if other:
            said = f"{counted(len(other), 'caption')} marked {language} may be in another language"
            yield Finding(f"{said}: {_some(other)}.")


def check_lengths(own: OwnDataset, recipe: Recipe) -> Iterator[Finding]:
    """Captions that the recipe would cut."""
    source = recipe.model.init_from or recipe.model.backbone
    try:
        check_source(source, "model")
    except OSError as error:
        yield Finding(f"lengths were not compared. {error} (--model names another.)")
        return
    from transformers import AutoTokenizer

    tokenizer, limit = AutoTokenizer.from_pretrained(source), recipe.data.max_text_length
    texts = [caption["text"] for video in own.videos for caption in video.captions]
    lengths = [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]]
    if long := [text for text, length in zip(texts, lengths, strict=True) if length > limit]:
        yield Finding(
            f"{counted(len(long), 'caption', 'is', 'are')} cut to data.max_text_length={limit} tokens (the longest has "
            f"{max(lengths)}): {long[0][:60]!r}."
        )


def plan(own: OwnDataset, recipe: Recipe) -> list[str]:
    """What the recipe would do, in words."""
    data, training = recipe.data, recipe.training
    lines = []
    if data.train_split in own.splits:
        languages = own.languages if data.languages == ALL_LANGUAGES else data.languages
        rows = own.rows(data.train_split)
        pairs = sum(caption["language"] in languages for row in rows for caption in row["captions"])
        batches = max(1, -(-pairs // training.batch_size))
        lines.append(
            f"Training: {counted(len(rows), 'video')}, {counted(pairs, 'caption')} in {' '.join(languages)}; "
            f"{counted(batches, 'step')} an epoch, at most {counted(training.epochs, 'epoch')}."
        )
    if data.validation_split in own.splits:
        lines.append(f"Validation: {counted(len(own.rows(str(data.validation_split))), 'video')} after each epoch.")
    lines.append(f"Start: from {recipe.model.init_from or f'a new model around {recipe.model.backbone}'}.")
    if data.features is not None:
        lines.append(f"Features: from {data.features}.")
    else:
        networks = " + ".join(data.video_encoders or []) or "the networks of the model that it starts from"
        lines.append(f"Features: made first, by {networks}.")
    split = f"drawn by data.split_seed={data.split_seed}" if own.is_drawn else "in the table"
    lines.append(f"Splits: {split}. Output: {recipe.output_dir}.")
    return lines


def _examined(content: Content) -> tuple[str, str | None]:
    """The digest of a video, and why its first frame cannot be decoded, if so."""
    import av  # a missing package becomes one line

    try:
        data: Any = content if isinstance(content, Path) else BytesIO(content())
        if isinstance(content, Path):
            with open(content, "rb") as file:
                digest = hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).hexdigest()
        else:
            digest = hashlib.blake2b(data.getbuffer(), digest_size=16).hexdigest()
    except OSError as error:
        return str(content), error.strerror or str(error)
    try:
        with open_container(data) as container:
            next(container.decode(video=0))
    except StopIteration:
        return digest, "it has no frames"
    except VideoError as error:
        return digest, str(error)
    except (av.FFmpegError, IndexError) as error:
        return digest, getattr(error, "strerror", None) or "it has no video stream"
    return digest, None


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
