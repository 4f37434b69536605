"""What is pushed is what the next person loads: against a Hub on this machine, over real HTTP."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic_howto100m as synthetic
import torch
from hub_server import HubServer
from huggingface_hub import ModelCard, constants
from published import EMOJI, write_model

from polyvid.dataset_scripts.build import build
from polyvid.hub_cards.publish.credentials import find_credential
from polyvid.hub_cards.publish.push import explained
from polyvid.train import cli
from tiny import tiny_model, tiny_processor

TOKEN, READER, STRANGER = "hf_alice" + "a" * 30, "hf_readr" + "r" * 30, "hf_other" + "o" * 30


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Alice may write to her own name and to `lab`, and is logged in."""
    with HubServer() as server:
        server.add_user("alice", TOKEN, {"lab": "write", "club": "read"})
        server.add_user("alice", READER, {"lab": "write"}, role="read")
        server.add_user("bob", STRANGER)
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its storage speaks another protocol
        monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf home"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    write_model(folder / "mmp", counted=False)
    for name in ("optimizer.pt", "progress.pt", ".env", "notes.txt"):
        (folder / "mmp" / name).write_text("secret")
    (folder / "mmp" / "checkpoints" / "step-00000001").mkdir(parents=True)
    (folder / "mmp" / "checkpoints" / "step-00000001" / "model.safetensors").write_bytes(b"")
    return folder / "mmp"


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    return synthetic.write_release(tmp_path_factory.mktemp("release"), 60)


@pytest.fixture
def dataset(release, tmp_path) -> Path:
    build("multi_howto100m", ["en", "de"], data_dir=release, output_dir=tmp_path / "built", num_shards=2)
    return tmp_path / "built"


@pytest.fixture
def push(monkeypatch, capsys):
    """`polyvid push ...` in this process: exit code, what it printed, what it said in error."""

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["polyvid", "push", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return run


def elsewhere(hub: HubServer, home: Path, code: str, *arguments, token: str | None = None) -> str:
    """What code prints in a fresh process with an empty cache, on a machine that never installed this package."""
    refuse = """
import sys
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "polyvid":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NotInstalled())
"""
    home.mkdir(exist_ok=True)
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "PATH": ""}
    environment |= {"HF_TOKEN": token} if token else {}
    command = [sys.executable, "-I", "-c", refuse + code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_model_goes_with_code_processor_recipes_and_card_and_without_the_trainers_state(hub, model, push):
    code, said, _ = push("model", model, "--repo-id", "lab/mmp", "--message", "First")
    assert code == 0 and f"{hub.endpoint}/lab/mmp/commit/" in said
    files = hub.files("models", "lab/mmp")
    code_files = {path.name for path in model.glob("*.py")}
    assert {"modeling_mmp.py", "pipeline_mmp.py", "sentence_transformer_mmp.py"} <= code_files
    assert set(files) == code_files | {
        *("config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"),
        *("recipe.yaml", "recipes/mmp_pretrain.yaml", "curves.png", "README.md", "LICENSE-code"),
        *("modules.json", "config_sentence_transformers.json"),
    }
    for name in ("model.safetensors", "config.json", "recipe.yaml", *code_files):
        assert files[name] == (model / name).read_bytes(), name
    assert b"Not evaluated." in files["README.md"] and b"Apache License" in files["LICENSE-code"]
    assert hub.repositories["models", "lab/mmp"].messages[-1] == "First"
    assert not (model / "README.md").exists()  # the folder itself is left as it is


def test_the_results_of_a_card_go_along(hub, model, push, tmp_path):
    scores = {"queries": 420, "R@1": 6.25, "R@5": 12.5, "R@10": 25.0, "MedR": 30.5, "MnR": 50.0, "MRR": 0.125}
    protocol = {"dataset": "fluent_emoji_9", "config": "split_0", "split": "test", "clips": 420}
    results = {"protocol": protocol, "scores": {"mmp": {"sw": scores}, "none": {"sw": scores | {"R@1": 1.25}}}}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(results))
    assert push("model", model, "--repo-id", "lab/mmp", "--results", tmp_path / "a")[0] == 0
    files = hub.files("models", "lab/mmp")
    kept = json.loads(files["results/fluent_emoji_9-split_0-test.json"])
    assert kept["scores"] == {"text_to_video": {"sw": scores}}  # of this model alone
    assert ModelCard(files["README.md"].decode()).data.eval_results[0].metric_value == 6.25
    code, _, error = push("model", model, "--repo-id", "lab/mmp", "--results", tmp_path)
    assert code == 1 and "is a second result for results/fluent_emoji_9-split_0-test.json" in error


def test_a_collection_holds_the_models_of_a_folder(hub, model, push):
    code, said, _ = push("collection", model.parent, "--repo-id", "lab/emoji", "--dry-run")
    assert code == 0 and "A collection lab/emoji would hold lab/emoji-mmp." in said and not hub.collections
    for _ in range(2):  # a second time, nothing is added
        code, said, error = push("collection", model.parent, "--repo-id", "lab/emoji", "--private")
        assert code == 0, error
        [(slug, collection)] = hub.collections.items()
        assert said.endswith(f"{hub.endpoint}/collections/{slug}\n")
        assert [item["id"] for item in collection["items"]] == ["lab/emoji-mmp"]  # not what it was pre-trained as
        assert collection["title"] == "emoji" and collection["private"]
    assert "model.safetensors" in hub.files("models", "lab/emoji-mmp")
    assert "There is no finished model in a folder of" in push("collection", model, "--repo-id", "lab/emoji")[2]
    assert "Which collection? Give its folder" in push("collection", "--repo-id", "lab/emoji")[2]


def test_a_dry_run_lists_what_would_go_and_asks_nobody(hub, model, dataset, push, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    for kind, source in (("model", model), ("dataset", dataset)):
        code, said, _ = push(kind, source, "--repo-id", "lab/thing", "--dry-run")
        *files, total, nothing = (line for line in said.splitlines() if not line.startswith("Left out"))
        sizes = {name: int(size.replace(",", "")) for size, name in (line.split() for line in files)}
        assert code == 0 and nothing == "Nothing was sent."
        assert total == f"{sum(sizes.values()):,} bytes in {len(sizes)} files, for lab/thing (main)"
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert hub.requests == []
        push(kind, source, "--repo-id", "lab/thing")
        pushed = hub.files(f"{kind}s", "lab/thing")
        assert sizes == {name: len(content) for name, content in pushed.items()}
        hub.requests.clear()


@pytest.mark.parametrize("kind", ["metric", "dataset"])
def test_private_and_public_and_revisions(hub, dataset, push, kind):
    source, repo_id, kinds = (
        ([], "lab/text_video_retrieval", "spaces") if kind == "metric" else ([dataset], "lab/d", "datasets")
    )
    push(kind, *source, "--repo-id", repo_id, "--private", "--revision", "draft")
    assert hub.repositories[kinds, repo_id].private
    assert hub.files(kinds, repo_id, "main") == {}
    assert "README.md" in hub.files(kinds, repo_id, "draft")
    asked = len(hub.stored), hub.files(kinds, repo_id, "draft")
    code, _, error = push(kind, *source, "--repo-id", repo_id, "--public")
    assert code == 1 and "exists and is private: change that in its settings" in error
    assert (len(hub.stored), hub.files(kinds, repo_id, "draft")) == asked and hub.files(kinds, repo_id, "main") == {}
    assert push(kind, *source, "--repo-id", repo_id)[0] == 0  # as it is
    assert hub.files(kinds, repo_id, "main") == hub.files(kinds, repo_id, "draft")


@pytest.mark.parametrize(
    "token, repo_id, message",
    [
        (None, "lab/text_video_retrieval", "No token: run `hf auth login`"),
        ("hf_wrong" + "w" * 30, "lab/text_video_retrieval", "does not accept the token: make one that may write at"),
        (READER, "lab/text_video_retrieval", "This token may not write to lab/text_video_retrieval: it needs"),
        (TOKEN, "club/text_video_retrieval", "and you need the right to write in club"),
        (STRANGER, "lab/text_video_retrieval", "and you need the right to write in lab"),
    ],
)
def test_who_may_not_push_is_told_in_one_line_what_to_do(hub, push, monkeypatch, token, repo_id, message):
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    code, said, error = push("metric", "--repo-id", repo_id)
    assert code == 1 and message in error and error.count("\n") == 1
    assert f"{hub.endpoint}/settings/tokens" in error
    assert not hub.repositories and (token is None or token not in said + error)


def test_a_private_repository_of_somebody_else_looks_as_if_one_may_not_write(hub, push, monkeypatch):
    push("metric", "--repo-id", "lab/text_video_retrieval", "--private")
    before = hub.files("spaces", "lab/text_video_retrieval")
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    code, _, error = push("metric", "--repo-id", "lab/text_video_retrieval")
    assert code == 1 and "This token may not write to lab/text_video_retrieval" in error
    assert hub.files("spaces", "lab/text_video_retrieval") == before


def test_a_hub_that_cannot_be_reached_is_one_line(hub, push, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, _, error = push("metric", "--repo-id", "lab/text_video_retrieval")
    assert code == 1 and error.count("\n") == 1
    assert "http://127.0.0.1:9 cannot be reached, or broke off" in error and "run the same command again" in error


def test_no_token_is_printed_or_written_or_published(hub, model, push):
    code, said, error = push("model", model, "--repo-id", "lab/mmp")
    assert code == 0 and TOKEN not in said + error
    assert not any(TOKEN.encode() in content for content in hub.files("models", "lab/mmp").values())
    assert not any(TOKEN.encode() in path.read_bytes() for path in model.rglob("*") if path.is_file())


@pytest.mark.parametrize("secret", [TOKEN, "hf_" + "Ab1" * 12])
def test_a_file_with_a_token_in_it_is_not_published(hub, push, tmp_path, secret):
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "README.md").write_text("---\nsdk: gradio\n---\n")
    (tmp_path / "space" / "app.py").write_text(f"import os\nlogin('{secret}')\n")
    code, said, error = push("space", tmp_path / "space", "--repo-id", "lab/demo")
    assert code == 1 and "error: app.py, line 2: this looks like an access token of Hugging Face. Remove it" in error
    assert secret not in said + error and hub.requests == []


PASSWORD = "correct-horse-battery"
CREDENTIALS = {  # put together here, so that no line of ours looks like one
    "an access key of AWS": "AKIA" + "Q7" * 8,
    "a secret key of AWS": "AWS_SECRET_ACCESS_KEY=" + "wJal/rX+" * 5,
    "a private key": "-----BEGIN " + "OPENSSH PRIVATE KEY-----",
    "a token of GitHub": "ghp_" + "a1B2" * 9,
    "a token of Slack": "xoxb-" + "1234567890-abcdef",
    "an API key of Google": "AIza" + "Sy_B3" * 7,
    "a password in an address": f"postgres://alice:{PASSWORD}@db.example.org/clips",
}


@pytest.mark.parametrize("name", CREDENTIALS)
def test_credentials_of_other_services_are_found_too(hub, push, tmp_path, name):
    (tmp_path / "README.md").write_text("---\nsdk: gradio\n---\n")
    (tmp_path / "app.py").write_text(f"# demo\n\nkey = '{CREDENTIALS[name]}'\n")
    code, said, error = push("space", tmp_path, "--repo-id", "lab/demo")
    assert code == 1 and f"app.py, line 3: this looks like {name}." in error and error.count("\n") == 1
    assert CREDENTIALS[name] not in said + error and hub.requests == []


@pytest.mark.parametrize(
    "text",
    [
        "https://user@example.org/x",
        "https://example.org:8080/@someone",
        "postgres://{user}:{password}@host",
        "ghp_ is how tokens of GitHub begin",
        "hf_hub_download('lab/mmp')",
    ],
)
def test_what_only_resembles_a_credential_is_none(text):
    assert find_credential(text.encode()) is None


def test_what_the_package_did_not_write_is_named_and_needs_include(hub, model, push):
    code, said, _ = push("model", model, "--repo-id", "lab/mmp")
    (line,) = (line for line in said.splitlines() if line.startswith("Left out"))
    assert code == 0 and ".env" in line and "notes.txt" in line
    assert push("model", model, "--repo-id", "lab/mmp", "--include", "notes.*")[0] == 0
    files = hub.files("models", "lab/mmp")
    assert files["notes.txt"] == b"secret" and not {".env", "optimizer.pt", "progress.pt"} & set(files)
    code, _, error = push("model", model, "--repo-id", "lab/mmp", "--include", "*.docx")
    assert code == 1 and "--include *.docx matches no file in" in error


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_what_lies_in_a_dataset_or_a_space_is_left_out_too(hub, dataset, push, tmp_path, kind):
    folder = dataset
    if kind == "space":
        (folder := tmp_path / "app").mkdir()
        (folder / "README.md").write_text("---\nsdk: gradio\n---\n")
        (folder / "app.py").write_text("")
    for name in (".env", "server.key", "passwords.txt"):
        (folder / name).write_text("secret")
    code, said, _ = push(kind, folder, "--repo-id", "lab/thing")
    assert code == 0 and "Left out (--include sends them): .env, passwords.txt, server.key" in said
    files = hub.files(f"{kind}s", "lab/thing")
    assert "README.md" in files and not any(b"secret" in content for content in files.values())


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_link_to_a_file_outside_is_refused(hub, dataset, push, tmp_path, kind):
    (tmp_path / "passwords.json").write_text("{}")
    if kind == "dataset":
        folder, name = dataset, "reports/passwords.json"
    else:
        folder, name = tmp_path / "folder", "README.md" if kind == "space" else "tokenizer.json"
        tiny_model().save_pretrained(folder)
    (folder / name).symlink_to(tmp_path / "passwords.json")
    code, _, error = push(kind, folder, "--repo-id", "lab/thing")
    assert code == 1 and f"{folder / name} is a link to {tmp_path / 'passwords.json'}, outside" in error
    assert hub.requests == []


def test_a_strangers_build_runs_only_on_request_and_never_in_a_dry_run(hub, push, tmp_path):
    source, ran = tmp_path / "app", tmp_path / "ran"
    source.mkdir()
    (source / "build.py").write_text(
        f"from pathlib import Path\nPath({str(ran)!r}).touch()\n"
        "def build(folder):\n    (Path(folder) / 'README.md').write_text('---\\nsdk: gradio\\n---\\n')\n"
    )
    for options, message in (
        ([], "read it, then push with --run-build to execute it"),
        (["--dry-run"], "read it, then push with --run-build to execute it"),
        (["--dry-run", "--run-build"], "A dry run executes nothing"),
    ):
        _, said, error = push("space", source, "--repo-id", "lab/demo", *options)
        assert message in said + error and not ran.exists() and hub.requests == [], options
    assert "A dry run executes nothing" in push("space", "--repo-id", "lab/demo", "--dry-run")[1]  # our own
    assert push("space", source, "--repo-id", "lab/demo", "--run-build")[0] == 0 and ran.exists()


class Broken(BaseHTTPRequestHandler):
    """A server that answers everything in the same way, such as a proxy's login page."""

    status, answer = 200, b""

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = self.answer.replace(b"<header>", self.headers.get("Authorization", "").encode())
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_PUT = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def broken(hub, monkeypatch):
    """Such a server in place of the Hub; set its `status` and `answer`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answer", (Broken,), {}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server.RequestHandlerClass
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("answer", [b"<html>Please log in</html>", b"", b"{}", b"[]", b"null", b'{"url": 3}'])
def test_a_server_that_is_no_hub_is_named_in_one_line(broken, push, answer):
    broken.answer = answer
    code, _, error = push("metric", "--repo-id", "lab/text_video_retrieval")
    assert code == 1 and error.count("\n") == 1, error
    assert f"{constants.ENDPOINT} does not answer like the Hub" in error


@pytest.mark.parametrize("length", [0, 150, 178, 190])
def test_a_server_that_repeats_the_token_does_not_get_it_printed_not_even_in_part(broken, push, length):
    """Wherever the message is cut: a token without its last letters is nearly a token."""
    broken.status, broken.answer = 400, b'{"error": "' + b"x" * length + b' <header>"}'
    code, said, error = push("metric", "--repo-id", "lab/text_video_retrieval")
    assert code == 1 and error.count("\n") == 1
    assert TOKEN[:12] not in said + error


def test_a_connection_that_breaks_is_taken_up_within_one_push(hub, model, push):
    hub.interrupt(1)
    assert push("model", model, "--repo-id", "lab/mmp")[0] == 0
    assert hub.reached.is_set() and "model.safetensors" in hub.files("models", "lab/mmp")


def test_pushing_again_sends_only_what_is_new(hub, model, push):
    push("model", model, "--repo-id", "lab/mmp")
    stored, commits = list(hub.stored), len(hub.repositories["models", "lab/mmp"].commits)
    assert push("model", model, "--repo-id", "lab/mmp")[0] == 0
    assert (hub.stored, len(hub.repositories["models", "lab/mmp"].commits)) == (stored, commits)


def test_shards_of_an_earlier_build_do_not_stay_next_to_the_new_ones(hub, dataset, release, push, tmp_path):
    push("dataset", dataset, "--repo-id", "lab/subtitles")
    assert "de/train-00001-of-00002.parquet" in hub.files("datasets", "lab/subtitles")
    build("multi_howto100m", ["de"], data_dir=release, output_dir=tmp_path / "again", num_shards=1)
    push("dataset", tmp_path / "again", "--repo-id", "lab/subtitles")
    shards = {name for name in hub.files("datasets", "lab/subtitles") if name.endswith(".parquet")}
    assert shards == {"de/train-00000-of-00001.parquet"}  # what the new card names


def test_a_space_is_what_its_build_script_makes_or_its_folder(hub, push, tmp_path):
    (tmp_path / "app" / "__pycache__").mkdir(parents=True)
    for name in ("app.py", "README.md", ".hidden", "__pycache__/app.pyc"):
        (tmp_path / "app" / name).write_text("---\nsdk: gradio\n---\n")
    assert push("space", tmp_path / "app", "--repo-id", "lab/demo")[0] == 0
    assert set(hub.files("spaces", "lab/demo")) == {"app.py", "README.md"}
    (tmp_path / "app" / "build.py").write_text(
        "import shutil\ndef build(folder):\n    shutil.copy(__file__.replace('build.py', 'README.md'), folder)\n"
    )
    assert push("space", tmp_path / "app", "--repo-id", "lab/built", "--run-build")[0] == 0
    assert set(hub.files("spaces", "lab/built")) == {"README.md"}
    assert hub.repositories["spaces", "lab/built"].sdk == "gradio"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["model", "--repo-id", "lab/x"], "Which model? Give its folder"),
        (["model", "{}/nowhere", "--repo-id", "lab/x"], "There is no folder"),
        (["model", "{}", "--repo-id", "lab/x"], "is not a finished model: config.json or *.safetensors is missing"),
        (["dataset", "{}", "--repo-id", "lab/x"], "holds no README.md: `polyvid build"),
        (["space", "{}", "--repo-id", "lab/x"], "is not a Space: README.md"),
        (["metric", "--repo-id", "lab/recall"], "name it <owner>/text_video_retrieval"),
        (["metric", "--repo-id", "text_video_retrieval"], "Name the owner"),
        (["metric", "--repo-id", "a/b/c"], "Repo id must be in the form"),
        (["metric", "--repo-id", "lab/text_video_retrieval", "--results", "x"], "for the card of a model"),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_anybody_is_asked(hub, push, tmp_path, arguments, message):
    code, _, error = push(*(argument.format(tmp_path) for argument in arguments))
    assert code == 1 and message in error and error.count("\n") == 1 and hub.requests == []


def test_a_folder_of_captioned_videos_is_built_first_and_the_line_says_how(hub, push, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_folder").mkdir()
    (tmp_path / "my_folder" / "metadata.csv").write_text("file_name,de\na.mp4,Ein Hund\n")
    code, _, error = push("dataset", "my_folder", "--repo-id", "lab/clips")
    assert code == 1 and error.count("\n") == 1 and hub.requests == []
    assert "`polyvid build my_folder default --output-dir out/my_folder`" in error
    assert "`polyvid push dataset out/my_folder --repo-id lab/clips`" in error


def test_refusing_an_unfinished_run_names_its_best_model(hub, push, tmp_path):
    (tmp_path / "checkpoints" / "best").mkdir(parents=True)
    assert f"its best model so far is {tmp_path}/checkpoints/best" in push("model", tmp_path, "--repo-id", "lab/x")[2]


def test_a_model_without_its_code_is_refused(hub, push, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "modeling_mmp.py").unlink()
    assert "lacks modeling_mmp.py, which config.json names" in push("model", tmp_path, "--repo-id", "lab/x")[2]


def test_a_video_backbone_brings_its_own_card(hub, push, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "r2plus1d"}')
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# R(2+1)D\n")
    assert push("model", tmp_path, "--repo-id", "lab/r2plus1d")[0] == 0
    assert hub.files("models", "lab/r2plus1d")["README.md"] == (tmp_path / "README.md").read_bytes()


@pytest.mark.slow
def test_the_embedded_benchmark_goes_with_clips_and_licences(hub, push, tmp_path):
    build("fluent_emoji_9", ["split_0"], data_dir=EMOJI, output_dir=tmp_path, num_shards=None)
    assert push("dataset", tmp_path, "--repo-id", "lab/emoji")[0] == 0
    files = hub.files("datasets", "lab/emoji")
    assert {"LICENSE-animations", "LICENSE-captions", "README.md", "split_0/test-00000-of-00001.parquet"} <= set(files)
    assert b"| `split_0` | `test` | 420 | 1 |" in files["README.md"]
    assert b"split_1" not in files["README.md"].split(b"---")[1]
    rows = pq.read_table(pa.BufferReader(files["split_0/test-00000-of-00001.parquet"])).to_pylist()
    (pizza,) = [row for row in rows if row["video_id"] == "1f355"]
    assert pizza["clip"] == (EMOJI / "clips" / "1f355.mp4").read_bytes()
    printed = elsewhere(hub, tmp_path / "home", LOAD_CLIPS, "lab/emoji", EMOJI / "clips")
    assert printed.splitlines() == ["Video", "150 clips as they are here"]


LOAD_CLIPS = """
from pathlib import Path
from datasets import Video, load_dataset

repo, clips = sys.argv[1:]
rows = load_dataset(repo, "split_0", split="validation")
print(type(rows.features["clip"]).__name__)
rows = rows.cast_column("clip", Video(decode=False))  # as the card says
same = [row["clip"]["bytes"] == (Path(clips) / f"{row['video_id']}.mp4").read_bytes() for row in rows]
assert all(same) and rows.features["captions"], rows.features
print(len(same), "clips as they are here")
"""


LOAD_MODEL = """
import torch
from transformers import AutoModel, AutoProcessor, pipeline

repo, inputs, output = sys.argv[1:]
given = torch.load(inputs)
model = AutoModel.from_pretrained(repo, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)
search = pipeline("text-to-video-retrieval", model=repo, trust_remote_code=True)
found = search(given["texts"][0], videos=given["videos"], top_k=2)
embeds = model.encode_texts(given["texts"], processor), model.encode_videos(given["videos"], processor)
torch.save({"embeds": embeds, "found": found, "module": type(model).__module__}, output)
"""


@pytest.mark.slow
def test_a_stranger_loads_the_model_in_three_lines(hub, model, push, tmp_path):
    push("model", model, "--repo-id", "lab/mmp")
    given = {"texts": ["der hund läuft", "a cat"], "videos": [torch.randn(seconds, 10) for seconds in (3, 8, 1)]}
    torch.save(given, tmp_path / "inputs.pt")
    elsewhere(hub, tmp_path / "home", LOAD_MODEL, "lab/mmp", tmp_path / "inputs.pt", tmp_path / "outputs.pt")
    loaded = torch.load(tmp_path / "outputs.pt")
    assert loaded["module"].startswith("transformers_modules.lab.mmp.")
    texts, videos = loaded["embeds"]
    torch.testing.assert_close(texts, tiny_model().encode_texts(given["texts"], tiny_processor()))
    torch.testing.assert_close(videos, tiny_model().encode_videos(given["videos"], tiny_processor()))
    assert len(loaded["found"]) == 2


LOAD_SENTENCE_TRANSFORMER = """
import torch
from sentence_transformers import SentenceTransformer

repo, inputs, output, copy = sys.argv[1:]
model = SentenceTransformer(repo, trust_remote_code=True, device="cpu")
given = torch.load(inputs)
inputs = [*given["texts"], *({"video": video} for video in given["videos"])]
torch.save(model.encode(inputs, convert_to_tensor=True), output)
model.save_pretrained(copy)
model[0].model.save_pretrained(copy + "_again", push_to_hub=True, repo_id="lab/again")
"""


@pytest.mark.slow
def test_a_stranger_loads_it_with_sentence_transformers(hub, model, push, tmp_path):
    pytest.importorskip("sentence_transformers", minversion="6")
    push("model", model, "--repo-id", "lab/mmp")
    card = hub.files("models", "lab/mmp")["README.md"]
    assert b'SentenceTransformer("lab/mmp", trust_remote_code=True)' in card
    given = {"texts": ["der hund läuft", "a cat"], "videos": [torch.randn(seconds, 10) for seconds in (3, 8, 1)]}
    torch.save(given, tmp_path / "inputs.pt")
    places = [tmp_path / name for name in ("inputs.pt", "outputs.pt", "copy")]
    elsewhere(hub, tmp_path / "home", LOAD_SENTENCE_TRANSFORMER, "lab/mmp", *places, token=TOKEN)
    texts, videos = torch.load(tmp_path / "outputs.pt").split([2, 3])
    torch.testing.assert_close(texts, tiny_model().encode_texts(given["texts"], tiny_processor()))
    torch.testing.assert_close(videos, tiny_model().encode_videos(given["videos"], tiny_processor()))
    copied = {path.name for path in (tmp_path / "copy").iterdir()}
    assert {path.name for path in model.glob("*.py")} <= copied
    assert (tmp_path / "copy" / "README.md").read_bytes() == card
    pushed_by_transformers = {"modules.json", "config_sentence_transformers.json", "model.safetensors"}
    assert (
        pushed_by_transformers | {path.name for path in model.glob("*.py")} <= hub.files("models", "lab/again").keys()
    )


LOAD_DATASET = """
import json
from datasets import load_dataset

repo, revision, output = sys.argv[1:]
german = load_dataset(repo, "de", split="train", revision=revision)
streamed = load_dataset(repo, "de", split="train", revision=revision, streaming=True)
english = load_dataset(repo, "en", split="train", revision=revision, streaming=True)
first = next(iter(english))
json.dump({"rows": list(german), "streamed": [row["video_id"] for row in streamed], "en": first}, open(output, "w"))
"""


@pytest.mark.slow
def test_a_member_loads_a_language_of_the_private_dataset_whole_and_streamed(hub, dataset, release, push, tmp_path):
    push("dataset", dataset, "--repo-id", "lab/subtitles", "--private", "--revision", "v1")
    output = tmp_path / "rows.json"
    elsewhere(hub, tmp_path / "home", LOAD_DATASET, "lab/subtitles", "v1", output, token=READER)
    loaded, truth = json.loads(output.read_text()), json.loads((release / "how2_de.json").read_text())
    assert {row.pop("video_id"): row for row in loaded["rows"]} == truth
    assert sorted(loaded["streamed"]) == sorted(truth)
    assert loaded["en"]["video_id"] in json.loads((release / "how2_en.json").read_text())


METRIC_SCORES = (
    "{'R@1': 50.0, 'R@5': 100.0, 'R@10': 100.0, 'MedR': 1.5, 'MnR': 1.5, 'MRR': 0.75, 'nDCG@10': 0.8154648767857288}"
)

LOAD_METRIC = """
import evaluate

metric = evaluate.load(sys.argv[1])
print(metric.compute(predictions=[[0.9, 0.1], [0.8, 0.3]], references=[0, 1]))
"""


@pytest.mark.slow
def test_the_metric_is_found_by_its_name(hub, push, tmp_path):
    push("metric", "--repo-id", "lab/text_video_retrieval")
    assert b'evaluate.load("lab/text_video_retrieval")' in hub.files("spaces", "lab/text_video_retrieval")["README.md"]
    assert hub.repositories["spaces", "lab/text_video_retrieval"].sdk == "gradio"
    printed = elsewhere(hub, tmp_path / "home", LOAD_METRIC, "lab/text_video_retrieval")
    assert printed.strip() == METRIC_SCORES


HOLD = """
import sys
from pathlib import Path
from polyvid.dataset_scripts.locking import locked
with locked(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(folder: Path, command: str):
    """Another process, a `command`, writes to the folder."""
    arguments = [sys.executable, "-c", HOLD, str(folder), command]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_folder_that_another_command_writes_is_not_pushed(hub, dataset, push, tmp_path):
    with held_elsewhere(dataset, "polyvid build") as first:
        for arguments in ((), ("--dry-run",)):
            code, _, error = push("dataset", dataset, "--repo-id", "lab/subtitles", *arguments)
            assert code == 1 and f"{dataset} is being written by `polyvid build` (process {first.pid} on " in error
    assert not hub.repositories
    best = tmp_path / "run" / "checkpoints" / "best"
    best.mkdir(parents=True)
    with held_elsewhere(tmp_path / "run", "polyvid train") as first:  # which replaces its best model now and then
        code, _, error = push("model", best, "--repo-id", "lab/best")
    assert code == 1 and f"is being written by `polyvid train` (process {first.pid} on " in error


def test_a_folder_is_locked_while_it_is_pushed(hub, dataset, push):
    """The shards that were listed are the shards that are sent: no build replaces them meanwhile."""
    refused = []

    def build_again(*_):
        arguments = [sys.executable, "-c", HOLD, str(dataset), "polyvid build"]
        refused.append(subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True).stderr)

    push_module = importlib.import_module("polyvid.hub_cards.publish.push")
    upload = push_module.upload
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(push_module, "upload", lambda *arguments: [build_again(), upload(*arguments)][1])
        assert push("dataset", dataset, "--repo-id", "lab/subtitles")[0] == 0
    assert "is being written by `polyvid push`" in refused[0]


def test_a_second_push_to_a_repository_is_refused_and_names_the_first(hub, dataset, push, tmp_path):
    command = [sys.executable, "-c", "from polyvid.train.cli import main; main()"]
    command += ["push", "dataset", str(dataset), "--repo-id", "lab/subtitles"]
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": constants.HF_HOME, "HF_HUB_DISABLE_XET": "1"}
    hub.interrupt(1, hold=True)
    first = subprocess.Popen(
        command, env=os.environ | environment | {"HF_TOKEN": TOKEN}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        while not hub.reached.wait(0.1):
            assert first.poll() is None, first.stderr.read()
        copy = shutil.copytree(dataset, tmp_path / "copy")
        code, _, error = push("dataset", copy, "--repo-id", "lab/subtitles")
        assert code == 1 and error.splitlines()[-1].startswith(
            f"error: `polyvid push dataset` (process {first.pid} on "
        )
        assert error.endswith("is sending files to lab/subtitles: wait until it has ended.\n")
    finally:
        first.kill()
        first.communicate()
        hub.released.set()
    hub.interrupt()
    assert push("dataset", copy, "--repo-id", "lab/subtitles")[0] == 0  # a killed push holds nothing


@pytest.mark.slow
def test_a_killed_push_resumes_and_sends_nothing_twice(hub, dataset, push, tmp_path):
    command = [sys.executable, "-c", "from polyvid.train.cli import main; main()"]
    command += ["push", "dataset", str(dataset), "--repo-id", "lab/subtitles"]
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    hub.interrupt(3, hold=True)  # of four shards
    process = subprocess.Popen(command, env=environment | {"HF_TOKEN": TOKEN, "PATH": ""}, stderr=subprocess.DEVNULL)
    while not hub.reached.wait(0.1):
        assert process.poll() is None, "it ended before it could be killed"
    process.kill()
    process.wait()
    hub.released.set()
    arrived = list(hub.stored)
    assert 2 <= len(arrived) <= 3 and hub.files("datasets", "lab/subtitles") == {}  # nothing half-published
    hub.interrupt()
    assert push("dataset", dataset, "--repo-id", "lab/subtitles")[0] == 0
    assert len(hub.stored) == len(set(hub.stored)) == 4 and hub.stored[: len(arrived)] == arrived
    files = hub.files("datasets", "lab/subtitles")
    for shard in dataset.rglob("*.parquet"):
        assert files[shard.relative_to(dataset).as_posix()] == shard.read_bytes()


def test_a_defect_of_this_package_is_not_blamed_on_the_hub():
    with pytest.raises(TypeError), explained("lab/x", "hf_token"):
        len(3)
