"""Glyphs to learn strokes from."""

import numpy as np

from blemish.nets.strokes import KINDS, SIDE, draw


def test_a_glyph_is_a_function_of_three_numbers() -> None:
    first = [draw(3, 1, index) for index in range(40)]
    again = [draw(3, 1, index) for index in reversed(range(40))][::-1]
    for (picture, kind), (other, other_kind) in zip(first, again, strict=True):
        assert np.array_equal(picture, other)
        assert kind == other_kind
    pictures = {draw(*numbers)[0].tobytes() for numbers in ((3, 1, 0), (3, 1, 1), (3, 2, 0), (4, 1, 0))}
    assert len(pictures) == 4


def test_glyphs_look_like_digits() -> None:
    """Bright on black, whole, centred as MNIST's are, a fifth of the picture, and all kinds alike often."""
    drawn = [draw(0, 0, index) for index in range(1000)]
    pictures = np.stack([picture for picture, _ in drawn])
    assert pictures.shape == (1000, SIDE, SIDE)
    assert pictures.dtype == np.uint8
    assert (pictures.reshape(1000, -1).max(1) > 100).all()
    rim = pictures.astype(float)
    rim[:, 2:-2, 2:-2] = 0
    assert rim.sum() < 0.01 * pictures.sum()
    assert 0.05 < (pictures > 127).mean() < 0.2
    assert np.bincount([kind for _, kind in drawn], minlength=len(KINDS)).min() > 70
