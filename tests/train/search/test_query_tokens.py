"""A tokenizer with a few of its pieces cuts every text as the whole one does."""

import json
import random
import unicodedata

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from polyvid.train.search.query_tokens import QueryTokens
from polyvid.train.search.text_tower import SAMPLES

WORDS = "the dog runs der Hund läuft kipande cha pizza собака бежит 一个人在做饭 ピザ příliš žluťoučký được".split()
LONGEST = 12


def save(file, kind, normalizer=None, pre_tokenizer=None, added=("<mask>",)) -> None:
    """A tokenizer that learned its pieces from sentences of these words, with special tokens around every text."""
    random.seed(0)
    sentences = [" ".join(random.choices(WORDS, k=5)) for _ in range(300)]
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(kind())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    options = {"unk_token": "<unk>"} if kind is models.Unigram else {}
    trainer = {models.Unigram: trainers.UnigramTrainer, models.BPE: trainers.BpeTrainer}[kind]
    tokenizer.train_from_iterator(sentences, trainer(vocab_size=150, special_tokens=special, **options))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([AddedToken(name, lstrip=True) for name in added])
    tokenizer.add_tokens([AddedToken("Kůň", normalized=True)])
    tokenizer.save(str(file))


def texts() -> list[str]:
    """Those of every script, and nonsense: characters that are known, unknown, composed, spaces and signs."""
    generator = random.Random(1)
    letters = [*" ".join(WORDS), *"\u0301\u00a0\u2581\u3000\t\nﬁⅣ𝕏🍕ᚠß<s>"]
    nonsense = ["".join(generator.choices(letters, k=generator.randrange(1, 40))) for _ in range(200)]
    typed = ["a <mask> dog", "a<mask>dog", "kůň Kůň KŮŇ", "<s>", "<unk>", "", " ", "dog" * 50]
    return [*SAMPLES, *typed, *nonsense, *map(unicodedata.normalize, ["NFD"] * len(SAMPLES), SAMPLES)]


@pytest.mark.parametrize(
    ("kind", "normalizer", "pre_tokenizer"),
    [
        (models.Unigram, normalizers.NFKC(), pre_tokenizers.Metaspace(prepend_scheme="always")),
        (
            models.Unigram,
            normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
            pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
        ),
        (models.Unigram, None, None),
        (models.BPE, normalizers.NFKC(), pre_tokenizers.Metaspace()),  # of which all is read
    ],
    ids=["as XLM-R", "words", "raw", "BPE"],
)
def test_every_text_is_cut_as_by_the_whole(kind, normalizer, pre_tokenizer, tmp_path):
    file = tmp_path / "tokenizer.json"
    save(file, kind, normalizer, pre_tokenizer)
    whole, part = Tokenizer.from_file(str(file)), QueryTokens(file, "<unk>")
    assert part.unk_token_id == whole.token_to_id("<unk>")
    for text in texts():
        assert part(text) == {"input_ids": whole.encode(text, add_special_tokens=False).ids}, text
    whole.enable_truncation(LONGEST)
    for text in texts():
        assert part.ids(text, LONGEST) == whole.encode(text).ids, text


def test_a_query_needs_few_pieces(tmp_path, monkeypatch):
    save(tmp_path / "tokenizer.json", models.Unigram, pre_tokenizer=pre_tokenizers.Metaspace())
    part = QueryTokens(tmp_path / "tokenizer.json", "<unk>")
    monkeypatch.setattr(Tokenizer, "from_file", None)
    tokenizer, _ = part._for("the dog")
    pieces = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    assert tokenizer.get_vocab_size() < 40 < len(pieces)
    assert part.ids("the dog", LONGEST)[1:-1] == part("the dog")["input_ids"]
