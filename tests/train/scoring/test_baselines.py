"""The closed-form baselines, against the same formulas written out in numpy."""

import numpy as np
import pytest
import torch

from polyvid.train.recipe import DataRecipe
from polyvid.train.scoring.baselines import Baseline, SentenceSpace, captions_of_runs, root_of_means
from polyvid.train.scoring.sentences import SentenceVectors
from tiny import tiny_model, tiny_processor

pytest.importorskip("sklearn")

DIM, WIDTH = 6, 8  # of features and of sentence vectors


def clip(video_id, *captions):
    return {
        "video_id": video_id,
        "captions": [{"caption_id": kind, "language": language, "text": text} for language, kind, text in captions],
    }


@pytest.fixture
def data():
    """40 clips with an English and a German name whose vectors follow the features; the last 20 are searched."""
    generator = np.random.default_rng(0)
    videos = [clip(f"v{i}", ("en", "name", f"en {i}"), ("de", "name", f"de {i}")) for i in range(40)]
    features = {f"v{i}": generator.random((1 + i % 3, DIM)).astype(np.float32) for i in range(40)}
    mixing = generator.normal(size=(DIM, WIDTH))
    vectors = {}
    for i in range(40):
        mean = np.sqrt(features[f"v{i}"].mean(0)) @ mixing
        vectors[f"en {i}"] = 5 + mean + 0.1 * generator.normal(size=WIDTH)
        vectors[f"de {i}"] = -5 + mean + 0.2 * generator.normal(size=WIDTH)
    return videos[:20], videos[20:], features, lambda texts: np.stack([vectors[text] for text in texts])


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def whitened(centred, training):
    values, directions = np.linalg.eigh(np.cov(training.T, bias=True))
    return unit(centred @ directions @ np.diag(values**-0.25) @ directions.T)


@pytest.mark.parametrize("kind", ["ridge", "kernel_ridge"])
def test_scores_are_those_of_the_closed_form(data, kind):
    training, test, features, embed = data
    baseline = Baseline(kind, training, training, features, embed)

    def inputs(videos):
        return np.stack([np.sqrt(features[video["video_id"]].mean(0)) for video in videos])

    texts = {language: embed([f"{language} {i}" for i in range(20)]) for language in ("en", "de")}
    centres = {language: vectors.mean(0) for language, vectors in texts.items()}
    together = np.concatenate([texts[language] - centres[language] for language in texts])
    targets = unit(sum(whitened(texts[language] - centres[language], together) for language in texts))
    mean, deviation = inputs(training).mean(0), inputs(training).std(0)
    x, z = (inputs(training) - mean) / deviation, (inputs(test) - mean) / deviation
    if kind == "ridge":
        shift = targets.mean(0)
        weights = np.linalg.inv(x.T @ x + baseline.penalty * np.eye(DIM)) @ x.T @ (targets - shift)
        predicted = z @ weights + shift
    else:

        def distances(a, b):
            return ((a[:, None] - b[None]) ** 2).sum(-1)

        gamma = 2 / np.median(distances(x, x)[np.triu_indices(20, 1)])
        weights = np.linalg.inv(np.exp(-gamma * distances(x, x)) + baseline.penalty * np.eye(20)) @ targets
        predicted = np.exp(-gamma * distances(z, x)) @ weights
    for language, scores in baseline.scores(test).items():
        queries = whitened(embed([f"{language} {i}" for i in range(20, 40)]) - centres[language], together)
        cosines = queries @ unit(predicted).T
        ranks = (cosines >= np.diag(cosines)[:, None]).sum(1)
        assert scores["queries"] == 20
        assert scores["R@1"] == pytest.approx(100 * (ranks <= 1).mean())
        assert scores["R@5"] == pytest.approx(100 * (ranks <= 5).mean())
        assert scores["R@5"] > 50  # chance is 25: something was learned


def test_the_penalty_is_chosen_on_the_validation_captions_alone(data):
    training, test, features, embed = data
    wrong = [{**video, "captions": other["captions"]} for video, other in zip(test, test[::-1], strict=True)]
    penalties = [Baseline("ridge", training, chosen, features, embed).penalty for chosen in (test, wrong)]
    assert penalties[0] != penalties[1]


def test_a_language_without_training_captions_is_centred_by_the_known_centres():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(30, WIDTH))
    space = SentenceSpace(vectors, ["en"] * 15 + ["de"] * 15)
    middle = (vectors[:15].mean(0) + vectors[15:].mean(0)) / 2
    np.testing.assert_allclose(space(vectors, "sw"), unit((vectors - middle) @ space.whitening))


def test_the_captions_are_those_of_each_run():
    videos = [clip("a", ("en", "name", "ewe"), ("en", "keywords", "wool"), ("de", "name", "Schaf"))]
    english = DataRecipe(languages=["en"], caption_kinds=["name"])
    every = DataRecipe(languages=["en", "de"])
    [first, second] = captions_of_runs([(english, videos), (every, videos)])
    assert [caption["text"] for caption in first["captions"]] == ["ewe"]
    assert [caption["text"] for caption in second["captions"]] == ["ewe", "wool", "Schaf"]


def test_negative_features_keep_their_sign_under_the_root():
    features = {"a": np.array([[4.0, -9.0], [4.0, -9.0]]), "b": np.array([[0.0, -1.0], [2.0, -1.0]])}
    np.testing.assert_allclose(root_of_means(features, ["a", "b"]), [[2, -3], [1, -1]])


def test_a_sentence_vector_is_the_mean_of_the_backbones_output_over_the_tokens():
    model, processor = tiny_model(freeze_below=3), tiny_processor()
    texts = ["the dog runs in park", "cat"]
    found = SentenceVectors(model, processor)(texts)
    for text, vector in zip(texts, found, strict=True):
        ids = torch.tensor([processor.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            hidden = model.text_model(input_ids=ids).last_hidden_state[0]
        np.testing.assert_allclose(vector, hidden.mean(0).numpy(), atol=1e-5)
