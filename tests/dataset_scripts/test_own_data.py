"""Captioned videos of one's own: layouts of tables, splits, and what is refused with file, row and column."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmark_files import write_small_msrvtt
from datasets import Dataset, DatasetDict, Features, Value, Video
from training_data import write_features

from polyvid.dataset_scripts.build import build
from polyvid.dataset_scripts.coverage import coverage
from polyvid.dataset_scripts.join import join
from polyvid.dataset_scripts.own_data.opening import known_dataset, open_own
from polyvid.dataset_scripts.translate import translate
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.data.videos import load_videos
from polyvid.train.recipe import DataRecipe


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A function that writes a table into `my_folder` of the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(content: str | bytes, name: str = "metadata.csv") -> str:
        (tmp_path / "my_folder").mkdir(exist_ok=True)
        content = content.encode() if isinstance(content, str) else content
        (tmp_path / "my_folder" / name).write_bytes(content)
        return "my_folder"

    return write


def captions(name: str, **options) -> dict[str, list[tuple[str, str]]]:
    """Video id -> (language, text) of its captions."""
    rows = open_own(name, **options).rows("all")
    return {row["video_id"]: [(c["language"], c["text"]) for c in row["captions"]] for row in rows}


# --- three layouts, in three kinds of files ----------------------------------------------------------------------


def test_one_caption_a_row(folder):
    name = folder("file_name,caption,language\nclips/a.mp4,Ein Hund,de\nclips/a.mp4,Mbwa,sw\nclips/b.mp4,Katze,de\n")
    assert captions(name) == {"a": [("de", "Ein Hund"), ("sw", "Mbwa")], "b": [("de", "Katze")]}
    ids = [caption["caption_id"] for caption in open_own(name).rows("all")[0]["captions"]]
    assert len(set(ids)) == 2, "nobody says that they are translations of each other"


def test_one_column_for_each_language_holds_translations(folder):
    name = folder("video_id,de,caption_sw,zh_Hant\nv1,Ein Hund,Mbwa,狗\nv2,Katze,,\n")
    assert captions(name) == {"v1": [("de", "Ein Hund"), ("sw", "Mbwa"), ("zh-Hant", "狗")], "v2": [("de", "Katze")]}
    assert {caption["caption_id"] for caption in open_own(name).rows("all")[0]["captions"]} == {"0"}


def test_lists_of_captions_in_json_lines(folder):
    lines = [
        {"video_id": "a", "captions": [{"language": "de", "text": "Hund"}, {"language": "cz", "text": "pes"}]},
        {"video_id": "b", "captions": {"de": ["Katze", "Kater"], "sw": "Paka"}},
        {"video_id": "c", "de": ["Maus", "Nager"], "sw": ["Panya", "Mnyama"]},
    ]
    # U+2028 ends no line, and what is no caption is no language either
    lines[2]["de"][0] = "Maus\u2028grau"
    name = folder("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), "metadata.jsonl")
    assert captions(name) == {
        "a": [("de", "Hund"), ("cs", "pes")],
        "b": [("de", "Katze"), ("de", "Kater"), ("sw", "Paka")],
        "c": [("de", "Maus\u2028grau"), ("de", "Nager"), ("sw", "Panya"), ("sw", "Mnyama")],
    }


def test_parquet_keeps_numbers_that_are_ids(folder, tmp_path):
    name = folder("")
    (tmp_path / name / "metadata.csv").unlink()
    pq.write_table(pa.table({"video_id": [7, 8], "de": ["Hund", "Katze"]}), tmp_path / name / "metadata.parquet")
    assert captions(name) == {"7": [("de", "Hund")], "8": [("de", "Katze")]}


def test_csv_as_spreadsheets_write_it(folder):
    content = '\ufefffile_name,caption,language\r\n007.mp4,"Ein Hund, der\r\n""bellt""",de\r\n008.mp4,Katze,de\r\n'
    assert captions(folder(content)) == {
        "007": [("de", 'Ein Hund, der\r\n"bellt"')],
        "008": [("de", "Katze")],
    }


def test_columns_that_only_look_like_languages_hold_no_captions(folder):
    """`id`, `url`, `key` and `no` are codes of languages."""
    head = "video_id,id,no,url,key,fps,fil,en"
    name = folder(
        f"{head}\nv1,17,3,https://a.org/1,k1,25,Isang aso,A dog\nv2,18,4,https://a.org/2,k2,25,Isang pusa,Cat\n"
    )
    assert open_own(name).languages == ["en", "fil"]
    assert open_own(folder("video_id,id,en\nv1,Seekor anjing,A dog\n")).languages == ["en", "id"]


def test_columns_may_have_other_names(folder):
    name = folder("clip,German,sentence\nv1,Ein Hund,A dog\n")
    assert captions(name, columns={"video_id": "clip", "de": "German", "en": "sentence"}) == {
        "v1": [("de", "Ein Hund"), ("en", "A dog")]
    }
    # a column `caption` without `language`, as most datasets in English have it
    assert captions(folder("file_name,caption\na.mp4,A dog\n"), columns={"en": "caption"}) == {"a": [("en", "A dog")]}


# --- splits -------------------------------------------------------------------------------------------------------


def test_splits_of_a_column_keep_their_videos_and_may_be_called_otherwise(folder):
    own = open_own(folder("video_id,de,split\na,x,Train\nb,y,val\nc,z,test\nd,w,mine\n"))
    assert own.splits == ["train", "validation", "test", "mine"]
    assert [row["video_id"] for row in own.rows("validation")] == ["b"]
    assert own.protocol == "own splits"


def test_sub_folders_with_tables_of_their_own_are_splits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split, clip in (("train", "a"), ("test", "b")):
        (tmp_path / "my_folder" / split).mkdir(parents=True)
        (tmp_path / "my_folder" / split / "metadata.csv").write_text(f"file_name,de\n{clip}.mp4,Hund {clip}\n")
    own = open_own("my_folder")
    assert {video.video_id: (video.split, video.file_name) for video in own.videos} == {
        "a": ("train", "train/a.mp4"),
        "b": ("test", "test/b.mp4"),
    }


def test_without_a_column_the_seed_draws_the_splits_and_new_videos_move_no_other(folder, tmp_path):
    def drawn(count: int, seed: int = 0) -> dict[str, str]:
        own = open_own(folder("video_id,de\n" + "".join(f"v{n},Hund\n" for n in range(count))), split_seed=seed)
        assert own.protocol == f"hashed, seed {seed}"
        return {video.video_id: video.split for video in own.videos}

    few, more = drawn(500), drawn(1000)
    assert few == {name: more[name] for name in few}
    assert more != drawn(1000, seed=1)
    shares = {split: sum(found == split for found in more.values()) / 1000 for split in ("train", "validation", "test")}
    assert shares == pytest.approx({"train": 0.8, "validation": 0.1, "test": 0.1}, abs=0.04)  # 4 standard deviations
    own = open_own("my_folder")
    own.write_splits(tmp_path / "split.csv")
    assert (tmp_path / "split.csv").read_text().splitlines()[1] == f"v0,{drawn(1000)['v0']}"


# --- what load_dataset reads --------------------------------------------------------------------------------------


def test_parquet_that_was_built_by_this_package(tmp_path):
    raw, built = tmp_path / "raw", tmp_path / "built"
    write_small_msrvtt(raw)
    build("msrvtt", ["1k-A"], data_dir=raw, output_dir=built, option=["check_counts=false"])
    own = open_own(str(built / "1k-A"))
    assert own.splits == ["train", "validation", "test"] and own.languages == ["en"]
    assert own.rows("train")[0]["captions"][0]["source"] == "human"
    assert open_own(str(built), config="1k-A").rows("test") == own.rows("test")


def test_a_dataset_that_holds_its_videos(tmp_path):
    rows = {
        "video": [{"path": f"{name}.mp4", "bytes": name.encode()} for name in ("a", "a", "b")],
        "text": ["Ein Hund", "Noch ein Hund", "Eine Katze"],
    }
    features = Features({"video": Video(decode=False), "text": Value("string")})
    data = DatasetDict({split: Dataset.from_dict(rows, features=features) for split in ("train", "test")})
    for split, part in data.items():
        part.select(range(2) if split == "train" else [2]).to_parquet(
            tmp_path / "data" / f"{split}-00000-of-00001.parquet"
        )
    own = open_own(str(tmp_path), columns={"de": "text"})
    assert {video.video_id: (video.split, len(video.captions), video.cell.content()) for video in own.videos} == {
        "a": ("train", 2, b"a"),
        "b": ("test", 1, b"b"),
    }


def test_different_videos_of_one_name_are_not_taken_for_one(tmp_path):
    rows = {
        "video": [{"path": "v.mp4", "bytes": b"one"}, {"path": "v.mp4", "bytes": b"another"}],
        "de": ["Hund", "Maus"],
    }
    features = Features({"video": Video(decode=False), "de": Value("string")})
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    with pytest.raises(PolyvidError, match=r"split train, row 2: two videos have the id 'v': give each an id"):
        open_own(str(tmp_path))


def test_names_of_this_package_win_and_misspelt_ones_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert known_dataset("VTT") == "msrvtt" and known_dataset("lab/clips") is None
    (tmp_path / "msrvtt").mkdir()
    assert known_dataset("msrvtt") == "msrvtt" and known_dataset("./msrvtt") is None
    with pytest.raises(PolyvidError, match=r"Unknown dataset 'msrvt'.*metadata.csv.*Did you mean 'msrvtt'\?"):
        known_dataset("msrvt")


# --- commands that name a dataset ---------------------------------------------------------------------------------


def test_coverage_join_and_translations_take_a_folder(folder, tmp_path, capsys):
    name = folder("video_id,en,split\nv0,A dog,train\nv1,A cat,train\nv2,A mouse,test\n")
    write_features(tmp_path / "features", ["v0", "v2"])
    coverage(name, features=tmp_path / "features")
    assert "| train | 2 | 1 (50.0 %) | 2 | 1 |" in capsys.readouterr().out

    report = join(Path(name), tmp_path / "features", tmp_path / "joined")
    assert report["train"]["rows"] == 1 and report["train"]["without_features"] == ["v1"]
    [row] = pq.read_table(tmp_path / "joined" / "train-00000-of-00001.parquet").to_pylist()
    assert row["video_id"] == "v0" and row["num_seconds"] == 3 and row["captions"][0]["text"] == "A dog"

    lines = [{"video_id": "v0", "caption_id": "0", "language": "fr", "text": "Un chien", "source": "a-model@1"}]
    (tmp_path / "fr.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    data = DataRecipe(dataset=name, translations=str(tmp_path / "fr.jsonl"))
    [dog, cat] = load_videos(data, "train", ["en", "fr"])
    assert [caption["text"] for caption in dog["captions"]] == ["A dog", "Un chien"] and len(cat["captions"]) == 1


def test_a_folder_without_english_has_nothing_to_translate(folder, tmp_path):
    name = folder("video_id,de\nv0,Hund\n")
    with pytest.raises(PolyvidError, match="my_folder has no English captions to translate"):
        translate(name, ["fr"], output_dir=tmp_path / "out")


# --- bad input: one line, with file, row and column ---------------------------------------------------------------

HEAD = "file_name,caption,language,split\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,caption,language\na,b,de\n", r"metadata.csv has no column file_name or video_id.*it has name caption"),
        ("file_name,title\na.mp4,b\n", r"metadata.csv has no captions: it needs the columns caption and language"),
        ("file_name,de,sw\na.mp4,,\n", r"has no captions: nothing is written in any row of the columns de sw"),
        ("file_name,de,sw\na.mp4, ,\t\n", r"has no captions: nothing is written in any row of the columns de sw"),
        ("file_name,caption\na.mp4,b\n", r"column caption but no column language.*data.columns.en=caption"),
        (HEAD + "a.mp4,Hund,de,train\nb.mp4,Hund,xx,train\n", r"metadata.csv, line 3, column language: Unknown lang"),
        (
            HEAD + "a.mp4,Hund,de,train\na.mp4,Mbwa,sw,test\n",
            r"line 3: video 'a' is in the split 'test' here and in 't",
        ),
        (HEAD + "../a.mp4,Hund,de,train\n", r"line 2, column file_name: '../a.mp4' is not a file below the folder"),
        (HEAD + "/etc/a.mp4,Hund,de,train\n", r"line 2, column file_name: '/etc/a.mp4' is not a file below"),
        (HEAD + "https://a.org/a.mp4,Hund,de,train\n", r"is not a file below the folder"),
        (HEAD + "a.mp4, ,de,train\n", r"line 2, column caption: the caption is ' '"),
        (HEAD + "a.mp4,,de,train\n", r"line 2, column caption: the caption is empty"),
        ("file_name,de,sw\na.mp4,Hund,Mbwa\nb.mp4,,\n", r"line 3, column de sw: video 'b' has no caption here"),
        (HEAD + ",Hund,de,train\n", r"line 2, column file_name: nothing is written there"),
        (HEAD + "a.mp4,Hund,de,\n", r"line 2, column split: nothing is written there"),
        (HEAD + "x/a.mp4,Hund,de,train\ny/a.mp4,Hund,de,train\n", r"line 3: two videos have the id 'a', x/a.mp4 and y"),
        (HEAD + "a.mp4,Ein Hund, der bellt,de,train\n", r"line 2: 5 values for 4 columns.*double quotes"),
        (HEAD + "a.mp4,Hund\n", r"line 2: 2 values for 4 columns"),
        (HEAD + 'a.mp4,"Hund,de,train\n', r"line 2: not valid CSV"),
        ("file_name;caption;language\na.mp4;Hund;de\n", r"one column 'file_name;caption;language'.*by commas"),
        ("file_name,de,caption_de\na.mp4,x,y\n", r"the columns de and caption_de both hold captions in de"),
        ("file_name,de,de\na.mp4,x,y\n", r"has the column 'de' twice"),
        (",".join(map(str, range(200_000))) + "\n", r"metadata.csv has 200,000 columns: at most 1,000 are read"),
        (HEAD, r"metadata.csv holds no rows"),
        ("", r"metadata.csv holds no rows"),
        ("file_name,de\na.mp4,Gr\u00fc\u00dfe\n".encode("latin-1"), r"metadata.csv is not UTF-8"),
    ],
)
def test_a_wrong_table_is_refused_with_the_place(folder, content, message):
    with pytest.raises(PolyvidError, match=message) as caught:
        open_own(folder(content)).rows("all")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"video_id": "a", "de": "x"}\n{"video_id": \n', r"metadata.jsonl, line 2: not valid JSON"),
        ('["a"]\n', r"metadata.jsonl, line 1: expected"),
        ('{"video_id": "a", "captions": ["x"]}\n', r"line 1, column captions: .*data.columns.en=captions"),
        ('{"video_id": "a", "captions": {"de": ["x", ""]}}\n', r"line 1, column captions: the caption is empty"),
        ('{"video_id": "a", "de": 3, "sw": "x"}\n', r"line 1, column de: the caption is 3"),
        (
            '{"video_id": "a", "captions": [{"language": "de", "text": "x", "caption_id": {"$oid": 1}}]}\n',
            r"line 1, column captions: the caption_id of a caption is \{'\$oid': 1\}, no text",
        ),
    ],
)
def test_wrong_json_lines_are_refused_with_the_place(folder, content, message):
    with pytest.raises(PolyvidError, match=message):
        open_own(folder(content, "metadata.jsonl"), columns={"de": "de"} if '"de": 3' in content else None)


@pytest.mark.parametrize("key", ["file_name", "caption", "language", "split"])
@pytest.mark.parametrize("wrong, message", [("\\u0000", "a NUL character"), ("\\ud800", "half of a surrogate pair")])
def test_texts_that_no_file_and_no_tokenizer_can_take_are_named(folder, key, wrong, message):
    row = {"file_name": "a.mp4", "caption": "Ein Hund", "language": "de", "split": "test"}
    line = json.dumps(row).replace(f'"{key}": "', f'"{key}": "{wrong}')
    with pytest.raises(PolyvidError, match=f"metadata.jsonl, line 1, column '{key}': .*{message}"):
        open_own(folder(line, "metadata.jsonl"))


@pytest.mark.parametrize("date", [pa.array([2**62], pa.timestamp("us")), pa.array([2**30], pa.date32())])
def test_a_date_that_is_none_is_one_line(folder, tmp_path, date):
    table = pa.table({"file_name": ["a.mp4"], "de": ["Ein Hund"], "uploaded": date})
    name = folder("", "notes.txt")
    pq.write_table(table, Path(name) / "metadata.parquet")
    with pytest.raises(PolyvidError, match=r"metadata.parquet holds a value that cannot be read \(.*\): leave out its"):
        open_own(name)


def test_they_are_found_in_lists_of_captions_too(folder):
    row = {"file_name": "a.mp4", "captions": [{"language": "de", "text": "\ud800"}]}
    with pytest.raises(PolyvidError, match="line 1, column 'captions': it is not valid Unicode"):
        open_own(folder(json.dumps(row), "metadata.jsonl"))


def test_lists_a_hundred_thousand_deep_are_no_json(folder):
    with pytest.raises(PolyvidError, match="metadata.jsonl, line 1: not valid JSON"):
        open_own(folder('{"caption": ' + "[" * 100_000 + "]" * 100_000 + "}", "metadata.jsonl"))


def test_a_link_out_of_the_folder_is_not_built_into_a_dataset(folder, tmp_path):
    (tmp_path / "secret.txt").write_text("password")
    name = folder("file_name,caption,language,split\na.mp4,Ein Hund,de,test\n")
    (tmp_path / "my_folder" / "a.mp4").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(PolyvidError, match="line 2, column file_name: .*a.mp4 is a link to a file outside the folder"):
        build(name, ["default"], output_dir=tmp_path / "built")
    assert not (tmp_path / "built").exists() or not any((tmp_path / "built").rglob("*.parquet"))


def test_a_split_without_videos_is_refused_and_those_there_are_named(folder):
    name = folder("video_id,de,split\na,x,train\n")
    with pytest.raises(PolyvidError, match=r"no videos in the split 'test': choose from train all"):
        open_own(name).rows("test")


def test_a_folder_that_holds_nothing_of_the_kind(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(
        PolyvidError, match=r"no table of captions \(metadata.csv or metadata.jsonl or metadata.parquet\)"
    ):
        open_own(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no folder of captioned videos at"):
        open_own(str(tmp_path / "missing"))


def test_two_tables_in_a_folder_are_one_too_many(folder):
    folder("file_name,de\na.mp4,x\n")
    with pytest.raises(PolyvidError, match=r"has both metadata.csv and metadata.jsonl: keep one"):
        open_own(folder("{}", "metadata.jsonl"))
