"""`benchmarks/cost_figure.py`: the figure of the search race shows where each search ends."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import cost_figure


def test_the_axis_spans_the_ends_of_the_curves_not_their_beginnings(monkeypatch):
    limits = []
    original = cost_figure.Figure.savefig

    def keep(figure, *given, **named):
        limits.extend(axes.get_ylim() for axes in figure.axes)
        return original(figure, *given, **named)

    monkeypatch.setattr(cost_figure.Figure, "savefig", keep)
    far = cost_figure.CostCurve(label="evolution", cost=[1, 2, 1344], value=[60.0, 12.0, 10.0])
    near = cost_figure.CostCurve(label="gradient", cost=[1, 27], value=[9.6, 9.1])
    png = cost_figure.draw_cost([far, near], [far, near], title="a race")
    assert png.startswith(b"\x89PNG")
    assert len(limits) == 2
    assert all(low < 9.1 and 10.0 < high < 12.0 for low, high in limits)
