"""The figure of perplexity against answers: one point per set of factors."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

FONT_POINTS, DPI = 11.0, 150
# Okabe and Ito's palette, with a marker for each group.
STYLES = [("#000000", "s"), ("#E69F00", "D"), ("#D55E00", "o"), ("#0072B2", "^"), ("#009E73", "v"),
          ("#CC79A7", "P")]  # fmt: skip
LINE = 110  # characters
WIDEST = 1.25  # the end of the axis, in units of the lowest perplexity
# Where a label may be, in points from its point, the best first.
SIDES = ((8, 3), (-8, 3), (0, 9), (0, -13), (8, 12), (-8, 12), (8, -12), (-8, -12))
OFFSETS = [(far * x, far * y) for far in (1, 2, 3) for x, y in SIDES]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One set of factors.

    Attributes:
        group: points of one group look alike.
        share: of questions that were answered, 0 to 1.
    """

    label: str
    group: str
    perplexity: float
    share: float


def draw_frontier(points: Sequence[Point], *, title: str) -> bytes:
    """A PNG; better is up and to the left. Points far to the right are listed below the axis instead.

    Args:
        points: at least one.
    """
    end = WIDEST * min(point.perplexity for point in points)
    inside = [point for point in points if point.perplexity <= end]
    beyond = [point for point in points if point.perplexity > end]
    figure = Figure(figsize=(10.0, 7.0), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title.replace("$", r"\$"), loc="left", fontsize=FONT_POINTS + 2)
    groups = dict.fromkeys(point.group for point in points)
    for index, (group, (colour, marker)) in enumerate(zip(groups, STYLES, strict=False)):
        of_group = [point for point in inside if point.group == group]
        axes.plot([p.perplexity for p in of_group], [100 * p.share for p in of_group], marker, color=colour,
                  markersize=10 - index, alpha=0.85, label=group)  # fmt: skip
    further = "; ".join(f"{one.label} {one.perplexity:.1f}, {one.share:.0%}" for one in beyond)
    below = f"\n{fill(f'Further right: {further}', LINE)}" if beyond else ""
    axes.set_xlabel(f"perplexity on unseen documents (lower is better){below}", fontsize=FONT_POINTS)
    axes.set_ylabel("questions answered, % (higher is better)", fontsize=FONT_POINTS)
    axes.tick_params(labelsize=FONT_POINTS)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(0.12)
    figure.legend(loc="outside lower center", ncols=6, frameon=False, fontsize=FONT_POINTS - 1)
    figure.draw_without_rendering()  # so that positions are known
    _write_labels(axes, inside, canvas.get_renderer())  # type: ignore[no-untyped-call]
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def _write_labels(axes: Axes, points: Sequence[Point], renderer: RendererAgg) -> None:
    """A label for each point; each is put where it covers the least of other labels and points."""
    scale = DPI / 72
    places = {place: axes.transData.transform(place) for place in map(_place, points)}
    radius = 5 * scale
    taken = [Bbox([middle - radius, middle + radius]) for middle in places.values()]
    # The most crowded points choose first.
    crowded = {place: sum(np.hypot(*(at - other)) < 60 * scale for other in places.values())
               for place, at in places.items()}  # fmt: skip
    for place in sorted(places, key=lambda place: (-crowded[place], place)):
        text = axes.annotate(
            ", ".join(point.label for point in points if _place(point) == place).replace("$", r"\$"),
            place, xytext=(0, 0), textcoords="offset points", fontsize=FONT_POINTS - 2,
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
        )  # fmt: skip
        costs = {}
        for offset in OFFSETS:
            box = _moved(text, offset, renderer)
            costs[offset] = sum(map(partial(_overlap, box), taken)) + _outside(box, axes.bbox)
        taken.append(_moved(text, min(OFFSETS, key=costs.__getitem__), renderer))


def _moved(text: Annotation, offset: tuple[int, int], renderer: RendererAgg) -> Bbox:
    """Puts a label at an offset; returns its box in pixels, without the line to its point."""
    text.set_horizontalalignment("left" if offset[0] > 0 else "right" if offset[0] else "center")
    text.set_position(offset)
    text.update_positions(renderer)
    return Text.get_window_extent(text)


def _overlap(one: Bbox, other: Bbox) -> float:
    """The common area, in square pixels."""
    common = Bbox.intersection(one, other)
    return 0.0 if common is None else common.width * common.height


def _outside(box: Bbox, whole: Bbox) -> float:
    """The area of a box outside of another."""
    return box.width * box.height - _overlap(box, whole)


def _place(point: Point) -> tuple[float, float]:
    return point.perplexity, 100 * point.share
