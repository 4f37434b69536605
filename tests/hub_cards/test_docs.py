"""The documentation is true: links resolve, commands and recipes exist, Python compiles, tables hold the data."""

import ast
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from polyvid.dataset_scripts import protocols
from polyvid.train.cli import COMMANDS, load_command
from polyvid.train.demo.report import summary_table
from polyvid.train.recipe import load_recipe
from polyvid.train.recipe_files import find_recipe

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "hub_cards" / "docs"
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / ".github").rglob("*.md"),
        *(path for room in ("dataset_scripts", "hub_cards", "train", "tests") for path in (ROOT / room).rglob("*.md")),
    ]
)
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GUIDES = {name: text for name, text in TEXTS.items() if "templates/" not in name and "/golden/" not in name}


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """The anchors GitHub gives to headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", GUIDES)
def test_every_link_within_the_repository_resolves(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(TEXTS[name])):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name} links to {target}"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{name} links to {target}"


def test_the_site_is_complete():
    """Guides link to each other only, because the site holds nothing else, and each page is in its menu."""
    menu = (ROOT / "hub_cards" / "mkdocs.yml").read_text(encoding="utf-8").split("nav:")[1]
    assert set(re.findall(r"[\w-]+\.md", menu)) == {page.name for page in DOCS.glob("*.md")}
    for page in DOCS.glob("*.md"):
        links = re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8")))
        assert all(link.startswith("https://") or (DOCS / link.split("#")[0]).is_file() for link in links), page.name


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="pip install 'polyvid[docs]'")
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run([*command, "--config-file", str(ROOT / "hub_cards" / "mkdocs.yml")], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    commands = (tmp_path / "cli" / "index.html").read_text(encoding="utf-8")
    assert all(f"polyvid {name}" in commands for name in COMMANDS)
    assert "encode_texts" in (tmp_path / "api" / "index.html").read_text(encoding="utf-8")
    assert "learning_rate" in (tmp_path / "recipes" / "index.html").read_text(encoding="utf-8")


# --- commands and recipes ----------------------------------------------------------------------------------------


def blocks(text: str) -> list[str]:
    """The commands of all code blocks, continued lines joined, prompts and comments cut off."""
    lines = []
    for language, block in FENCE.findall(text):
        if language in ("", "bash", "console", "sh"):
            block = block.replace("\\\n", " ")
            lines += re.findall(r"^\$ (.*)$", block, re.MULTILINE) or block.splitlines()
    return [re.split(r"\s{2,}#", line)[0].strip() for line in lines]


def mentions(text: str) -> list[str]:
    """Commands within sentences, which may be only the part that matters."""
    return re.findall(r"`((?:polyvid|make|accelerate|python|pip) [^`\n]+)`", FENCE.sub("", text))


SHOWN = [(name, line) for name, text in GUIDES.items() for line in blocks(text)]
MENTIONED = [(name, line) for name, text in GUIDES.items() for line in mentions(text)]


def polyvid_commands(lines: list[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Page, and the words after `polyvid`."""
    found = []
    for name, line in lines:
        line = re.sub(r"<[^<>]*>", "lab/name", line)  # <this repository>
        words = shlex.split(line, comments=True) if "polyvid" in line else []
        if words[:1] == ["polyvid"] or words[:4] == ["accelerate", "launch", "-m", "polyvid"]:
            found.append((name, words[words.index("polyvid") + 1 :]))
    return found


@pytest.mark.parametrize("name", sorted({name for name, _ in polyvid_commands(SHOWN + MENTIONED)}))
def test_every_command_shown_exists_with_its_options(name):
    for page, (command, *words) in polyvid_commands(SHOWN + MENTIONED):
        if page != name or command in ("COMMAND", "--version", "--help", "..."):
            continue
        assert command in COMMANDS, f"{name}: polyvid {command}"
        known = {
            flag for parameter in load_command(command).params for flag in parameter.opts + parameter.secondary_opts
        }
        for word in words:
            if re.match(r"--?[a-z]", word):
                assert word in known | {"--debug", "--help", "-h"}, f"{name}: polyvid {command} has no {word}"


def test_commands_in_code_blocks_are_accepted():
    """Arguments that are missing, of the wrong type, or one too many, are found by the parser itself."""
    parsed = 0
    for page, (name, *words) in polyvid_commands(SHOWN):
        if any("..." in word or "…" in word for word in words):
            continue
        try:
            load_command(name).make_context(name, list(words))
        except Exception as error:
            raise AssertionError(f"{page}: polyvid {name} {shlex.join(words)}: {error}") from error
        parsed += 1
    assert parsed > 30


def test_every_recipe_shown_loads_with_its_changes():
    shown = 0
    for page, line in SHOWN + MENTIONED:
        match = re.search(r"--config (\S+)", line)
        if match and "..." not in match[1]:
            path = match[1] if not match[1].startswith("train/") else ROOT / match[1]
            overrides = [word for word in line.split() if re.fullmatch(r"[a-z_]+\.[a-z_]+=\S+", word)]
            assert load_recipe(find_recipe(path), overrides).name, page
            shown += 1
    assert shown >= 4


def test_every_change_to_a_recipe_in_the_text_is_valid():
    keys = {change for text in GUIDES.values() for change in re.findall(r"`([a-z]+\.[a-z_]+=[^`…]+)`", text)} - {
        "section.key=value"
    }
    assert "model.init_from=null training.epochs=20" in keys
    for changes in keys:
        new = ["model.init_from=null"] if "zero_shot" in changes else []
        load_recipe("vtt_en", [*new, *changes.split()])


def test_make_targets_and_launch_settings_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    known |= {f"{variable}=" for variable in re.findall(r"^(\w+) \?=", makefile, re.MULTILINE)}
    for page, line in SHOWN + MENTIONED:
        if line.startswith("make "):
            assert {re.sub(r"=.*", "=", word) for word in line.split()[1:]} <= known, f"{page}: {line}"
        for settings in re.findall(r"--config_file (\S+)", line):
            assert (ROOT / settings).is_file(), f"{page}: {line}"


def test_extras_exist():
    extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for page, text in TEXTS.items():
        for extra in re.findall(r"polyvid\[([\w,-]+)\]", text):
            for name in extra.split(","):
                assert re.search(rf"^{name} = \[", extras, re.MULTILINE), f"{page}: polyvid[{extra}]"


@pytest.mark.parametrize("name", GUIDES)
def test_files_named_in_the_text_exist(name):
    if name in ("CHANGELOG.md",):  # speaks of what was
        return
    for path in re.findall(r"`([\w./-]+/[\w./-]*)`", FENCE.sub("", TEXTS[name])):
        if path.split("/")[0] in ("modeling", "dataset_scripts", "train", "hub_cards", "tests", ".github"):
            assert (ROOT / path).exists(), f"{name}: {path}"


# --- Python ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, text in GUIDES.items() if "```python" in text])
def test_python_examples_compile_and_import_what_exists(name):
    for language, block in FENCE.findall(TEXTS[name]):
        if "mteb" in block and importlib.util.find_spec("mteb") is None:  # no package of `make test`
            continue
        if language == "python":
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "polyvid":
                    module = importlib.import_module(node.module)
                    assert all(hasattr(module, alias.name) for alias in node.names), f"{name}: {ast.unparse(node)}"
                elif isinstance(node, ast.Import):
                    assert all(importlib.util.find_spec(alias.name) for alias in node.names), name


# --- what tables say ---------------------------------------------------------------------------------------------


def test_the_page_of_protocols_holds_the_table_of_the_builders():
    assert protocols.to_markdown() in (DOCS / "protocols.md").read_text(encoding="utf-8"), (
        "copy what `python -m polyvid.dataset_scripts.protocols` prints into hub_cards/docs/protocols.md"
    )


def test_the_readme_is_a_front_page():
    assert TEXTS["README.md"].count("\n") <= 150


def test_the_scores_of_the_readme_are_those_of_the_results():
    measured = json.loads((ROOT / "hub_cards" / "results" / "demo_seeds.json").read_text(encoding="utf-8"))
    assert summary_table(measured) in TEXTS["README.md"], "copy what `report.summary_table` makes of demo_seeds.json"


def sentences_of_the_source() -> list[str]:
    """Every text in the source, with … for what is filled in."""
    texts = []
    for room in ("modeling", "dataset_scripts", "train", "hub_cards"):
        for file in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                    texts.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return texts


def test_the_errors_explained_are_errors_of_the_source():
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    rows = [row for row in re.findall(r"^\| `([^`]+)`([^|]*)\|", text, re.MULTILINE) if "from " not in row[1]]
    texts = sentences_of_the_source()
    assert len(rows) > 20
    unknown = []
    for line, _ in rows:
        parts = [part.strip() for part in line.split("…") if len(part.strip()) > 4]
        if not any(all(part in text for part in parts) for text in texts):
            unknown.append(line)
    assert not unknown, "no error says this"
