"""srpl distort: the whole way from a label list to a data set; what is data and what is talk."""

from __future__ import annotations

import itertools

import pytest
import torch

from sr_perceptual_loss.data import kadid10k


@pytest.fixture
def labels(tmp_path):
    file = tmp_path / "dmos.csv"
    cells = itertools.product((1, 2), (1, 11), (1, 4))
    rows = [f"I{s:02d}_{kind:02d}_{step:02d}.png,I{s:02d}.png,{5 - step / 2 - s / 10:.2f},0" for s, kind, step in cells]
    file.write_text("\n".join(["dist_img,ref_img,dmos,var", *rows]) + "\n")
    return file


@pytest.fixture
def refs(picture, tmp_path):
    generator = torch.Generator().manual_seed(0)
    for name in ("a", "b"):
        picture(f"refs/{name}.png", image=torch.randint(0, 256, (3, 60, 64), generator=generator, dtype=torch.uint8))
    return tmp_path / "refs"


def test_makes_a_data_set(srpl, refs, labels, tmp_path):
    out = tmp_path / "out"
    options = ("--labels", labels, "--types", "1,11", "--levels", "1,4", "--crop", "48")
    result = srpl("distort", refs, out, *options, "--limit", "1", "--leave-out", "I02")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{out / 'dmos.csv'}\t4\n"
    assert "1 reference(s); 4 distorted picture(s) written, 0 kept" in result.stderr
    assert "not ratings of these pictures" in result.stderr
    assert {r.dist.name: r.score for r in kadid10k.read(out).rated} == pytest.approx(
        {"I01_01_01.png": 4.4, "I01_01_04.png": 2.9, "I01_11_01.png": 4.4, "I01_11_04.png": 2.9}
    )
    again = srpl("distort", refs, out, *options)
    assert again.stdout == f"{out / 'dmos.csv'}\t8\n"
    assert "2 reference(s); 4 distorted picture(s) written, 4 kept" in again.stderr
    # Both scenes count now: the mean of 4.4 and 4.3.
    assert {r.score for r in kadid10k.read(out).rated} == {4.35, 2.85}


def test_refusals_are_worded(srpl, refs, labels, tmp_path):
    arguments = (refs, tmp_path / "out", "--labels", labels)
    result = srpl("distort", *arguments, "--types", "1,x")
    assert result.exit_code == 2
    assert "error: --types: got '1,x', expected numbers with commas, such as 1,2,10." in result.stderr
    result = srpl("distort", *arguments)
    assert result.exit_code == 2
    assert "no label for (type, level) (1, 2)" in result.stderr
    assert "label file not found" in srpl("distort", refs, tmp_path / "out", "--labels", tmp_path / "none.csv").stderr
    assert not (tmp_path / "out").exists()
