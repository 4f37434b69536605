"""Tables of translations, and the rows that training makes of them."""

import pytest

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.data.captions import PivotSampler
from polyvid.train.data.collate import MMPCollator
from polyvid.train.data.parallel import load_parallel_texts
from tiny import tiny_processor


@pytest.fixture
def table(tmp_path):
    def write(content: str, name: str = "texts.csv"):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return path

    return write


def texts_of(rows):
    return [{caption["language"]: caption["text"] for caption in row["captions"]} for row in rows]


def test_a_table_names_a_language_in_each_column_and_may_have_gaps(table):
    rows = load_parallel_texts(table('en,de,zh\nthe dog,der hund,狗\n"a cat, black",,猫\nalone,,\n\na man,ein mann\n'))
    assert texts_of(rows) == [
        {"en": "the dog", "de": "der hund", "zh": "狗"},
        {"en": "a cat, black", "zh": "猫"},
        {"en": "a man", "de": "ein mann"},
    ]
    tabs = load_parallel_texts(table("en\tcz\nthe dog, running\tpes\na cat\tkočka\n", "texts.tsv"))
    assert texts_of(tabs) == [{"en": "the dog, running", "cs": "pes"}, {"en": "a cat", "cs": "kočka"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"texts.csv has 0 line\(s\) with a text in two languages"),
        ("en,de\nthe dog,der hund\n", r"has 1 line\(s\) with a text in two languages, and two or more are needed"),
        ("the dog,der hund\na cat,eine katze\n", "line 1 must name a language in each column, such as en,de,sw"),
        ("en,de,en\n", "line 1 names en twice"),
        ("en,de\na,b,c\n", "line 2: 3 cells for 2 languages; put quotes around"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_its_line(table, content, message):
    with pytest.raises(PolyvidError, match=message):
        load_parallel_texts(table(content))
    latin = table("")
    latin.write_bytes("en,de\nthe dog,der hünd\n".encode("latin-1"))
    with pytest.raises(PolyvidError, match="not encoded in UTF-8"):
        load_parallel_texts(latin)


def test_rows_of_texts_alone_make_batches_without_videos(table):
    rows = load_parallel_texts(table("en,de\nthe dog,der hund\na cat,katze\n"))
    sampler = PivotSampler(rows, None, ["en", "de"], pivots=True, with_english=True)
    teacher = {"the dog": [1.0, 0.0], "a cat": [0.0, 1.0]}
    assert sorted(sampler.english_texts) == sorted(teacher)
    drawn = [sampler[index] for index in range(len(sampler))]
    assert len(drawn) == 4  # each sentence in each language
    assert all({row["text"], row["pivot_text"]} in ({"the dog", "der hund"}, {"a cat", "katze"}) for row in drawn)
    batch = MMPCollator(tiny_processor(), teachers=lambda rows: {"taught": [teacher[r["english_text"]] for r in rows]})(
        drawn
    )
    assert not any("video" in name for name in batch if name != "video_index")
    assert {"noisy_input_ids", "pivot_input_ids"} <= set(batch)
    assert batch["taught"] == [teacher[row["english_text"]] for row in drawn]


def test_a_teacher_reads_english_so_sentences_without_are_left_out(table):
    rows = load_parallel_texts(table("en,de,zh\nthe dog,der hund,狗\n,katze,猫\na man,mann,\n"))
    sampler = PivotSampler(rows, None, ["en", "de", "zh"], pivots=True, with_english=True)
    assert {row["english_text"] for row in map(sampler.__getitem__, range(len(sampler)))} == {"the dog", "a man"}
    rows = load_parallel_texts(table("de,zh\nhund,狗\nkatze,猫\n"))
    with pytest.raises(PolyvidError, match="the same sentence in English, which the teacher reads"):
        PivotSampler(rows, None, ["de", "zh"], pivots=True, with_english=True)
