"""Small files in the exact formats of the four benchmarks, so that their builders are tested without the real data."""

import csv
import gzip
import json
from pathlib import Path

from polyvid.dataset_scripts.building import load_builder

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
"""Real data, where they are next to the checkout."""


def write_msrvtt(folder: Path, parts: dict[str, range], captions_per_video: int = 20, merged: bool = False) -> None:
    """`parts`: "train", "validate", "test" -> numbers of its videos. `sen_id` runs through all, shuffled a bit."""
    videos, sentences = [], []
    for part, numbers in parts.items():
        for number in numbers:
            videos.append({"video_id": f"video{number}", "split": part, "category": 3, "id": number, "url": "-"})
            for k in range(captions_per_video):
                sen_id = (number * captions_per_video + k) ^ 1
                text = f"caption {k} of clip {number}"
                sentences.append({"caption": text, "video_id": f"video{number}", "sen_id": sen_id})
    files = {"MSRVTT_data.json": set(parts)} if merged else {}
    files = files or {"train_val_videodatainfo.json": {"train", "validate"}, "test_videodatainfo.json": {"test"}}
    for name, wanted in files.items():
        chosen = [video for video in videos if video["split"] in wanted]
        ids = {video["video_id"] for video in chosen}
        content = {
            "info": {"year": "2016"},
            "videos": chosen,
            "sentences": [sentence for sentence in sentences if sentence["video_id"] in ids],
        }
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def write_small_msrvtt(folder: Path, merged: bool = False) -> Path:
    """Six training, two validation and four test videos, of which 9 and 11 are on the 1k-A list."""
    folder.mkdir()
    write_msrvtt(folder, {"train": range(0, 6), "validate": range(6, 8), "test": range(8, 12)}, merged=merged)
    write_test_pairs(folder, [9, 11])
    return folder


def write_test_pairs(folder: Path, numbers: list[int]) -> None:
    """The 1k-A list: the pair of a video is its official caption 2."""
    with open(folder / "MSRVTT_JSFUSION_test.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["key", "vid_key", "video_id", "sentence"])
        for row, number in enumerate(numbers):
            table.writerow([f"ret{row}", f"msr{number}", f"video{number}", f"caption 2 of clip {number}"])


def write_vatex(folder: Path, num_train: int, num_validation: int) -> list[str]:
    """Returns the ids of the validation videos."""
    ids = {}
    for name, count in (("training", num_train), ("validation", num_validation)):
        ids[name] = [f"{name[0]}{number:07d}abc_000010_000020" for number in range(count)]
        content = [
            {
                "videoID": video_id,
                "enCap": [f"English {k} of {video_id}" for k in range(10)],
                "chCap": [f"{video_id}的第{k}句" for k in range(10)],
            }
            for video_id in ids[name]
        ]
        text = json.dumps(content, ensure_ascii=False)
        (folder / f"vatex_{name}_v1.0.json").write_text(text, encoding="utf-8")
    return ids["validation"]


def write_multi30k(folder: Path, num_images: dict[str, int]) -> None:
    """`num_images`: "train", "val", "test" -> count. Task 1 translates description 3 of the image."""

    def write(name, lines):
        with gzip.open(folder / f"{name}.gz", "wt", encoding="utf-8", newline="") as file:
            file.writelines(f"{line}\n" for line in lines)

    for split, count in num_images.items():
        task1, task2 = ("test_2016_flickr", "test_2016") if split == "test" else (split, split)
        (folder / f"{task1}.txt").write_text("".join(f"{split}{k}.jpg\n" for k in range(count)), encoding="utf-8")
        for number in range(1, 6):
            write(f"{task2}.{number}.en", [f"English {number} of {split}{k}" for k in range(count)])
            # U+2028 ends a line for str.splitlines, but not in these files.
            write(f"{task2}.{number}.de", [f"Deutsch {number}\u2028zu {split}{k}" for k in range(count)])
        write(f"{task1}.en", [f"English 3 of {split}{k}" for k in range(count)])
        for language in ("de", "fr", "cs"):
            write(f"{task1}.{language}", [f"{language} 3 of {split}{k}" for k in range(count)])


def write_msvd(folder: Path, num_videos: int) -> None:
    """Two English captions (in both releases of them), one of them over two lines, and one Chinese, for each clip."""
    clips = [f"yt-{number}_id_{number}_{number + 9}" for number in range(1, num_videos + 1)]
    lines = [f"{clip} vid{number}\n" for number, clip in enumerate(clips, 1)]
    (folder / "youtube_mapping.txt").write_text("".join(lines), encoding="utf-8")
    with open(folder / "video_corpus.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        header = ["VideoID", "Start", "End", "WorkerID", "Source", "AnnotationTime", "Language", "Description"]
        table.writerow(header)
        for number in range(1, num_videos + 1):
            clip = [f"yt-{number}_id", number, number + 9, 588702, "clean", 55]
            table.writerow([*clip, "English", f"A person, number {number}"])
            table.writerow([*clip, "Slovene", "Oseba"])
            table.writerow([*clip, "English", f"Someone\n{number}"])
            table.writerow([*clip, "English", ""])
    (folder / "AllVideoDescriptions.txt").write_text(
        "# Microsoft Research Video Description Corpus\n\n"
        + "".join(f"{clip} a person\n{clip} someone is here\n" for clip in clips),
        encoding="utf-8",
    )
    lines = [f"{number},vid{number}.mp4,第{number}个视频\n" for number in range(num_videos, 0, -1)]
    text = "id,video_id,sentence\n" + "".join(lines)
    (folder / "msvd_cn_captions_release_utf8.csv").write_text(text, encoding="utf-8")


def read(name, folder, config=None, **options):
    """Split -> {video id -> captions as (id, language, text, source)}, without converting anything."""
    builder = load_builder(name)(config_name=config, data_dir=str(folder), **options)
    return {
        str(split.name): {
            row["video_id"]: [(c["caption_id"], c["language"], c["text"], c["source"]) for c in row["captions"]]
            for _, row in builder._generate_examples(**split.gen_kwargs)
        }
        for split in builder._split_generators(None)
    }


def small(name, folder, config=None, **options):
    """`read`, for files that are smaller than the protocol."""
    return read(name, folder, config, check_counts=False, **options)
