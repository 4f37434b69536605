"""Small files in the exact formats of C2KD's data pack and of the benchmarks after 2021."""

import json
import pickle
from pathlib import Path

import numpy as np

NINE = "de fr cs zh ru vi sw es en".split()
YOUCOOK2 = "de fr cz zh ru vi es en ja".split()  # the pack's own order and its name of Czech


def features(number: int, dim: int) -> np.ndarray:
    """Like CLIP's and S3D's: float32, one row a second, 3 to 6 of them."""
    return np.random.default_rng(number).normal(size=(3 + number % 4, dim)).astype(np.float32)


def write_c2kd(folder: Path, num_train: int = 4, num_test: int = 3, protocol: int = pickle.DEFAULT_PROTOCOL) -> Path:
    """The unpacked folders `msrvtt/{clip,s3d}`, `vatex/clip`, `youcook2/{clip,s3d}` and `rudder/clip`."""

    def dump(path: str, videos: list[dict]) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(pickle.dumps(videos, protocol=protocol))

    spectrogram = {"audio": np.zeros((40, 12), np.float32)}
    for network, key, dim in (("clip", "2d", 6), ("s3d", "s3d", 8)):
        train = [
            {f"caption_{code}": [f"{code} {k} of {n}" for k in range(20)] for code in NINE} for n in range(num_train)
        ]
        test = [{f"eval_caption_{code}": f"{code} of {n}" for code in NINE} for n in range(7010, 7010 + num_test)]
        for name, start, videos in (("train", 0, train), ("jsfusion_test", 7010, test)):
            entries = [
                {"id": f"video{start + n}", key: features(n, dim)} | spectrogram | video
                for n, video in enumerate(videos)
            ]
            dump(f"msrvtt/{network}/msrvtt_{name}_multilingual.pkl", entries)
    for name, count, many in (("train", num_train, True), ("test", num_test, False)):
        entries = []
        for n in range(count):
            texts = {
                code: [f"{code} {k} of {n}" for k in range(10)] if many else f"{code} of {n}" for code in ("en", "zh")
            }
            captions = {f"{'' if many else 'eval_'}caption_{code}": text for code, text in texts.items()}
            entries.append({"id": f"{name}abc{n}_000001_000011", "2d": features(n, 6)} | captions)
        dump(f"vatex/clip/vatex_{name}_multilingual.pkl", entries)
    for network, key, dim, suffix in (("clip", "2d_raw", 6, ""), ("s3d", "s3d", 8, "_fixed")):
        for name, count, end in (("train", num_train, ""), ("val", num_test, suffix)):
            entries = [
                {"id": n, "caption": f"en of {n}", key: features(n, dim)}
                | spectrogram
                | {f"caption_{code}": f"{code} of {n}" for code in YOUCOOK2}
                for n in range(count)
            ]
            dump(f"youcook2/{network}/youcook_{name}_audio_multilingual{end}.pkl", entries)
    for name, count in (("train", num_train), ("test", num_test)):
        entries = []
        for n in range(count):
            codes = ("hi", "mr", "ta") if n == 0 else ("en", "hi", "mr", "ta", "te", "kn", "ml")
            captions = {code: f"{code} of {n}" for code in codes}
            audios = {code: np.zeros((40, 9), np.float32) for code in codes}
            entries.append({"id": f"{name}{n}", "2d": features(n, 6), "captions": captions, "audios": audios})
        dump(f"rudder/clip/rudder_{name}.pkl", entries)
    return folder


def write_xm3600(folder: Path, languages: list[str], num_images: int, total: int) -> None:
    """`total` captions: two of each image in each language, but for the last ones, which have one."""
    missing = 2 * num_images * len(languages) - total
    with open(folder / "captions.jsonl", "w", encoding="utf-8") as lines:
        for number in range(num_images):
            image = {"image/key": f"{number:016x}", "image/locale": "sw"}
            for language in languages:
                missing, count = (missing - 1, 1) if missing > 0 else (missing, 2)
                captions = [f"{language} {k} of {number}" for k in range(count)]
                image[language] = {"caption": captions, "caption/tokenized": captions}
            lines.write(json.dumps(image, ensure_ascii=False) + "\n")


def write_activitynet(folder: Path, num_train: int, num_val: int) -> None:
    for name, count in (("train", num_train), ("val_1", num_val)):
        content = {
            f"v_{name}{number:05d}": {
                "duration": 82.73,
                "timestamps": [[0.83, 19.86], [17.37, 60.81]],
                "sentences": [f"A man sits down in {number}.", " He stands up again. "],
            }
            for number in range(count)
        }
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def write_didemo(folder: Path, counts: dict[str, int], listed: bool = True) -> None:
    """`counts`: "train", "val", "test" -> videos, each with two moments, and one more that no list names."""
    for split, count in counts.items():
        names = [f"{number}@N02_{split}_0af7c6.{'mov' if number % 2 else 'avi'}" for number in range(count)]
        moments = [
            {"annotation_id": k, "video": name, "description": f"moment {k} of {name[0]}", "times": [[k, k]]}
            for k in range(2)
            for name in (*names, *(["unlisted.mpg"] if listed else []))
        ]  # fmt: skip
        (folder / f"{split}_data.json").write_text(json.dumps(moments), encoding="utf-8")
        if listed:
            (folder / f"{split}_list.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def write_lsmdc(folder: Path, num_test: int) -> None:
    times = "00.00.51.926\t00.00.54.129\t00.00.51.926\t00.00.54.129"
    train = [f"0001_American_Beauty_00.00.{n}\t{times}\tSOMEONE turns {n}." for n in (51, 52)]
    train += [train[0].replace("turns", "smiles"), f"1014_2012_00.01.21\t{times}\t"]  # twice a clip; none
    test = [f'1010_TITANIC_{n:06d}\t{times}\tSOMEONE sees "it", {n}.' for n in range(num_test)]
    for name, lines in (
        ("LSMDC16_annos_training", train),
        ("LSMDC16_annos_val", train[1:2]),
        ("LSMDC16_challenge_1000_publictect", test),
    ):
        (folder / f"{name}.csv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
