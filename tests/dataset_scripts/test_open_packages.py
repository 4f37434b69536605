"""The packages that `polyvid fetch` gets, as they are published: every concept is drawn, and the counts are right.

Where a registry cannot be reached, a test is skipped with the message that users would read.
"""

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import pytest

from polyvid.dataset_scripts.clips import draw_svg
from polyvid.dataset_scripts.fluent_emoji_9 import styles
from polyvid.dataset_scripts.protocols import protocols_of
from polyvid.dataset_scripts.tux8 import stamps
from polyvid.modeling.errors_mmp import PolyvidError

pytestmark = pytest.mark.slow
Found = TypeVar("Found")


def reached(get: Callable[[], Found]) -> Found:
    try:
        return get()
    except PolyvidError as error:
        if "cannot be fetched" not in str(error) and "There is no apt-get" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("name", styles.STYLES)
def test_a_style_draws_every_concept(name):
    pytest.importorskip("resvg_py", reason="pip install 'polyvid[open-data]'")
    drawings = styles.read_drawings(reached(styles.STYLES[name].package.read))
    concepts = [path.stem for path in sorted((styles.HERE / "clips").glob("*.mp4"))]
    assert len(concepts) == 1607 and not set(concepts) - set(drawings)
    for concept in concepts[::50]:
        assert draw_svg(drawings[concept]).size == (224, 224)


def test_tux_paint_has_the_stamps_and_captions_of_the_protocols(tmp_path):
    package = reached(lambda: stamps.download(tmp_path))
    found = stamps.read_stamps(stamps.unpack(package, tmp_path / "unpacked"))
    captions = Counter(language for stamp in found.values() for language in stamp["captions"])
    every = protocols_of("tux8")["tux_all"].splits["test"]
    assert len(found) == every.videos
    assert {language: captions[language] for language in every.captions} == every.captions
    left_out = {language for language, count in captions.items() if count >= 100} - every.captions.keys()
    assert left_out == {"en-AU", "en-GB"}
    for name in ("tux8", "tux_sw"):
        protocol = protocols_of("tux8")[name]
        complete = [stamp for stamp in found.values() if set(protocol.languages) <= stamp["captions"].keys()]
        assert len(complete) == protocol.splits["test"].videos
