"""Multi30K: Flickr30K images with captions in English, German, French and Czech (paper §5.1, Table 7).

Official files, in `data_dir`, in any folders, plain or gzipped: `train.en`, `val.en`, `test_2016_flickr.en` and the
same in `de fr cs` (task 1: one English caption, translated); `train.1.en` … `train.5.en`, `val.…`, `test_2016.…` and
the same in `de` (task 2: five captions each, written independently); the image lists `train.txt`, `val.txt`,
`test_2016_flickr.txt`. A row's `video_id` is the image's name without `.jpg`.
"""

from polyvid.dataset_scripts.benchmark import BenchmarkBuilder, Row, configs, human, read_lines
from polyvid.modeling.errors_mmp import PolyvidError

TASK1_NAMES = {"train": "train", "validation": "val", "test": "test_2016_flickr"}
TASK2_NAMES = {"train": "train", "validation": "val", "test": "test_2016"}


class Multi30K(BenchmarkBuilder):
    """Caption ids are `en1 … en5`, `de1 … de5` for descriptions; a translation has the id of the English original.

    The task 1 English caption is always one of the five of task 2 (checked), so French and Czech are aligned with it
    in the protocol `both`. The German translations of task 1 are left out there: German has its own descriptions.
    """

    BENCHMARK = "multi30k"
    BUILDER_CONFIGS = configs("multi30k")
    DEFAULT_CONFIG_NAME = "both"

    def read_split(self, split: str, languages: list[str]) -> list[Row]:
        task1, task2 = TASK1_NAMES[split], TASK2_NAMES[split]
        images = [line.removesuffix(".jpg") for line in read_lines(self.find_file(f"{task1}.txt")) if line]
        if self.config.name == "task1":
            texts = {language: self._read(f"{task1}.{language}", images) for language in languages}
            return [
                {"video_id": image, "captions": [human("pair", language, texts[language][k]) for language in languages]}
                for k, image in enumerate(images)
            ]
        described = {
            language: [self._read(f"{task2}.{number}.{language}", images) for number in range(1, 6)]
            for language in languages
            if language in ("en", "de")
        }
        translated = {
            language: self._read(f"{task1}.{language}", images) for language in languages if language in ("fr", "cs")
        }
        originals = self._originals(task1, task2, images) if translated else []
        rows = []
        for k, image in enumerate(images):
            captions = [
                human(f"{language}{number}", language, texts[k])
                for language, columns in described.items()
                for number, texts in enumerate(columns, 1)
            ]
            captions += [human(originals[k], language, texts[k]) for language, texts in translated.items()]
            rows.append({"video_id": image, "captions": captions})
        return rows

    def _read(self, name: str, images: list[str]) -> list[str]:
        file = self.find_file(name)
        lines = read_lines(file)
        if len(lines) != len(images):
            raise PolyvidError(f"{file}: {len(lines):,} captions for {len(images):,} images; lines must correspond.")
        return lines

    def _originals(self, task1: str, task2: str, images: list[str]) -> list[str]:
        """For each image the id of the description that task 1 translates."""
        columns = [self._read(f"{task2}.{number}.en", images) for number in range(1, 6)]
        originals = []
        for k, text in enumerate(self._read(f"{task1}.en", images)):
            numbers = [number for number, texts in enumerate(columns, 1) if texts[k].strip() == text.strip()]
            if not numbers:
                raise PolyvidError(
                    f"{self.find_file(f'{task1}.en')}, line {k + 1}: not one of the five task 2 captions of the image; "
                    "the files of the two tasks are of different (tokenised?) versions."
                )
            originals.append(f"en{numbers[0]}")
        return originals
