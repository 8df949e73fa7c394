from __future__ import annotations

import pytest

from sr_perceptual_loss import InputError, UnknownNameError
from sr_perceptual_loss.checks import as_float, as_int, as_path, as_weight, check_choice, check_known_keys, nearest


@pytest.mark.parametrize(("value", "number"), [("1e-2", 0.01), ("-.1", -0.1), (3, 3.0), (0.5, 0.5), ("1.0e2", 100.0)])
def test_numbers_as_yaml_delivers_them(value, number):
    assert as_float("loss_weight", value) == number


@pytest.mark.parametrize("value", [True, None, "much", "nan", "inf", float("nan"), [1]])
def test_not_numbers(value):
    with pytest.raises(InputError, match="loss_weight: got"):
        as_float("loss_weight", value)


def test_bounds():
    with pytest.raises(InputError, match="x: got -1"):
        as_float("x", -1, minimum=0)
    assert as_int("n", "12") == 12
    assert as_int("n", 2**53 + 1) == 2**53 + 1
    with pytest.raises(InputError, match="n: got 1.5"):
        as_int("n", 1.5)
    with pytest.raises(InputError, match="n: .*ten"):
        as_int("n", "ten")


def test_weights_have_no_sign():
    assert str(as_weight("beta", "-0.0")) == "0.0" and as_weight("beta", "3e-1") == 0.3
    with pytest.raises(InputError, match="beta: got -0.1.*0.1"):
        as_weight("beta", "-0.1")


def test_choices_and_keys_name_the_nearest():
    assert check_choice("form", "hinge", ("linear", "hinge")) == "hinge"
    with pytest.raises(InputError, match="Did you mean 'hinge'"):
        check_choice("form", "hing", ("linear", "hinge"))
    with pytest.raises(InputError, match="here: .*weigth.*Did you mean 'weight'"):
        check_known_keys("here", ["weigth"], ["weight", "type"])
    assert nearest("zzz", ["a", "b"]) == " Known: a, b."


def test_unknown_name_prints_without_quotes():
    assert str(UnknownNameError("no critic 'x'.")) == "no critic 'x'."
    assert isinstance(UnknownNameError("x"), KeyError)


def test_a_home_directory_that_is_unknown_is_an_input_error(tmp_path, monkeypatch):
    """pathlib itself raises a bare RuntimeError."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert as_path("~/weights") == tmp_path / "weights"
    with pytest.raises(InputError, match="~no_such_user_at_all/x"):
        as_path("~no_such_user_at_all/x")
