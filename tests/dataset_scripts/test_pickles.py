"""Pickles give arrays and plain containers, whatever numpy wrote them, and run nothing, whoever wrote them."""

import pickle
import subprocess
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest

from polyvid.dataset_scripts.pickles import load_pickle
from polyvid.modeling.errors_mmp import PolyvidError

CONTENT = [
    {
        "id": "video1",
        "count": 3,
        "caption_de": ["ein Hund läuft", "狗 跑"],
        "2d": np.arange(12, dtype=np.float32).reshape(3, 4),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "half": np.ones((2, 2), np.float16),
        "big": np.arange(3, dtype=">i4"),
        "flags": np.array([True, False]),
        "names": np.array(["a", "ěš"]),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.float64(2.5),
        "integer": np.int64(7),
        "text": np.str_("läuft"),
        "span": (1.5, None, b"\xff\x00"),
        "kinds": {"x", "y"},
        "ordered": OrderedDict(a=1),
    }
]


def same(found, expected):
    if isinstance(expected, np.ndarray):
        assert isinstance(found, np.ndarray) and found.dtype == expected.dtype and found.shape == expected.shape
        np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert type(found) is type(expected) and len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    else:
        assert found == expected


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_containers_come_back(tmp_path, protocol):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(CONTENT, protocol=protocol))
    same(load_pickle(tmp_path / "a.pkl"), CONTENT)


@pytest.mark.parametrize("core", [b"numpy.core.", b"numpy._core."], ids=["numpy 1", "numpy 2"])
def test_it_does_not_matter_which_numpy_wrote_them(tmp_path, core):
    written = pickle.dumps(CONTENT, protocol=2)
    (tmp_path / "a.pkl").write_bytes(written.replace(b"numpy._core.", b"numpy.core.").replace(b"numpy.core.", core))
    same(load_pickle(tmp_path / "a.pkl"), CONTENT)


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HARMFUL = {
    "subprocess.check_call": Calls(subprocess.check_call, ["touch", "sign"]),
    "builtins.eval": Calls(eval, "open('sign', 'w')"),
    "builtins.print": Calls(print, "the author's code"),
    "collections.Counter": Counter("aab"),
    "collections.defaultdict": defaultdict(list, a=[1]),
    "an array of object": np.array([{"a": 1}, None], dtype=object),
    "an array of": np.zeros(2, dtype=[("a", "f4"), ("b", "O")]),
    "an array of datetime64": np.array(["2021-01-01"], dtype="datetime64[D]"),
}


@pytest.mark.parametrize("asked", HARMFUL)
def test_anything_else_is_refused_in_one_line_and_not_run(tmp_path, monkeypatch, capsys, asked):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pack.pkl").write_bytes(pickle.dumps([{"id": "video1", "2d": HARMFUL[asked]}]))
    with pytest.raises(PolyvidError, match=f"pack.pkl asks for {asked}") as caught:
        load_pickle(tmp_path / "pack.pkl")
    assert "\n" not in str(caught.value) and "nothing was run" in str(caught.value)
    assert not (tmp_path / "sign").exists() and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "written",
    [
        pickle.dumps(CONTENT)[:-20],
        b"",
        b"no pickle at all",
        pickle.dumps(np.float32),  # a type
        b"cnumpy\ndtype\n.",
        b"cnumpy\nndarray\n(I1000000000000\ntR.",  # memory without bytes for it
        b"cnumpy\ndtype\n(Vf4\ntRcnumpy\ndtype\nb.",  # a state that is none
        b"cnumpy.core.multiarray\n_reconstruct\n}Va\nI1\nsb.",  # sets an attribute of a function
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(Vf8\ntRVab\ntR.",  # too few bytes
        b"(lp0\ng0\na.",  # a list that holds itself
    ],
)
def test_a_damaged_or_hand_made_pickle_is_refused_in_one_line(tmp_path, written):
    (tmp_path / "pack.pkl").write_bytes(written)
    with pytest.raises(PolyvidError, match="pack.pkl (is not a whole pickle of arrays|asks for)") as caught:
        load_pickle(tmp_path / "pack.pkl")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "written",
    [
        b"\x80\x04\x8f(cnumpy\ndtype\n\x90.",  # in a set
        b"\x80\x04}cnumpy\ndtype\nK\x01s.",  # a key
        b"\x80\x04}cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85RK\x01s.",  # an element type as a key
        b"\x80\x04cnumpy\ndtype\n\x85.",
    ],
)
def test_what_stands_for_numpy_does_not_come_out_anywhere(tmp_path, written):
    (tmp_path / "a.pkl").write_bytes(written)
    with pytest.raises(PolyvidError, match="not a whole pickle of arrays .it holds a type or a function of numpy"):
        load_pickle(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    "of_each", [b"\x85", b"K\x01\x86", b"q\x00h\x00\x86", b"cbuiltins\nfrozenset\nq\x010h\x01)\x85R0\x85"]
)
def test_keys_of_a_million_levels_are_refused_before_they_end_the_interpreter(tmp_path, of_each):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04})" + of_each * 1_000_000 + b"K\x01s.")
    with pytest.raises(PolyvidError, match="more than 100 levels of tuples"):
        load_pickle(tmp_path / "a.pkl")


def test_frozen_sets_of_frozen_sets_count_as_levels(tmp_path):
    content = frozenset()
    for _ in range(200):
        content = frozenset([content])
    for protocol in (2, 4):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(PolyvidError, match="more than 100 levels"):
            load_pickle(tmp_path / "a.pkl")


def test_a_memo_with_a_huge_number_takes_no_memory(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")
    with pytest.raises(PolyvidError, match="memo 2147483647 where 0 are known"):
        load_pickle(tmp_path / "a.pkl")


def test_lists_may_be_as_long_as_they_are(tmp_path):
    content = [("a", index) for index in range(5000)]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    assert load_pickle(tmp_path / "a.pkl") == content


def test_arrays_of_python_2_are_read_when_asked_for(tmp_path):
    """Its texts are bytes: protocol 2, with the array's bytes as a text."""
    array = np.arange(4, dtype="<f4")
    raw = array.tobytes()
    shape = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR(I1\n(I4\nt"
    of_elements = b"cnumpy\ndtype\n(U\x02f4I0\nI1\ntR(I3\nU\x01<NNNI-1\nI-1\nI0\ntb"
    state = b"I00\nT" + len(raw).to_bytes(4, "little") + raw + b"tb."
    (tmp_path / "old.pkl").write_bytes(b"\x80\x02" + shape + of_elements + state)
    np.testing.assert_array_equal(load_pickle(tmp_path / "old.pkl", encoding="latin1"), array)
