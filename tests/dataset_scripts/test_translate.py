"""Translating captions with tiny randomly initialised translators: what is tested is the bookkeeping, offline."""

import json
import signal
import subprocess
import sys
import time

import pytest
import sentencepiece
import torch
from benchmark_files import write_test_pairs
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    NllbTokenizer,
)

from polyvid.dataset_scripts.schema import canonical_language, language_name
from polyvid.dataset_scripts.translate import Translator, language_codes, translate, translate_captions
from polyvid.dataset_scripts.translations import Translations
from polyvid.modeling.errors_mmp import PolyvidError

WORDS = "a man plays the guitar while two dogs run over grass and someone slices an onion in a kitchen".split()
SIZES = {"layers": 1, "attention_heads": 2, "ffn_dim": 32}
TINY = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in SIZES.items()} | {"d_model": 16}
SENTENCES = [" ".join(WORDS[k % 7 : k % 7 + 3 + k % 9]) for k in range(60)]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A sentencepiece model and its vocabulary."""
    folder = tmp_path_factory.mktemp("pieces")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 5),
        model_prefix=str(folder / "spm"),
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    return folder / "spm.model", [model.id_to_piece(k) for k in range(3, model.get_piece_size())]


def save_marian(folder, pieces, seed=0, codes=()):
    """A Marian model as the Hub has them; `codes` such as `>>deu<<` make it one of several target languages."""
    folder.mkdir()
    spm, names = pieces
    vocabulary = {name: k for k, name in enumerate(["</s>", "<unk>", *codes, *names, "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    for side in ("source", "target"):
        (folder / f"{side}.spm").write_bytes(spm.read_bytes())
    tokenizer = MarianTokenizer(
        source_spm=str(folder / "source.spm"), target_spm=str(folder / "target.spm"), vocab=str(folder / "vocab.json")
    )
    tokenizer.save_pretrained(folder)
    pad = vocabulary["<pad>"]
    config = MarianConfig(
        vocab_size=len(vocabulary),
        max_position_embeddings=40,
        pad_token_id=pad,
        eos_token_id=0,
        decoder_start_token_id=pad,
        forced_eos_token_id=0,
        **TINY,
    )
    torch.manual_seed(seed)
    MarianMTModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def marian(tmp_path_factory, pieces):
    return save_marian(tmp_path_factory.mktemp("models") / "opus-mt-en-de", pieces)


@pytest.fixture
def captions():
    """60 captions of 20 videos; some sentences are there several times."""
    return [{"video_id": f"video{k // 3}", "caption_id": str(k), "text": SENTENCES[k]} for k in range(len(SENTENCES))]


class Counting:
    """A translator that remembers what it was asked, and stops when it was asked enough."""

    source = "toy@1"

    def __init__(self, stop_after=None):
        self.asked, self.stop_after = [], stop_after

    def __call__(self, texts):
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked += texts
        return [text.upper() for text in texts]


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_marian_model_translates_every_caption_and_signs_it(marian, captions, tmp_path):
    translator = Translator(str(marian), "de", num_beams=2)
    path = translate_captions(captions, translator, "de", tmp_path, batch_size=16)
    rows = rows_of(path)
    assert [(r["video_id"], r["caption_id"]) for r in rows] == [(c["video_id"], c["caption_id"]) for c in captions]
    assert {row["language"] for row in rows} == {"de"}
    assert {row["source"] for row in rows} == {translator.source}
    assert translator.source.startswith("opus-mt-en-de@sha256-")
    # The same sentence has the same translation; another batch size changes padding, not what is said.
    by_text = {c["text"]: r["text"] for c, r in zip(captions, rows, strict=True)}
    assert all(by_text[c["text"]] == r["text"] for c, r in zip(captions, rows, strict=True))
    [alone] = translator([captions[5]["text"]])
    assert alone == by_text[captions[5]["text"]]
    assert Translations(path, ["de"]).by_id["de"]["video0", "1"] == (rows[1]["text"], translator.source)


def test_weights_of_another_model_give_another_revision(marian, pieces, tmp_path):
    other = save_marian(tmp_path / "opus-mt-en-de", pieces, seed=1)
    assert Translator(str(other), "de").source != Translator(str(marian), "de").source


def test_a_multilingual_marian_is_told_its_target_by_a_prefix(pieces, tmp_path):
    model = save_marian(tmp_path / "opus-mt-en-mul", pieces, codes=(">>cmn_Hans<<", ">>deu<<"))
    assert Translator(str(model), "zh").prefix == ">>cmn_Hans<< "
    assert Translator(str(model), "de").prefix == ">>deu<< "
    with pytest.raises(ValueError, match="does not translate from en into sw"):
        Translator(str(model), "sw")


def test_m2m_100_is_told_its_target_by_the_first_output_token(pieces, tmp_path):
    spm, names = pieces
    vocabulary = {name: k for k, name in enumerate(["<s>", "<pad>", "</s>", "<unk>", *names])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = M2M100Tokenizer(vocab_file=str(tmp_path / "vocab.json"), spm_file=str(spm))
    model = tmp_path / "m2m"
    tokenizer.save_pretrained(model)
    # Beyond the tokenizer's words stand the language tokens, and a few more as in the released models.
    config = dict(vocab_size=max(tokenizer.lang_code_to_id.values()) + 9, max_position_embeddings=40)
    torch.manual_seed(0)
    M2M100ForConditionalGeneration(M2M100Config(**config, **TINY)).save_pretrained(model)
    for language in ("cs", "sw"):
        translator = Translator(str(model), language, num_beams=1)
        assert translator.first_token == tokenizer.get_lang_id(language)
        assert translator.tokenizer.src_lang == "en"
    assert len(translator(["a man plays", "dogs"])) == 2


def test_nllb_is_told_its_target_by_its_own_name_of_the_language(tmp_path):
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", "▁", "de", "d", "e", "a", "n"]  # "de" is a piece, not German
    tokenizer = NllbTokenizer(vocab={piece: k for k, piece in enumerate(vocabulary)}, merges=[("d", "e")])
    model = tmp_path / "nllb"
    tokenizer.save_pretrained(model)
    config = M2M100Config(vocab_size=len(tokenizer), max_position_embeddings=40, **TINY)
    M2M100ForConditionalGeneration(config).save_pretrained(model)
    translator = Translator(str(model), "de", num_beams=1)
    assert translator.first_token == tokenizer.convert_tokens_to_ids("deu_Latn") != vocabulary.index("de")
    assert translator.tokenizer.src_lang == "eng_Latn"
    assert translator.tokenizer("a").input_ids[0] == tokenizer.convert_tokens_to_ids("eng_Latn")


def test_each_different_sentence_is_translated_once_in_batches_of_like_length(captions, tmp_path):
    translator = Counting()
    translate_captions(captions, translator, "de", tmp_path, batch_size=7)
    assert sorted(translator.asked) == sorted({c["text"] for c in captions})
    lengths = [len(text) for text in translator.asked]
    assert lengths == sorted(lengths, reverse=True)


def test_an_interrupted_translation_resumes_where_it_stopped(captions, tmp_path):
    whole = translate_captions(captions, Counting(), "de", tmp_path / "whole", batch_size=4).read_bytes()
    first = Counting(stop_after=12)
    with pytest.raises(KeyboardInterrupt):
        translate_captions(captions, first, "de", tmp_path / "cut", batch_size=4)
    assert not (tmp_path / "cut" / "de.jsonl").exists()
    part = tmp_path / "cut" / "de.jsonl.part"
    with open(part, "ab") as file:
        file.write(b'{"video_id": "video1", "caption_id": "4", "text": "half a li')
    second = Counting()
    path = translate_captions(captions, second, "de", tmp_path / "cut", batch_size=4)
    assert path.read_bytes() == whole
    assert not set(first.asked) & set(second.asked)
    assert not part.exists()
    third = Counting()
    translate_captions(captions, third, "de", tmp_path / "cut", batch_size=4)
    assert third.asked == []


def test_what_a_run_leaves_that_is_killed_at_its_very_end_is_removed_by_the_next(captions, tmp_path):
    path = translate_captions(captions, Counting(), "de", tmp_path, batch_size=4)
    path.with_name("de.jsonl.part").write_bytes(path.read_bytes())
    translate_captions(captions, Counting(), "de", tmp_path, batch_size=4)
    assert [file.name for file in tmp_path.iterdir() if file.suffix != ".lock"] == ["de.jsonl"]


KILLED = """
import sys, time
from pathlib import Path
from polyvid.dataset_scripts.translate import translate_captions

class Slow:
    source = "toy@1"
    def __call__(self, texts):
        time.sleep(float(sys.argv[2]))
        return [text.upper() for text in texts]

captions = [{"video_id": f"v{k}", "caption_id": "0", "text": f"sentence {k}"} for k in range(500)]
translate_captions(captions, Slow(), "de", sys.argv[1], batch_size=5)
"""


@pytest.mark.slow
def test_a_killed_translation_ends_in_the_same_file(tmp_path):
    def start(output, seconds_a_batch):
        return subprocess.Popen([sys.executable, "-c", KILLED, str(output), str(seconds_a_batch)])

    assert start(tmp_path / "whole", 0).wait() == 0
    process, part = start(tmp_path / "killed", 0.1), tmp_path / "killed" / "de.jsonl.part"
    while not part.exists() or part.read_bytes().count(b"\n") < 50:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "de.jsonl").exists()
    assert start(tmp_path / "killed", 0).wait() == 0
    assert (tmp_path / "killed" / "de.jsonl").read_bytes() == (tmp_path / "whole" / "de.jsonl").read_bytes()


def test_the_command_translates_a_benchmark_and_the_builder_reads_it(marian, tmp_path, capsys, monkeypatch):
    import datasets

    from polyvid.dataset_scripts.building import load_builder

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_test_pairs(tmp_path, list(range(1000)))
    model = str(marian).replace("en-de", "en-{language}")
    translate(
        "vtt",
        to=["de"],
        data_dir=tmp_path,
        output_dir=tmp_path / "mt",
        split=["test"],
        model=model,
        num_beams=1,
        batch_size=500,
    )
    assert capsys.readouterr().out.strip() == str(tmp_path / "mt" / "de.jsonl")
    builder = load_builder("msrvtt")(
        data_dir=str(tmp_path), languages=["en", "de"], splits=["test"], translations=str(tmp_path / "mt")
    )
    row = next(iter(builder.as_streaming_dataset()["test"]))
    assert [(c["caption_id"], c["language"]) for c in row["captions"]] == [("ret0", "en"), ("ret0", "de")]
    assert row["captions"][1]["source"].startswith("opus-mt-en-de@sha256-")


def test_work_of_another_model_or_on_other_captions_is_not_mixed_in(captions, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        translate_captions(captions, Counting(stop_after=8), "de", tmp_path, batch_size=4)
    other = Counting()
    other.source = "toy@2"
    with pytest.raises(ValueError, match=r"de\.jsonl\.part was translated by toy@1, not by toy@2"):
        translate_captions(captions, other, "de", tmp_path, batch_size=4)
    with pytest.raises(ValueError, match="holds translations of other captions"):
        translate_captions(captions[:3], Counting(), "de", tmp_path, batch_size=4)
    translate_captions(captions, Counting(), "de", tmp_path, batch_size=4)
    more = [*captions, {"video_id": "video99", "caption_id": "99", "text": "one more"}]
    with pytest.raises(ValueError, match=r"de\.jsonl holds translations of other captions"):
        translate_captions(more, Counting(), "de", tmp_path, batch_size=4)


def test_any_language_code_is_a_language_and_multilingual_models_are_asked_for_it():
    assert [canonical_language(code) for code in ("cz", "CS", "ces", "hi", "zh-Hant")] == [
        "cs",
        "cs",
        "cs",
        "hi",
        "zh-Hant",
    ]
    assert language_name("hi") == "Hindi" and language_name("cz") == "Czech"
    assert {"hi", "hin_Deva", "hi_IN", "hin"} <= set(language_codes("hi"))
    for code in ("xx", "jp", "swahili", "e n", ""):
        with pytest.raises(PolyvidError, match=f"Unknown language '{code}'"):
            canonical_language(code)


def test_a_multilingual_model_translates_into_a_language_beyond_the_nine(tmp_path, pieces):
    marian = save_marian(tmp_path / "opus-mt-en-mul", pieces, codes=(">>hin<<", ">>deu<<"))
    assert Translator(str(marian), "hi").prefix == ">>hin<< "
    with pytest.raises(PolyvidError, match="does not translate from en into ta"):
        Translator(str(marian), "ta")


def test_only_the_language_is_filled_into_a_models_name(tmp_path):
    """Braces are allowed in names of folders; `str.format` would ask for what is in them."""
    with pytest.raises(FileNotFoundError, match=r"no model at '\./a\{b\}-de'"):
        translate("vtt", ["de"], data_dir=tmp_path, output_dir=tmp_path / "out", model="./a{b}-{language}")
