"""The card of a critic in a notebook."""

from __future__ import annotations

import dataclasses

from sr_perceptual_loss import get_card


def test_card_as_a_table():
    card = dataclasses.replace(get_card("lpips"), paper="A <b>& B")
    table = card._repr_html_()
    assert "<tr><th>name</th><td>lpips</td></tr>" in table and "A &lt;b&gt;&amp; B" in table
    assert "<th>input_size</th><td>sides &gt;= 32</td>" in table and "<th>weights</th><td>bundled</td>" in table
    assert table.count("<tr>") == len(dataclasses.fields(card))
