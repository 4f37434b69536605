"""Table 8, Fig. 5 and Fig. 6 of a built dataset, against counting with a loop and a regular expression."""

import json
import re
from collections import Counter

import pytest
import synthetic_howto100m as synthetic
from PIL import Image

from polyvid.dataset_scripts.build import build
from polyvid.dataset_scripts.statistics import statistics
from tiny import tiny_model, tiny_processor

NUM_VIDEOS = 40
LANGUAGES = ("en", "de", "ru")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Words and runs of punctuation are its tokens."""
    folder = tmp_path_factory.mktemp("tokenizer") / "words"
    tiny_processor().tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return synthetic.write_release(tmp_path_factory.mktemp("release"), NUM_VIDEOS, LANGUAGES)


def counted_by_hand(language: str) -> dict:
    videos = [value for _, value in synthetic.videos(language, NUM_VIDEOS)]
    tokens = [[len(re.findall(r"\w+|[^\w\s]+", text)) for text in video["text"]] for video in videos]
    per_video, per_subtitle = [0] * 100, [0] * 60
    for video in tokens:
        per_video[min(sum(video) // 50, 99)] += 1
        for count in video:
            per_subtitle[min(count, 59)] += 1
    return {
        "videos": len(videos),
        "subtitles": sum(map(len, tokens)),
        "tokens": sum(map(sum, tokens)),
        "tokens_per_video": per_video,
        "tokens_per_subtitle": per_subtitle,
    }


@pytest.mark.parametrize("configs", [LANGUAGES, ("all",)])
def test_card_has_the_statistics(release, tokenizer, tmp_path, configs):
    """The same from one config per language and from the joined one."""
    build(
        "multi_howto100m",
        list(configs),
        data_dir=release,
        output_dir=tmp_path,
        num_shards=2,
        option=["languages=en,de,ru"],
    )
    statistics(tmp_path, tokenizer=tokenizer)
    card = (tmp_path / "README.md").read_text()
    for language, name in zip(LANGUAGES, ("English", "German", "Russian"), strict=True):
        expected = counted_by_hand(language)
        counts = json.loads((tmp_path / "statistics" / f"{language}.json").read_text())
        assert {key: counts[key] for key in expected} == expected
        assert f"| {name} | {expected['videos']:,} | {expected['subtitles']:,} | {expected['tokens']:,} |" in card
    languages = Counter(sum(synthetic.has_subtitles(lang, n) for lang in LANGUAGES) for n in range(NUM_VIDEOS))
    assert f"Videos by number of languages: 3: {languages[3]}, 2: {languages[2]}" in card
    assert "Tokens are those of `words`" in card and "Run `polyvid statistics`" not in card
    for picture in re.findall(r"!\\[.*\\]\\((.*)\\)", card):
        assert Image.open(tmp_path / picture).size[0] > 500


def test_languages_beyond_the_papers_are_counted_and_come_last(tokenizer, tmp_path):
    release = synthetic.write_release(tmp_path / "release", 12, ("pt-BR", "hi", "en"))
    options = ["languages=pt-BR,hi,en"]
    build("multi_howto100m", ["all"], data_dir=release, output_dir=tmp_path / "built", num_shards=2, option=options)
    statistics(tmp_path / "built", tokenizer=tokenizer)
    card = (tmp_path / "built" / "README.md").read_text(encoding="utf-8").split("<!-- statistics -->")[1]
    assert re.findall(r"^\| ([^|]+) \| \d", card, re.MULTILINE) == ["English", "Hindi", "Portuguese (Brazil)"]


def test_counting_again_counts_only_what_changed(release, tokenizer, tmp_path, capsys):
    build("multi_howto100m", ["en"], data_dir=release, output_dir=tmp_path)
    statistics(tmp_path, tokenizer=tokenizer)
    first = (tmp_path / "statistics" / "en.json").stat().st_mtime_ns
    build("multi_howto100m", ["de"], data_dir=release, output_dir=tmp_path)
    statistics(tmp_path, tokenizer=tokenizer)
    assert (tmp_path / "statistics" / "en.json").stat().st_mtime_ns == first
    card = (tmp_path / "README.md").read_text()
    assert card.count("<!-- statistics -->") == 1 and "| German |" in card
    assert "config_name: de" in card, "a card that is there keeps its text, and lists new configs"


def test_what_cannot_be_counted_is_said(release, tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no language of Multi-HowTo100M"):
        statistics(tmp_path, tokenizer=tokenizer)
    build("multi_howto100m", ["de"], data_dir=release, output_dir=tmp_path)
    (tmp_path / "README.md").write_text("# A card without the section\n")
    with pytest.raises(ValueError, match="README.md lacks the section"):
        statistics(tmp_path, tokenizer=tokenizer)


def test_the_tokenizer_of_a_model_is_loaded_once_and_without_a_question(release, tmp_path, monkeypatch):
    """A model's folder names its own code; the package has that code, so nobody is asked whether to run it."""
    tiny_processor().tokenizer.save_pretrained(tmp_path / "model")
    tiny_model().save_pretrained(tmp_path / "model")
    build("multi_howto100m", list(LANGUAGES), data_dir=release, output_dir=tmp_path / "built")
    monkeypatch.setattr("builtins.input", lambda prompt="": pytest.fail(prompt))
    statistics(tmp_path / "built", tokenizer=str(tmp_path / "model"))
