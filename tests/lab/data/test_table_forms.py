"""Tables as spreadsheets write them: read, or refused in one line."""

from __future__ import annotations

import pytest

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.registry import read_labels

COMMA = "ref,dist,score\nr.png,a.png,1.5\nr.png,b.png,2.25\n"
SEMICOLON = "ref;dist;score\nr.png;a.png;1,5\nr.png;b.png;2,25\n"


def read(root, content):
    (root / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return [image.score for image in read_labels("table", root.path, check_images=False).rated]


@pytest.mark.parametrize(
    "content",
    [
        SEMICOLON,
        "sep=;\r\n" + SEMICOLON.replace("\n", "\r\n"),
        "sep=,\n" + COMMA,
        '"sep=|"\n' + COMMA.replace(",", "|"),
        COMMA.replace(",", "\t"),
        SEMICOLON.replace(";", "\t"),
        ("\ufeff" + COMMA.replace(",", "\t")).encode("utf-16-le"),
        ("\ufeff" + SEMICOLON).encode("utf-16-be"),
        "\ufeff" + COMMA,
        COMMA.replace("\n", "\r"),
        'REF, "Dist" ,Score,,\n"r.png" , "a.png","1.5",,\nr.png,b.png,2.25,,\n,,,,\n\n,,,,\n',
        "ref,dist,score,,\nr.png,a.png,1.5\nr.png,b.png,2.25,\n",
        COMMA.replace("1.5\n", "1.5,\n"),
        ",ref,dist,score\n0,r.png,a.png,1.5\n1,r.png,b.png,2.25\n",
        COMMA.replace("1.5", '"1,5"').replace("2.25", '"2,25"'),
        "\ufeff\ufeff" + COMMA,
        COMMA.replace("score\n", "score,no\tte\n").replace("5\n", "5,x\n"),
        COMMA.replace("score\n", 'score,"a;b\t"\n').replace("5\n", "5,x\u2028\x85y\n"),
    ],
)
def test_forms_of_one_table(root, content):
    assert read(root, content) == [1.5, 2.25]


def test_three_decimals_after_a_comma(root):
    """Beside semicolons, or beside a number that cannot have thousands, a comma is a decimal one."""
    assert read(root, "ref;dist;score\nr.png;a.png;1,520\n") == [1.52]
    assert read(root, "ref\tdist\tscore\nr.png\ta.png\t1,520\nr.png\tb.png\t0,5\n") == [1.52, 0.5]
    assert read(root, "ref\tdist\tscore\nr.png\ta.png\t0,520\n") == [0.52]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (COMMA.replace("1.5", '"1,520"').replace("2.25", '"1,300"'), ("thousands",)),
        (COMMA.replace("1.5", '"1,520.5"').replace("2.25", '"1,300.5"'), ("thousands",)),
        (SEMICOLON.replace("1,5", "1.520,5").replace("2,25", "1.300"), ("thousands",)),
        (COMMA.replace(".5", ",5").replace(".25", ",25"), ("4 column(s)", "expected 3", "1 more")),
        (COMMA.replace("ref", "r\u00e9f").encode("latin-1"), ("UTF-8",)),
        (COMMA.encode("utf-16-le"), ("UTF-16",)),
        (b"PK\x03\x04 workbook", ("workbook",)),
        (COMMA.replace(",", "|"), ("ref|dist|score", "semicolons")),
        ("sep= \n" + COMMA.replace(",", " "), ("sep=", "semicolons")),
        (COMMA.replace("1.5", "1_5"), ("line 2", "1_5")),
        (COMMA + 'r.png,c.png,"1\n', ("line 4", "quote")),
        (COMMA + "r.png,sub/../a.png,1\n", ("line 4", "a.png is repeated")),
    ],
)
def test_one_line_for_what_cannot_be_read(root, content, words):
    with pytest.raises(InputError) as caught:
        read(root, content)
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 1 and "t.csv" in lines[0] and all(word in lines[0] for word in words), lines
