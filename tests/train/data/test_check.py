"""`polyvid check`: what is wrong with captioned videos before anything is trained on them."""

import shutil

import pytest
from video_files import write_video

from polyvid.train import cli
from tiny import tiny_model, tiny_processor

GERMAN = "Ein kleiner brauner Hund läuft schnell durch den großen grünen Garten"
ENGLISH = "A small brown dog runs quickly through the large green garden of the old house"


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """A function that checks `my_folder` (six videos, de and sw) and returns the exit code and what was shown."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_folder").mkdir()
    lines = ["file_name,de,split"]
    for number, split in enumerate(["train", "train", "train", "validation", "test", "test"]):
        write_video(tmp_path / "my_folder" / f"v{number}.mp4", num_frames=3 + number, fps=4)
        lines.append(f"v{number}.mp4,{GERMAN} {number},{split}")
    (tmp_path / "my_folder" / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def run(*options: str) -> tuple[int, str]:
        code = 0
        try:
            cli.main(["check", "my_folder", *options])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, capsys.readouterr().out

    return run


def replace(folder, old: str, new: str) -> None:
    table = folder / "my_folder" / "metadata.csv"
    table.write_text(table.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


def test_sound_data_pass_with_a_table_and_what_the_recipe_will_do(check):
    code, shown = check()
    assert code == 0 and "problem" not in shown
    assert "my_folder/metadata.csv: 6 videos, 6 captions" in shown and "| test | 2 | 2 |" in shown
    assert "Training: 3 videos, 3 captions in de; 1 step an epoch, at most 30 epochs." in shown
    assert "Splits: in the table. Output: outputs/own." in shown


def test_missing_and_broken_videos_are_problems(check, tmp_path):
    (tmp_path / "my_folder" / "v1.mp4").unlink()
    (tmp_path / "my_folder" / "v2.mp4").write_bytes(b"no video")
    code, shown = check()
    assert code == 1
    assert "problem: there is no file for 1 of 6 videos: v1.mp4." in shown
    assert "problem: 1 video cannot be read: v2 (" in shown
    assert "2 problems: training or scores would be wrong." in shown


def test_names_that_a_terminal_would_obey_are_escaped(check, tmp_path):
    (tmp_path / "my_folder" / "v2.mp4").rename(tmp_path / "my_folder" / "\x1b]0;yours\x07.mp4")
    replace(tmp_path, "v2.mp4", "\x1b]0;yours\x07.mp4")
    (tmp_path / "my_folder" / "\x1b]0;yours\x07.mp4").write_bytes(b"no video")
    replace(tmp_path, "train", "\x1b[2Jtrain")
    shown = check()[1]
    assert r"\x1b]0;yours\x07" in shown and r"| \x1b[2jtrain |" in shown and "\x1b" not in shown


def test_one_file_in_two_splits_is_a_problem_and_twice_in_one_a_hint(check, tmp_path):
    shutil.copy(tmp_path / "my_folder" / "v0.mp4", tmp_path / "my_folder" / "v5.mp4")
    shutil.copy(tmp_path / "my_folder" / "v1.mp4", tmp_path / "my_folder" / "v2.mp4")
    code, shown = check()
    assert code == 1
    assert "problem: 1 file is in two splits under different names: v0 (train) = v5 (test)." in shown
    assert "hint: 1 file is there twice: v1 = v2." in shown


def test_a_caption_in_two_splits_is_a_hint(check, tmp_path):
    replace(tmp_path, f"{GERMAN} 5", f"{GERMAN} 0")
    code, shown = check()
    assert code == 0 and "hint: 1 caption is in two splits" in shown


def test_a_split_that_training_needs_is_a_problem(check, tmp_path):
    replace(tmp_path, "validation", "train")
    code, shown = check()
    assert code == 1 and "problem: no video is in the split 'validation'" in shown


def test_captions_in_another_language_than_they_say_are_a_hint(check, tmp_path):
    pytest.importorskip("py3langid")
    replace(tmp_path, f"{GERMAN} 3", ENGLISH)
    assert f"hint: 1 caption marked de may be in another language: '{ENGLISH}' (en)." in check()[1]
    replace(tmp_path, "file_name,de", "file_name,sw")
    assert "hint: the captions marked sw (Swahili) look like de." in check()[1]


def test_captions_that_would_be_cut_are_counted_with_the_models_tokenizer(check, tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    assert "are cut" not in check("--model", "model")[1]
    replace(tmp_path, f"{GERMAN} 3", "hund " * 120)
    assert (
        "hint: 1 caption is cut to data.max_text_length=96 tokens (the longest has 122)" in check("--model", "model")[1]
    )


def test_a_dataset_of_this_package_has_another_command(check, capsys):
    with pytest.raises(SystemExit):
        cli.main(["check", "vtt"])
    assert "`polyvid coverage` counts its videos" in capsys.readouterr().err
