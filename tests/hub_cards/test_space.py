"""The demo app: built from three small models that really know eight clips, then used as its visitors do."""

import http.client
import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import gradio
import httpx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from polyvid.dataset_scripts.building import load_builder, write_json
from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.hub_cards.space import build as build_module
from polyvid.hub_cards.space.build import build
from polyvid.hub_cards.space.screenshot import find_browser, open_browser, serve, wait_for
from polyvid.modeling import MMPConfig, MMPFeatureExtractor, MMPModel, MMPProcessor, nce_loss
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.data.videos import VideoFeatures
from polyvid.train.extraction.extract import extract
from tiny import BACKBONES, SPECIAL

ROOT = Path(__file__).parents[2]
CLIPS = ROOT / "dataset_scripts" / "fluent_emoji_9" / "clips"
# hamburger, ewe, camel, automobile, crying cat, pea pod, green book, shield: clips of the test split
KNOWN = ("1f354", "1f411", "1f42b", "1f697", "1f63f", "1fadb", "1f4d7", "1f6e1")
SWAHILI_FOR_EWE = "kondoo"


def names_of(video_ids):
    """video id → language → name, read from the dataset itself."""
    rows = {row["video_id"]: row for row in load_builder("fluent_emoji_9")().as_streaming_dataset(split="test")}
    return {
        video_id: {c["language"]: c["text"] for c in rows[video_id]["captions"] if c["caption_id"] == "name"}
        for video_id in video_ids
    }


def processor_for(texts, features):
    """Whole words as tokens, features normalised as the demo does."""
    seconds = np.concatenate(list(features)).astype(np.float32)
    mean, std = seconds.mean(0).tolist(), (seconds.std(0) + 0.1).tolist()
    split = pre_tokenizers.Whitespace()
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict(zip(names, SPECIAL, strict=True)))
    extractor = MMPFeatureExtractor(feature_size=1280, max_length=36, feature_mean=mean, feature_std=std)
    return MMPProcessor(extractor, fast), len(vocabulary)


def train(model, processor, names, features, languages, steps=60):
    """Overfits the model to the names of a few clips in these languages, by the loss of Eq. 2."""
    batch = processor(videos=[features[video_id] for video_id in names], return_tensors="pt")
    texts = {code: processor(text=[n[code] for n in names.values()], return_tensors="pt") for code in languages}
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(steps):
        video_embeds = model.get_video_features(**batch).pooler_output
        text_embeds = model.get_text_features(**texts[languages[step % len(languages)]]).pooler_output
        optimizer.zero_grad()
        nce_loss(text_embeds, video_embeds).backward()
        optimizer.step()


@pytest.fixture(scope="module")
def demo_dir(tmp_path_factory):
    """What `make demo` leaves, for eight clips: real features; MMP knows nine languages, MP English, none nothing."""
    demo, clips = tmp_path_factory.mktemp("demo"), tmp_path_factory.mktemp("clips")
    for video_id in KNOWN:
        (clips / f"{video_id}.mp4").symlink_to(CLIPS / f"{video_id}.mp4")
    extract(clips, demo / "features", ["efficientnet-lite0"], num_shards=1, workers=0)
    features, names = VideoFeatures(demo / "features"), names_of(KNOWN)
    processor, words = processor_for([n for by in names.values() for n in by.values()], features.values())
    shape = BACKBONES["bert"] | {"vocab_size": words}
    config = dict(output_layer=2, freeze_below=0, embed_dim=32, video_feature_dim=1280, pooler_dropout=0.0)
    for name, languages in (("none", ()), ("mp", ("en",)), ("mmp", LANGUAGES)):
        torch.manual_seed(0)
        model = MMPModel(MMPConfig(text_config=shape, **config)).eval()
        if languages:
            train(model, processor, names, features, languages, steps=20 + 10 * len(languages))
        model.save_pretrained(demo / name)
        processor.save_pretrained(demo / name)
        (demo / name / "trainer_state.json").write_text("{}")
    scores = {name: {"en": {"R@1": 10.0}, "de": {"R@1": 5.0}, "sw": {"R@1": 2.0}} for name in ("none", "mp", "mmp")}
    better = scores | {"mmp": {"en": {"R@1": 11.0}, "de": {"R@1": 7.0}}}
    write_json(
        demo / "results.json",
        {"scores": scores, "baselines": {"ridge": better}},
    )
    return demo


@pytest.fixture(scope="module")
def space(demo_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "space"
    build(folder, demo_dir)
    return folder


@pytest.fixture(scope="module")
def app(space):
    """The app as the built folder runs it, without its page."""
    sys.path.insert(0, str(space))
    modules = ("app", "render", "search", "decoding", "watch", "limits", "look")
    try:
        module = importlib.import_module("app")
        yield module.App(importlib.import_module("search").Demo(space))
    finally:
        sys.path.remove(str(space))
        for name in modules:
            sys.modules.pop(name, None)


def shown(page):
    """The clips of a results page, in order."""
    return [part.split('"')[0] for part in page.split('data-id="')[1:]]


# ── the folder ──


def test_a_built_folder_holds_what_the_app_needs_and_nothing_of_the_training(space, demo_dir):
    assert {path.name for path in space.iterdir()} == {
        *(
            "README.md",
            "requirements.txt",
            "app.py",
            "search.py",
            "render.py",
            "decoding.py",
            "watch.py",
            "limits.py",
            "look.py",
        ),
        *(
            "style.css",
            "LICENSE-animations",
            "LICENSE-captions",
            "clips",
            "clips.json",
            "models",
            "video_embeds.safetensors",
        ),
        *("frame_encoder.pt2", "frame_encoder.json"),
    }
    assert {path.stem for path in (space / "clips").iterdir()} == set(KNOWN)
    for name in ("none", "mp", "mmp"):
        expected = {path.name for path in (demo_dir / name).iterdir()} - {"trainer_state.json"}
        assert {path.name for path in (space / "models" / name).iterdir()} == expected
    content = json.loads((space / "clips.json").read_text(encoding="utf-8"))
    assert {clip["video_id"]: clip["names"] for clip in content["clips"]} == names_of(KNOWN)
    assert sorted(example["language"] for example in content["examples"]) == sorted(LANGUAGES)


def test_the_page_shows_the_scores_of_the_demo_beside_those_of_regressions(app):
    table = sys.modules["render"].scores_table(app.demo.scores, 420)
    rows = [re.sub("<[^>]+>", " ", row).split() for row in table.split("<tr>")[2:]]
    assert ["MMP", "trained", "10.0", "3.5"] in rows
    assert ["MMP", "ridge", "regression", "11.0", "7.0"] in rows
    assert len(rows) == 6
    assert "chance 0.2" in table


def test_without_results_of_the_demo_the_page_shows_no_scores(app):
    assert sys.modules["render"].scores_table([], 420) == ""


def test_clips_keep_their_frames_and_times_in_the_codec_every_browser_plays(space):
    for video_id in KNOWN:
        with av.open(str(CLIPS / f"{video_id}.mp4")) as source, av.open(str(space / f"clips/{video_id}.mp4")) as clip:
            assert clip.streams.video[0].codec_context.name == "h264"
            before, after = list(source.decode(video=0)), list(clip.decode(video=0))
            assert [frame.time for frame in after] == pytest.approx([frame.time for frame in before])
            for old, new in zip(before, after, strict=True):
                error = old.to_ndarray(format="rgb24").astype(float) - new.to_ndarray(format="rgb24")
                assert np.abs(error).mean() < 4


def test_without_a_finished_demo_the_message_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none/model.safetensors is missing\): run `make demo` first"):
        build(tmp_path / "space", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_to_run_first(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `make demo` first"):
        build_module.demo_app(tmp_path)


def test_clips_without_features_are_counted(demo_dir, capsys):
    assert len(build_module._test_clips(demo_dir / "features")) == len(KNOWN)
    assert f"{420 - len(KNOWN)} of 420 test clips have no features" in capsys.readouterr().out


def test_a_folder_with_something_else_is_left_alone(tmp_path, demo_dir):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="holds no demo app"):
        build(tmp_path, demo_dir)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_build_that_fails_leaves_the_earlier_one(tmp_path, demo_dir, monkeypatch):
    folder = tmp_path / "space"
    folder.mkdir()
    (folder / "clips.json").write_text("the earlier one")

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(build_module, "_to_h264", full_disk)
    with pytest.raises(OSError, match="no space left"):
        build(folder, demo_dir)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".space.lock", "space"]
    assert (folder / "clips.json").read_text() == "the earlier one"


HOLD = """
import sys
from polyvid.dataset_scripts.locking import locked

with locked(sys.argv[1], "polyvid demo-app"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_build_of_one_folder_is_refused_while_the_first_is_at_work(tmp_path, demo_dir):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "space")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(PolyvidError, match=f"process {first.pid} "):
            build(tmp_path / "space", demo_dir)
        first.stdin.close()
    assert not (tmp_path / "space").exists()


def test_the_space_asks_for_the_versions_the_project_is_tested_with():
    folder = ROOT / "hub_cards" / "space"
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    asked = (folder / "requirements.txt").read_text()
    required = dict(line.split("==") for line in asked.replace("[mcp]", "").split())
    assert "gradio[mcp]==" in asked  # agents search there, too
    assert required == {name: pins[name] for name in required}
    header = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert header["sdk_version"] == pins["gradio"] and (folder / header["app_file"]).is_file()
    assert len(header["short_description"]) <= 60  # the Hub's limit


# ── the search ──


def test_every_clip_is_found_by_its_name_in_nine_languages_only_by_the_model_that_knows_them(app):
    for video_id in KNOWN:
        ranks = app.demo.rank_by_name(video_id)
        assert [ranks[language]["mmp"] for language in LANGUAGES] == [1] * 9
        assert ranks["en"]["mp"] == 1
    swahili = [app.demo.rank_by_name(video_id)["sw"] for video_id in KNOWN]
    assert any(ranks["mp"] > 1 for ranks in swahili) and any(ranks["none"] > 1 for ranks in swahili)


def test_scores_are_the_cosines_of_the_models_of_the_demo(app, demo_dir):
    features = VideoFeatures(demo_dir / "features")
    for name in ("none", "mp", "mmp"):
        model, processor = MMPModel.from_pretrained(demo_dir / name), MMPProcessor.from_pretrained(demo_dir / name)
        text = model.get_text_features(**processor(text=SWAHILI_FOR_EWE, return_tensors="pt")).pooler_output
        ranking = app.demo.searchers[name].rank_by_texts([SWAHILI_FOR_EWE])[0]
        assert len(ranking) == len(KNOWN)
        for hit in ranking:
            video = model.get_video_features(
                **processor(videos=features[hit["video_id"]], return_tensors="pt")
            ).pooler_output
            assert hit["score"] == pytest.approx(F.cosine_similarity(text, video).item(), abs=2e-3)


@pytest.mark.parametrize(
    "query, language",
    [
        (SWAHILI_FOR_EWE, "sw"),
        ("  Grünes   BUCH ", "de"),  # a name, however it is written
        ("auto", "de"),  # German and Czech both call it so
        ("a woman is reading a book in the park", "en"),
        ("der Hund läuft durch den Wald", "de"),
        ("une femme mange dans la rue", "fr"),
        ("žena jede na kole", "cs"),
        ("女人在公园里跑步", "zh"),
        ("женщина бежит по парку", "ru"),
        ("người phụ nữ chạy trong công viên", "vi"),
        ("mwanamke anakimbia kwenye bustani", "sw"),
        ("una mujer corre por el parque", "es"),
    ],
)
def test_the_language_of_a_query(app, query, language):
    found = app.demo.language_of(query)
    assert found == language or (query == "auto" and found == "cs")


def test_an_uploaded_clip_finds_itself_by_the_features_it_was_indexed_with(app, demo_dir):
    indexed = VideoFeatures(demo_dir / "features")
    for video_id in KNOWN[:3]:
        path = str(CLIPS / f"{video_id}.mp4")
        features = app.demo.video_features(path).numpy()
        np.testing.assert_allclose(features, indexed[video_id].astype(np.float32), rtol=1e-2, atol=2e-3)
        assert shown(app.find_by_video(path, "mmp", "auto"))[0] == video_id


# ── the page ──


def test_a_swahili_query_shows_the_right_clip_first_with_its_swahili_name(app):
    page = app.find_by_words(SWAHILI_FOR_EWE, "mmp", "auto")
    assert shown(page)[0] == "1f411" and len(shown(page)) == len(KNOWN)
    first = page.split("<figure")[1]
    assert '<strong lang="sw">kondoo</strong>' in first and '<small lang="en">ewe</small>' in first
    assert "right clip" in first and "read as Kiswahili" in page and "right clip at rank 1" in page
    for names in names_of(["1f411"]).values():
        assert all(f">{name}<" in page for name in names.values())


def test_clips_are_named_in_the_language_asked_for(app):
    page = app.find_by_words(SWAHILI_FOR_EWE, "mmp", "zh")
    assert '<strong lang="zh">母羊</strong>' in page and "read as" not in page


def test_a_query_without_letters_is_of_no_language(app):
    for query in ("🍕", "2 + 2", "???"):
        assert "read as" not in app.find_by_words(query, "mmp", "auto")
        assert app.demo.language_of(query) == "en"


def test_side_by_side_has_the_three_models_in_order(app):
    page = app.find_by_words(SWAHILI_FOR_EWE, "all", "auto")
    assert [part.split('"')[0] for part in page.split('data-model="')[1:]] == ["none", "mp", "mmp"]
    alone = {name: shown(app.find_by_words(SWAHILI_FOR_EWE, name, "auto"))[:6] for name in ("none", "mp", "mmp")}
    assert shown(page) == [*alone["none"], *alone["mp"], *alone["mmp"]]


def test_what_visitors_type_is_shown_as_text(app):
    page = app.find_by_words('<script>alert("x")</script>', "mmp", "auto")
    assert "<script>" not in page and "&lt;script&gt;" in page


@pytest.mark.parametrize("query", ["", "   ", None])
def test_nothing_typed_asks_for_words(app, query):
    assert "Type a few words" in app.find_by_words(query, "mmp", "auto")


def test_programs_are_offered_the_two_searches_alone(app):
    endpoints = app.blocks().get_api_info()["named_endpoints"]
    assert list(endpoints) == ["/find_with_words", "/find_with_video"]
    parameters = [each["parameter_name"] for tool in endpoints.values() for each in tool["parameters"]]
    assert parameters == ["query", "video"]


def test_programs_get_the_clips_that_the_page_shows(app, demo_dir):
    hits = app.find_with_words(SWAHILI_FOR_EWE)
    assert [hit["clip"] for hit in hits][:6] == shown(app.find_by_words(SWAHILI_FOR_EWE, "mmp", "auto"))[:6]
    assert hits[0]["clip"] == "1f411" and hits[0]["name"] == "ewe" and 0 < hits[0]["score"] <= 1
    [again, *_] = app.find_with_video(str(app.demo.folder / "clips" / "1f411.mp4"))
    assert again["clip"] == "1f411"


@pytest.mark.parametrize("query", ["", " ", "ab " * 100, "\ud800"])
def test_programs_are_refused_what_the_page_refuses(app, query, tmp_path):
    with pytest.raises(gradio.Error, match="Type a few words|at most 200 are read|not valid Unicode"):
        app.find_with_words(query)
    (tmp_path / "letter.mp4").write_text("Dear reader")
    with pytest.raises(gradio.Error, match="This file cannot be read: not a video"):
        app.find_with_video(str(tmp_path / "letter.mp4"))
    with pytest.raises(gradio.Error, match="Upload a video"):
        app.find_with_video(None)


def test_a_file_that_is_no_video_is_refused_with_the_reason(app, tmp_path):
    (tmp_path / "letter.mp4").write_text("Dear reader")
    assert "This file cannot be read: not a video" in app.find_by_video(str(tmp_path / "letter.mp4"), "mmp", "auto")
    assert "Upload a video" in app.find_by_video(None, "mmp", "auto")


# ── in a browser, with the package out of reach as on the Hub ──

ON_THE_HUB = """
import runpy, sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "polyvid":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
sys.path.insert(0, "")
runpy.run_path("app.py", run_name="__main__")
"""
FIRST = "return document.querySelector('{} .clip')?.dataset.id"
ORDER = "return [...document.querySelectorAll('#by-words .clip')].map(clip => clip.dataset.id)"


@pytest.fixture(scope="module")
def address(space):
    with serve(space, ["-c", ON_THE_HUB]) as address:
        yield address


WIDE_FONT = """
    const style = document.createElement('style');
    style.textContent = '* { letter-spacing: .12em !important }';
    document.head.append(style)
"""
CUT_OFF = """
    const outside = box => box.width == 0 || box.left < 0 || box.right > document.documentElement.clientWidth;
    return [...document.querySelectorAll('#kind label, #model label, #search, .chips button')]
        .filter(control => outside(control.getBoundingClientRect()) || control.scrollWidth > control.clientWidth + 1)
        .map(control => control.innerText)
"""
needs_browser = pytest.mark.skipif(
    find_browser() is None, reason="no Chromium: apt-get install chromium chromium-driver"
)


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("width", [1280, 768, 390])
def test_in_a_browser_every_control_is_in_sight_whatever_the_width_of_letters(address, width):
    with open_browser(width) as browser:
        browser.get(address)
        wait_for(browser, "return document.querySelector('#by-words .clip')")
        for font in ("", WIDE_FONT):
            browser.execute_script(font)
            assert browser.execute_script(CUT_OFF) == []
            fits = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
            assert browser.execute_script(fits), "the page is wider than the screen"


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_swahili_finds_the_clip_which_plays(address, width):
    with open_browser(width) as browser:
        browser.get(address)
        wait_for(browser, "return document.querySelector('#by-words .clip')")

        query = browser.find_element("css selector", "#query textarea, #query input")
        query.clear()
        query.send_keys(SWAHILI_FOR_EWE)
        browser.find_element("css selector", "button#search, #search button").click()
        wait_for(browser, "return document.querySelector('#by-words q')?.textContent == 'kondoo'")
        assert browser.execute_script(FIRST.format("#by-words")) == "1f411"

        moved = """
            const video = document.querySelector('#by-words .clip video');
            window.times = window.times || new Set();
            window.times.add(video.currentTime);
            return video.readyState >= 2 && !video.paused && !video.error && window.times.size >= 3
        """
        wait_for(browser, moved)

        by_mmp = browser.execute_script(ORDER)
        browser.find_element("css selector", "#model input[value=none]").click()
        wait_for(browser, "return document.querySelector('#by-words .clips').dataset.model == 'none'")
        assert browser.execute_script(ORDER) != by_mmp

        browser.find_element("xpath", "//*[@id='kind']//label[contains(., 'Search with a video')]").click()
        wait_for(browser, "return document.querySelector('#with-words').getBoundingClientRect().height == 0")
        upload = wait_for(browser, "return document.querySelector('#video input[type=file]')")
        upload.send_keys(str(CLIPS / "1f697.mp4"))
        wait_for(browser, "return document.querySelector('#by-video .clip')")
        assert browser.execute_script(FIRST.format("#by-video")) == "1f697"
        severe = [
            line for line in browser.get_log("browser") if line["level"] == "SEVERE" and address in line["message"]
        ]
        assert severe == []


# ── what programs may ask of the server ──


def call(address, data, endpoint="find_by_words"):
    """What the API answers, as `(status, text)`."""
    posted = httpx.post(f"{address}gradio_api/call/{endpoint}", json={"data": data}, timeout=300)
    if posted.status_code != 200:
        return posted.status_code, posted.text
    answer = httpx.get(f"{address}gradio_api/call/{endpoint}/{posted.json()['event_id']}", timeout=300)
    return answer.status_code, json.loads(answer.text.split("data: ", 1)[1].splitlines()[0])[0]


def test_a_query_through_the_api_answers_like_the_page(address):
    status, page = call(address, [SWAHILI_FOR_EWE, "mmp", "auto"])
    assert status == 200 and shown(page)[0] == "1f411"


def test_agents_find_the_two_searches_as_tools(address):
    pytest.importorskip("mcp")
    tools = httpx.get(f"{address}gradio_api/mcp/schema", timeout=300).json()
    assert [tool["name"].rsplit("find_", 1)[1] for tool in tools] == ["with_words", "with_video"]
    assert all(tool["description"].startswith("Find the animated emoji that") for tool in tools)


def test_a_query_of_20_mb_is_refused_before_it_is_read(address):
    """The connection sends the headers and not one byte of the body; a server that waits for it answers nothing."""
    connection = http.client.HTTPConnection(address.removeprefix("http://").strip("/"), timeout=300)
    connection.putrequest("POST", "/gradio_api/call/find_by_words")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(20 << 20))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413 and b"too large: at most 65,536 bytes" in answer.read()


def test_a_body_without_a_length_is_cut_off_at_the_limit(address):
    chunks = (b"x" * 65_536 for _ in range(320))
    try:
        status = httpx.post(f"{address}gradio_api/call/find_by_words", content=chunks, timeout=300).status_code
    except httpx.TransportError:  # the server has hung up while we were sending
        status = 413
    assert status == 413


def test_an_upload_larger_than_the_limit_is_refused(address):
    from_program = httpx.post(f"{address}gradio_api/upload", files={"files": ("a.mp4", b"12")}, timeout=300)
    assert from_program.status_code == 200
    connection = http.client.HTTPConnection(address.removeprefix("http://").strip("/"), timeout=300)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Length", str(21 << 20))
    connection.endheaders()
    assert connection.getresponse().status == 413


def test_programs_cannot_go_around_the_queue(address):
    data = {"data": [SWAHILI_FOR_EWE, "mmp", "auto"]}
    assert httpx.post(f"{address}gradio_api/run/find_by_words", json=data, timeout=300).status_code == 404


def test_the_server_forgets_all_but_the_last_visitors(app, monkeypatch):
    """Else Gradio keeps a copy of the page, some 50 KB, for each of 10,000."""
    given = {}
    monkeypatch.setattr(gradio.Blocks, "launch", lambda blocks, **options: given.update(options))
    monkeypatch.setattr(sys.modules["app"], "Demo", lambda folder: app.demo)
    sys.modules["app"].main()
    assert given["state_session_capacity"] == 100


@pytest.mark.parametrize(
    "query, message", [("ab " * 100, "The query has 299 characters: at most 200"), ("\ud800", "not valid Unicode")]
)
def test_a_query_that_no_person_types_is_refused_in_one_line(app, query, message):
    assert message in app.find_by_words(query, "mmp", "auto")


@pytest.mark.parametrize(
    "decoder",
    ["limits.DECODING_SECONDS = 1\nwhile True: pass", "limits.DECODING_BYTES = 1 << 28\nreturn iter([bytes(1 << 29)])"],
)
def test_decoding_ends_at_its_limits_of_time_and_memory(space, decoder):
    *limit, work = decoder.splitlines()
    code = f"import limits; {limit[0]}\nimport watch\ndef decode(*_):\n    {work}\n"
    code += f"watch.read_windows = decode\nwatch.main('video.mp4', {str(space / 'frame_encoder.json')!r}, 36)"
    done = subprocess.run([sys.executable, "-c", code], cwd=space, capture_output=True, timeout=600)
    assert done.returncode not in (0, 3) and done.stdout == b""


def test_a_video_on_which_decoding_was_ended_is_refused_with_the_reason(app, monkeypatch, tmp_path):
    (tmp_path / "endless.mp4").write_bytes(b"")
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    page = app.find_by_video(str(tmp_path / "endless.mp4"), "mmp", "auto")
    assert "This file cannot be read: it takes too much time or memory to decode" in page
