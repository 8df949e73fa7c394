"""Figures: what is drawn, without a display."""

from __future__ import annotations

import pytest
import torch

from sr_perceptual_loss import InputError, SSIMLoss
from sr_perceptual_loss.monitor.plots import plot_map, plot_terms


def test_terms_have_a_panel_each():
    loss, records = SSIMLoss(loss_weight=2), []
    for level in (0.2, 0.6):
        loss(torch.full((1, 3, 16, 16), level), torch.full((1, 3, 16, 16), 0.6))
        records.append(loss.terms)
    first, second = plot_terms([*records, {"loss": 0.5}], [10, 20, 30]).axes
    assert (first.get_ylabel(), second.get_ylabel()) == ("loss", "score")
    assert first.lines[0].get_xdata().tolist() == [10, 20, 30] and second.lines[0].get_xdata().tolist() == [10, 20]
    expected = [float(records[0]["loss"]), pytest.approx(0, abs=1e-6), 0.5]
    assert first.lines[0].get_ydata().tolist() == expected and expected[0] > 0.5


@pytest.mark.parametrize(("records", "iterations"), [([], None), ([{"loss": 1.0}], [1, 2])])
def test_records_that_are_refused(records, iterations):
    with pytest.raises(InputError, match="plot_terms"):
        plot_terms(records, iterations)


@pytest.mark.parametrize("boxes", [[(8, 16, 0.5), (24, 0, 0.25)], []])
def test_map_with_a_colour_bar_and_two_crops_of_each_box(boxes):
    lost = torch.zeros(40, 48)
    lost[8:16, 16:24] = 2.0
    sr, hr = torch.zeros(3, 40, 48), torch.ones(3, 40, 48)
    figure = plot_map(sr, hr, lost, boxes, 8, "title", "lost")
    assert len(figure.axes) == 3 + 1 + 2 * len(boxes)
    assert figure.axes[2].images[1].get_clim() == (0, 2)
    assert [len(axes.patches) for axes in figure.axes[:3]] == [len(boxes)] * 3
    if boxes:
        assert figure.axes[-2].images[0].get_array().shape == (8, 8, 3)
        assert figure.axes[-2].images[0].get_array().max() == 0 and figure.axes[-1].images[0].get_array().min() == 1
