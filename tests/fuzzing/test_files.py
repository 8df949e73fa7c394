"""Damaged weight files and label files: a result or one of the package's errors, never anything else."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from .bytes_of_files import (
    IQA_LIST,
    LABELS,
    read_label_bytes,
    read_weight_bytes,
    safetensors_bytes,
    weight_seeds,
)
from .twice import twice

#: Bytes with a meaning for a reader of text, numbers, JSON, pickles or zip files.
TOKENS = [b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b",", b"#", b" ", b"nan", b"-inf", b"1e999",
          b"1_0", b"9" * 400, b"..", b"/", b"\\", b"x" * 5000, b"a" * 140_000, b"{", b"}", b"[" * 3000, b"Infinity",
          b"null", b"true", b"-1", b"\x80\x02", b"PK\x03\x04", b"<html>", "\u2028\u0661".encode(), b"\x1c",
          b"A0001_00_00.bmp", b"ref_1.png"]  # fmt: skip


@st.composite
def damaged(draw, seeds):
    """One of the seeds with up to four edits: bytes cut out, put in, or written over; sometimes cut short."""
    content = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(content)))
        gone = draw(st.sampled_from([0, 0, 1, 2, 8, 40]))
        new = draw(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=12)))
        content = content[:place] + new + content[place + gone :]
    return content[: draw(st.integers(0, len(content)))] if draw(st.integers(0, 9)) == 0 else content


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)
tensor_entry = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.one_of(
            st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "F4", "U64", "C64"]), plain
        ),
        "shape": st.one_of(st.lists(st.sampled_from([0, 1, 2, 3, 2**40, -1]), max_size=4), plain),
        "data_offsets": st.one_of(
            st.tuples(st.integers(-1, 40), st.integers(-1, 40)), st.lists(st.floats(), min_size=2, max_size=2), plain
        ),
    },
)
config = st.one_of(plain, plain.map(json.dumps), st.sampled_from(["{", "[1]", '{"a": NaN}', "[" * 5000, "9" * 5000]))
headers = st.fixed_dictionaries(
    {},
    optional={
        "__metadata__": st.one_of(
            plain,
            st.fixed_dictionaries(
                {"srpl.format": st.one_of(st.just("1"), plain), "srpl.critic": st.one_of(st.just("small"), plain)},
                optional={"srpl.config": config, "srpl.version": plain, "x": plain},
            ),
        ),
        "a": st.one_of(tensor_entry, plain),
        "b": st.one_of(tensor_entry, plain),
    },
)


@twice(damaged(weight_seeds()), cases=150)
def test_damaged_weight_files(content, folder):
    read_weight_bytes(content, folder)


@twice(st.tuples(headers, st.binary(max_size=40)), cases=150)
def test_weight_headers_of_any_content(case, folder):
    header, data = case
    read_weight_bytes(safetensors_bytes(header, data), folder)


label_files = st.sampled_from([(name, file) for name, files in LABELS.items() for file in files])
damaged_labels = label_files.flatmap(
    lambda place: st.tuples(st.just(place), damaged([LABELS[place[0]][place[1]], IQA_LIST]))
)


@twice(damaged_labels, cases=250)
def test_damaged_label_files(case, folder):
    (name, file), content = case
    read_label_bytes(name, file, content, folder)


def test_undamaged_files_are_read(tmp_path):
    """The fuzzers start from files that are read completely."""
    assert [read_weight_bytes(seed, tmp_path) for seed in weight_seeds()] == ["read", "refused", "read", "read"]
    for name, files in LABELS.items():
        for file, content in files.items():
            assert read_label_bytes(name, file, content, tmp_path) == "read", name
