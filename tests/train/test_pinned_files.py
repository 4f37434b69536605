"""Packages of the demo whose files are not those that were tested: not read, and never imported."""

import sys
import tomllib
from pathlib import Path

import pytest

import polyvid
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.frame_encoders_mmp import load_frame_encoder
from polyvid.modeling.pinned_files_mmp import FILES, pinned_file
from polyvid.train.demo.offline_backbone import find_weights
from polyvid.train.scoring.contact_sheet import _font_families


@pytest.mark.parametrize("package", FILES)
def test_the_installed_packages_are_those_that_were_tested(package):
    if (path := pinned_file(package)) is None:
        pytest.skip("pip install 'polyvid[demo]'")
    assert path.is_file()


@pytest.fixture
def changed(tmp_path, monkeypatch):
    """Packages of these names with other files, which leave a sign when they are imported."""
    for package, (file, _) in FILES.items():
        for name in ("__init__.py", file):
            path = tmp_path / package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
        monkeypatch.delitem(sys.modules, package, raising=False)  # another test's own engine
    monkeypatch.syspath_prepend(tmp_path)
    yield
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (find_weights, "e5-small-q4.bin"),
        (lambda: load_frame_encoder("efficientnet-lite0"), "efficientnet-lite0-57934424.pth"),
        (lambda: _font_families([]), "NotoSansCJKtc-Regular.otf"),
    ],
    ids=["backbone", "encoder", "font"],
)
def test_another_file_is_refused_in_one_line_before_it_is_read(changed, read, name):
    with pytest.raises(PolyvidError, match=f"{name} is not the file that this version of polyvid was tested with"):
        read()


def test_every_version_whose_files_are_known_is_pinned():
    """With another version, other files would be right."""
    project = tomllib.loads((Path(polyvid.__file__).parent / "pyproject.toml").read_text(encoding="utf-8"))
    demo = project["project"]["optional-dependencies"]["demo"]
    pinned = {line.partition("==")[0].replace("-", "_").lower() for line in demo if "==" in line}
    assert {package.lower() for package in FILES} <= pinned
