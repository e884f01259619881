"""The figures that all pages share."""

import pandas as pd
import pytest

import nclib as nc


@pytest.mark.parametrize(
    "names",
    [
        ["adversarial", "adversarial, augmented"],
        ["new", "standard", "other"],
        ["PGD", "worst of several", "clean", "more"],
    ],
)
def test_two_lines_of_one_figure_never_share_a_colour(names):
    """A name without a colour of its own gets one that no other name of the figure has."""
    frame = pd.DataFrame([dict(model=n, measure="nc1", epoch=e, value=1.0) for n in names for e in (1, 2)])
    figure = nc.figures.panels(frame, x="epoch", hue="model", style=None, measures=["nc1"])
    drawn = [line.get_color() for line in figure.axes[0].get_lines() if len(line.get_xdata())]
    assert len(set(map(str, drawn))) == len(names)
    assert all(nc.figures.COLORS[name] in drawn for name in names if name in nc.figures.COLORS)
