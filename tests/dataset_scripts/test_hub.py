"""A name that is neither here nor on the Hub, or a Hub that cannot be reached, is one line within seconds."""

import socket

import datasets
import pytest
from hub_server import HubServer
from huggingface_hub import constants

from polyvid.dataset_scripts import hub
from polyvid.dataset_scripts.hub import check_source
from polyvid.train import cli

NOBODY = "http://127.0.0.1:9"  # the port `discard`, where nothing listens


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", NOBODY)
    hub._ask.cache_clear()


def test_the_line_says_what_was_looked_for_where_and_what_to_check(tmp_path):
    with pytest.raises(ConnectionError) as caught:
        check_source("nosuch", "model")
    assert f"There is no model at 'nosuch' in {tmp_path}, nor in the cache of the Hub, and {NOBODY}" in str(
        caught.value
    )
    assert str(caught.value).endswith("check the name, the network and HF_ENDPOINT.")


def test_a_hub_that_does_not_answer_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(hub, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ConnectionError, match="cannot be reached"):
            check_source("lab/model", "model")


def test_a_hub_that_must_not_be_asked_is_not(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="There is no model at 'lab/model' .* HF_HUB_OFFLINE is set"):
        check_source("lab/model", "model")


def test_what_is_here_or_in_the_cache_needs_no_network(tmp_path):
    (tmp_path / "model").mkdir()
    check_source("model", "model")
    for kind in ("model", "dataset"):
        (tmp_path / "cache" / f"{kind}s--lab--one").mkdir(parents=True)
        check_source("lab/one", "thing", kind)
    (tmp_path / "datasets" / "lab___two").mkdir(parents=True)
    check_source("lab/two", "dataset", "dataset")
    with pytest.raises(FileNotFoundError, match="There is no model at './lab/one'"):
        check_source("./lab/one", "model")


def test_a_hub_that_answers_is_asked_once(monkeypatch):
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        check_source("lab/model", "model")
        check_source("lab/clips", "dataset", "dataset")
        assert [method for method, _ in server.requests] == ["HEAD"]


@pytest.mark.parametrize(
    "command",
    [
        ["check", "my_folder", "--model", "nosuch"],
        ["check", "lab/clips"],
        ["evaluate", "--model", "nosuch", "--benchmark", "my_folder"],
        ["train", "--config", "own", "data.dataset=my_folder", "model.init_from=nosuch"],
    ],
)
def test_commands_say_it_at_once(command, tmp_path, capsys):
    """The libraries alone try for minutes, say so on many lines, and name no model."""
    (tmp_path / "my_folder").mkdir()
    (tmp_path / "my_folder" / "metadata.csv").write_text("video_id,de\na,Ein Hund\nb,Eine Katze\n", encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        cli.main(command)
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 1 and "\n" not in error
    assert f"and {NOBODY} cannot be reached" in error and "check the name, the network" in error
