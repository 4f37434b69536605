"""Pseudo-multilingual annotations: translate a benchmark's English captions by machine (paper §5.1).

Any sequence-to-sequence translator of transformers does: Marian (`Helsinki-NLP/opus-mt-en-de`, one language pair a
model), NLLB, M2M-100, mBART-50 (many). Each sentence keeps its id, so the translation is aligned with the original,
and every row says which model in which revision wrote it.

The output is `{output_dir}/{language}.jsonl`, which the builders read (`translations=`). During the work, rows
are appended to `{language}.jsonl.part` batch by batch: after a stop, by any signal, the same command resumes.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Protocol

import langcodes
import typer
from tqdm import tqdm

from polyvid.dataset_scripts.building import atomic_path
from polyvid.dataset_scripts.devices import find_device
from polyvid.dataset_scripts.hub import check_source
from polyvid.dataset_scripts.locking import locked
from polyvid.dataset_scripts.own_data.opening import open_splits, parse_columns
from polyvid.dataset_scripts.schema import canonical_language
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.paths_mmp import check_local_path, refuse_pickled_weights

LANGUAGE_CODES = {
    "en": ("en", "eng_Latn", "en_XX", "eng"),
    "de": ("de", "deu_Latn", "de_DE", "deu"),
    "fr": ("fr", "fra_Latn", "fr_XX", "fra"),
    "cs": ("cs", "ces_Latn", "cs_CZ", "ces"),
    "zh": ("zh", "zho_Hans", "zh_CN", "cmn_Hans", "cmn"),
    "ru": ("ru", "rus_Cyrl", "ru_RU", "rus"),
    "vi": ("vi", "vie_Latn", "vi_VN", "vie"),
    "sw": ("sw", "swh_Latn", "sw_KE", "swh", "swa"),
    "es": ("es", "spa_Latn", "es_XX", "spa"),
}
"""What the paper's languages are called by M2M-100, NLLB, mBART-50 and multi-target Marian models."""

MAX_NEW_TOKENS = 192
"""A bound for the rare sentence on which a model loops; the same for all, so that batches do not change the result."""


class Translates(Protocol):
    """What a translator must offer: the name that signs its rows, and texts in, translations out."""

    source: str

    def __call__(self, texts: list[str]) -> list[str]: ...


def language_codes(language: str) -> tuple[str, ...]:
    """The names under which multilingual models may know a language, the likeliest first: `hi hin_Deva hi_IN hin`."""
    if language in LANGUAGE_CODES:
        return LANGUAGE_CODES[language]
    tag = langcodes.Language.get(language).maximize()
    three = tag.to_alpha3()
    return language, f"{three}_{tag.script}", f"{tag.language}_{tag.territory}", str(tag.language), three


class Translator:
    """A translation model from the Hub or a folder, set to one language pair.

    Args:
        model: Hub id or folder.
        target: the code of the target language.
        revision: branch, tag or commit on the Hub; the commit it resolves to is what `source` names.
        num_beams: beams of the search (deterministic).

    Raises:
        PolyvidError: if a multilingual model does not know the language.
    """

    def __init__(
        self, model: str, target: str, revision: str | None = None, num_beams: int = 4, device: str | None = None
    ):
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        self.device = find_device(device)
        self.tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
        refuse_pickled_weights(model)  # on the Hub, many have no others; PyTorch reads nothing but tensors from them
        self.model = AutoModelForSeq2SeqLM.from_pretrained(model, revision=revision).to(self.device).eval()
        self.num_beams = num_beams
        self.max_new_tokens = min(MAX_NEW_TOKENS, getattr(self.model.config, "max_position_embeddings", MAX_NEW_TOKENS))
        self.source = f"{Path(model).name if Path(model).is_dir() else model}@{_revision(model, self.model)}"
        self.prefix, self.first_token = self._target_codes(model, target)

    def _target_codes(self, model: str, target: str) -> tuple[str, int | None]:
        """How the model is told its target language: a prefix of the source text, or the first output token."""
        tokenizer = self.tokenizer
        # Not the whole vocabulary: "de" is also a piece of words.
        names = getattr(tokenizer, "lang_code_to_token", None) or {name: name for name in tokenizer.all_special_tokens}
        if hasattr(tokenizer, "src_lang"):
            codes = {
                language: next((name for name in language_codes(language) if name in names), None)
                for language in ("en", target)
            }
            if None not in codes.values():
                tokenizer.src_lang = codes["en"]
                return "", tokenizer.convert_tokens_to_ids(names[codes[target]])
        elif not getattr(tokenizer, "supported_language_codes", None):
            return "", None
        else:
            for name in language_codes(target):
                if f">>{name}<<" in tokenizer.supported_language_codes:
                    return f">>{name}<< ", None
        raise PolyvidError(f"{model} does not translate from en into {target}: choose another model for it.")

    def __call__(self, texts: list[str]) -> list[str]:
        import torch

        inputs = self.tokenizer(
            [self.prefix + text for text in texts], return_tensors="pt", padding=True, truncation=True
        ).to(self.device)
        options = {} if self.first_token is None else {"forced_bos_token_id": self.first_token}
        with torch.inference_mode():
            outputs = self.model.generate(
                **inputs,
                num_beams=self.num_beams,
                do_sample=False,
                max_new_tokens=self.max_new_tokens,
                max_length=None,
                **options,
            )
        return [text.strip() for text in self.tokenizer.batch_decode(outputs, skip_special_tokens=True)]


def translate_captions(
    captions: Iterable[dict],
    translator: Translates,
    language: str,
    output_dir: str | os.PathLike,
    batch_size: int = 64,
) -> Path:
    """Translate captions into one language, each different text once, in batches of similar length.

    Batches are a function of the captions and `batch_size` alone, so an interrupted and resumed translation ends in
    the same file as an uninterrupted one.

    Args:
        captions: `{"video_id", "caption_id", "text"}`.
        translator: a `Translator`, or anything that does the same.

    Returns:
        the finished `{output_dir}/{language}.jsonl`; left as it is if it existed.

    Raises:
        PolyvidError: if the unfinished or finished file there was written by another model or revision, or is of other
            captions.
    """
    captions, path = list(captions), Path(output_dir) / f"{language}.jsonl"
    with locked(path, "polyvid translate"):
        return _translate_captions(captions, translator, language, path, batch_size)


def _translate_captions(
    captions: list[dict], translator: Translates, language: str, path: Path, batch_size: int
) -> Path:
    part = path.with_name(f"{path.name}.part")
    if path.exists():
        _check_same_work(path, _read_rows(path), captions, translator.source, complete=True)
        part.unlink(missing_ok=True)  # left by a run that was killed just before it could do so
        return path
    part.parent.mkdir(parents=True, exist_ok=True)
    done = _read_rows(part) if part.exists() else {}
    _check_same_work(part, done, captions, translator.source, complete=False)

    same_text: dict[str, list[dict]] = {}
    for caption in captions:
        same_text.setdefault(caption["text"], []).append(caption)
    texts = sorted(same_text, key=lambda text: (-len(text), text))  # longest first: memory is at its peak at once
    with (
        open(part, "a", encoding="utf-8") as out,
        tqdm(total=len(texts), desc=f"en → {language}", unit=" texts") as bar,
    ):
        for start in range(0, len(texts), batch_size):
            batch = texts[start : start + batch_size]
            if any(_key(caption) not in done for text in batch for caption in same_text[text]):
                for text, translation in zip(batch, translator(batch), strict=True):
                    for caption in same_text[text]:
                        done[_key(caption)] = {
                            "video_id": caption["video_id"],
                            "caption_id": caption["caption_id"],
                            "language": language,
                            "text": translation,
                            "source": translator.source,
                        }
                        out.write(json.dumps(done[_key(caption)], ensure_ascii=False) + "\n")
                out.flush()
                os.fsync(out.fileno())
            bar.update(len(batch))

    empty = sum(not row["text"] for row in done.values())
    if empty:
        tqdm.write(f"{path}: the model wrote nothing for {empty} of {len(done)} captions.")
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
        for caption in captions:
            out.write(json.dumps(done[_key(caption)], ensure_ascii=False) + "\n")
    part.unlink()
    return path


def translate(
    benchmark: Annotated[
        str, typer.Argument(help="A benchmark, such as vtt or lsmdc; or a folder with metadata.csv, or a Hub id.")
    ],
    to: Annotated[list[str], typer.Option(help="Target language; repeat for several.")],
    output_dir: Annotated[Path, typer.Option(help="Output folder: one <language>.jsonl per language.")],
    data_dir: Annotated[Path | None, typer.Option(help="Folder with the benchmark's official files.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Default: the paper's protocol.")] = None,
    split: Annotated[list[str] | None, typer.Option(help="Only these splits.")] = None,
    model: Annotated[
        str, typer.Option(help="Hub id or folder; {language} is replaced by the target.")
    ] = "Helsinki-NLP/opus-mt-en-{language}",
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch of the model.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences in one forward pass.")] = 64,
    num_beams: Annotated[int, typer.Option(min=1, help="Width of the beam search.")] = 4,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default: cuda if there is one.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Of your own captions: a column's name, such as en=caption. Repeatable.")
    ] = None,
) -> None:
    """Translate a benchmark's English captions; resumable, with the model and its revision in every row."""
    languages = [canonical_language(language) for language in to]
    for language in languages:
        check_local_path(model.replace("{language}", language), "model")
    splits = open_splits(benchmark, protocol, data_dir, split, ["en"], parse_columns(column or []))
    captions = [
        {"video_id": row["video_id"], "caption_id": caption["caption_id"], "text": caption["text"]}
        for rows in splits.values()
        for row in rows
        for caption in row["captions"]
    ]
    if not captions:
        raise PolyvidError(f"{benchmark} has no English captions to translate.")
    for language in languages:
        check_source(model.replace("{language}", language), "model")
    for language in languages:
        with locked(output_dir / f"{language}.jsonl", "polyvid translate"):  # before the model is loaded
            translator = Translator(model.replace("{language}", language), language, revision, num_beams, device)
            print(translate_captions(captions, translator, language, output_dir, batch_size))


def _key(row: dict) -> tuple[str, str]:
    return row["video_id"], row["caption_id"]


def _read_rows(path: Path) -> dict[tuple[str, str], dict]:
    """The rows of a translation file; a last line that a killed run left incomplete is cut off the file."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return {_key(row): row for row in map(json.loads, whole.decode("utf-8").split("\n")[:-1])}


def _check_same_work(path: Path, rows: dict, captions: list[dict], source: str, complete: bool) -> None:
    others = {row["source"] for row in rows.values()} - {source}
    if others:
        raise PolyvidError(f"{path} was translated by {others.pop()}, not by {source}: choose another output folder.")
    keys = {_key(caption) for caption in captions}
    if not rows.keys() <= keys or (complete and rows.keys() != keys):
        raise PolyvidError(f"{path} holds translations of other captions: choose another output folder.")


def _revision(name: str, model: Any) -> str:
    """The commit on the Hub; for a folder, a digest of its weights."""
    if not Path(name).is_dir():
        return model.config._commit_hash or "unknown"
    digest = hashlib.sha256()
    for file in sorted(p for p in Path(name).iterdir() if p.suffix in (".safetensors", ".bin")):
        digest.update(file.read_bytes())
    return f"sha256-{digest.hexdigest()[:12]}"
