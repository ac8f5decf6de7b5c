"""The figure of the search race: best value so far against cost, one curve per search."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

FONT_POINTS = 11.0
# Okabe and Ito's palette; the second round of strategies is dashed.
STYLES = [
    (colour, dashes)
    for dashes in ("-", (0, (5, 2)))
    for colour in ("#000000", "#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7")
]


@dataclass(frozen=True, kw_only=True)
class CostCurve:
    """One search: `value[k]` is the best value after `cost[k]` forward passes. Equal labels look equal."""

    label: str
    cost: Sequence[float]
    value: Sequence[float]


def draw_cost(searched: Sequence[CostCurve], held_out: Sequence[CostCurve], *, title: str) -> bytes:
    """A PNG of two panels: best value against cost on the search documents and on held-out documents.

    Each curve is a step function that ends with a dot where its search last improved.
    """
    figure = Figure(figsize=(13.0, 6.0), dpi=150, layout="constrained")
    figure.suptitle(title.replace("$", r"\$"), x=0.01, ha="left", fontsize=FONT_POINTS + 2)
    labels = list(dict.fromkeys(curve.label for curve in searched))
    styles = {label: STYLES[position % len(STYLES)] for position, label in enumerate(labels)}
    panels = ((searched, "search documents"), (held_out, "held-out documents"))
    for index, (curves, documents) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, 2, index)
        _draw_panel(axes, curves, styles)
        axes.set_ylabel(f"best perplexity so far, {documents}", fontsize=FONT_POINTS)
    for label, (colour, dashes) in styles.items():
        axes.plot([], [], color=colour, linestyle=dashes, linewidth=1.6, label=label.replace("$", r"\$"))
    # Below both panels, because curves may fill every corner.
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=FONT_POINTS - 1)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def _draw_panel(axes: Axes, curves: Sequence[CostCurve], styles: Mapping[str, tuple[str, object]]) -> None:
    for curve in curves:
        colour, dashes = styles[curve.label]
        axes.step(curve.cost, curve.value, where="post", color=colour, linestyle=dashes, linewidth=1.6)
        axes.plot(curve.cost[-1:], curve.value[-1:], "o", color=colour, markersize=4)
    ends = [curve.value[-1] for curve in curves]
    # A first population may begin far above; the comparison is of the ends.
    axes.set_ylim(0.97 * min(ends), 1.12 * max(ends))
    axes.set_xscale("log")
    axes.set_xlabel("cost, forward passes over the search documents", fontsize=FONT_POINTS)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(labelsize=FONT_POINTS)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, which="major", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
