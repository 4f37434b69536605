"""How far the text backbone gets without any video: English captions, found with those in other languages."""

import numpy as np
from sklearn.metrics.pairwise import cosine_similarity

from polyvid.train.scoring.results import text_ceiling_row
from polyvid.train.scoring.sentences import SentenceVectors
from polyvid.train.scoring.text_ceilings import text_ceilings
from tiny import WORDS, tiny_model, tiny_processor


def video(number, **captions):
    rows = [
        {"caption_id": str(index), "language": language, "text": text, "source": "human"}
        for language, texts in captions.items()
        for index, text in enumerate(texts)
    ]
    return {"video_id": f"video{number}", "captions": rows}


def embed_letters(offset_of_others=0.0):
    """A sentence vector that counts letters; texts that start with "~" lie elsewhere, as other languages do."""

    def embed(texts):
        counts = np.array([[text.count(letter) for letter in "abcdefgh"] for text in texts], float)
        return counts + offset_of_others * np.array([[text.startswith("~")] for text in texts])

    return embed


def test_a_caption_is_found_at_the_rank_of_the_best_english_one_of_its_video():
    videos = [
        video(0, en=["a", "ab"], de=["~ab"]),
        video(1, en=["c"], de=["~cd"]),
        video(2, en=["cdd"], de=["~ff"]),
        video(3, en=["g"]),
    ]
    found = text_ceilings(embed_letters(), videos, ["en", "de", "fr"])
    assert list(found) == ["de"]  # English is what is searched; there is no French
    # by hand: letters of each English caption less their mean, cosines with the German ones less theirs
    english = np.array([[1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0],
                        [0, 0, 1, 2, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, 0]], float)  # fmt: skip
    german = np.array([[1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 2, 0, 0]], float)
    cosines = cosine_similarity(german - german.mean(0), english - english.mean(0))
    of_english = np.array([0, 0, 1, 2, 3])
    expected = [
        1 + int((row[of_english != target] >= row[of_english == target].max() - 1e-6).sum())
        for target, row in enumerate(cosines)
    ]
    assert found["de"].ranks.tolist() == expected and expected[0] == 1 and expected[2] > 1
    assert found["de"].video_ids.tolist() == ["video0", "video1", "video2"]


def test_a_language_that_lies_elsewhere_is_centred():
    texts = ["ab", "cd", "ef", "gh"]
    videos = [video(number, en=[text], de=[f"~{text}"]) for number, text in enumerate(texts)]
    for offset in (0.0, 100.0):
        assert text_ceilings(embed_letters(offset), videos, ["de"])["de"].ranks.tolist() == [1, 1, 1, 1]


def test_videos_without_english_and_blank_captions_are_left_out():
    videos = [video(0, en=["a"], de=["~a", " "]), video(1, de=["~b"]), video(2, en=[""], de=["~c"])]
    assert text_ceilings(embed_letters(), videos, ["de"])["de"].video_ids.tolist() == ["video0"]
    assert text_ceilings(embed_letters(), videos[1:], ["de"]) == {}


def test_a_backbone_finds_captions_that_are_the_same_in_both_languages():
    texts = [" ".join(WORDS[number : number + 3]) for number in range(0, 12, 2)]
    videos = [video(number, en=[text], de=[text]) for number, text in enumerate(texts)]
    found = text_ceilings(SentenceVectors(tiny_model(), tiny_processor()), videos, ["de"])
    assert found["de"].scores()["R@1"] == 100.0


def test_the_row_of_a_table_leaves_english_empty():
    row = text_ceiling_row({"de": {"R@1": 60.0}, "sw": {"R@1": 20.0}}, ["en", "de", "sw"])
    assert row == ["text ceiling", "", "60.0", "20.0", "40.0"]
