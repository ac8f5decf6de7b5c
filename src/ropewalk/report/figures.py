"""Figures of given curves: perplexity against length, and rescale factors by pair.

A scheme has the same colour and dashes in every figure. Colours are Okabe and Ito's palette for all kinds of
colour vision; related schemes (YaRN's three forms) differ in their dashes. Each line is labelled at its end
instead of in a legend.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from scipy.optimize import isotonic_regression

SIZE_INCHES = (10.0, 6.0)
DPI = 150
FONT_POINTS = 11.0
LABEL_GAP = 0.042  # share of the axes' height between the middles of two labels
SAMPLE = (1.04, 1.08)  # ends of a label's line sample, as shares of the axes' width
SEARCHED = "searched"

_BLACK, _GREY = "#000000", "#6F6F6F"
_ORANGE, _SKY, _GREEN, _BLUE, _VERMILION, _PURPLE = (
    "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
_SOLID, _DASHED, _DOTTED = "-", (0, (5, 2)), (0, (1.2, 1.6))

STYLES: dict[str, tuple[str, Any]] = {
    SEARCHED: (_VERMILION, _SOLID),
    "none": (_GREY, _SOLID),
    "untouched": (_GREY, _SOLID),
    "sliding window": (_BLACK, _DASHED),
    "pi": (_SKY, _SOLID),
    "ntk": (_GREEN, _SOLID),
    "dynamic-ntk": (_GREEN, _DASHED),
    "yarn": (_BLUE, _SOLID),
    "yarn-paper": (_BLUE, _DASHED),
    "yarn:attention_factor=1": (_BLUE, _DOTTED),
    "llama3": (_ORANGE, _SOLID),
    "mrrope-uni": (_PURPLE, _DASHED),
    "mrrope-pro": (_PURPLE, _SOLID),
    "near-far": (_SKY, _DASHED),
}
_OTHERS = [
    (colour, dashes) for dashes in (_DOTTED, _DASHED) for colour in (_BLACK, _VERMILION, _GREEN, _ORANGE)
]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a figure; `low` and `high` are the 95% interval of `y`, or empty if it is unknown."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def draw_perplexity(curves: Sequence[Curve], *, original_length: int, title: str) -> bytes:
    """Returns a PNG of perplexity against length in tokens, with logarithmic axes and the window marked.

    Args:
        original_length: the window of the model's training, tokens.
    """
    figure, axes = _canvas(title)
    _draw_lines(axes, curves)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    shaded = " (shaded: 95% interval of the searched factors over documents)"
    known = any(curve.label == SEARCHED and curve.low for curve in curves)
    axes.set_xlabel(f"length read, tokens{shaded if known else ''}")
    axes.set_ylabel("perplexity")
    lengths = sorted({x for curve in curves for x in curve.x})
    _plain_ticks(axes, lengths)
    _mark(axes, original_length, f"trained window, {original_length} tokens", 0.99)
    _label_ends(axes, curves)
    return _png(figure)


def draw_factors(curves: Sequence[Curve], *, first_unfinished_pair: int, title: str) -> bytes:
    """Returns a PNG of rescale factors by pair.

    Args:
        first_unfinished_pair: the first pair that makes less than one turn in the trained window; marked.
    """
    figure, axes = _canvas(title)
    _draw_lines(axes, curves)
    axes.set_yscale("log", base=2)
    axes.set_xlabel("rotary pair, fastest first")
    axes.set_ylabel("rescale factor: how many times slower the pair rotates")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    last = max(x for curve in curves for x in curve.x)
    if first_unfinished_pair <= last:
        _mark(axes, first_unfinished_pair - 0.5, "no full turn in the trained window", 0.2)
    _label_ends(axes, curves)
    return _png(figure)


def style_of(label: str, position: int = 0) -> tuple[str, Any]:
    """Returns colour and dashes: fixed for known labels, by `position` for others."""
    return STYLES.get(label) or _OTHERS[position % len(_OTHERS)]


def _canvas(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(_literal(title), loc="left", fontsize=FONT_POINTS + 2)
    _make_plain(axes)
    return figure, axes


def _make_plain(axes: Axes) -> None:
    axes.tick_params(labelsize=FONT_POINTS)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(FONT_POINTS)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, which="major", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_lines(axes: Axes, curves: Sequence[Curve]) -> None:
    for position, curve in enumerate(curves):
        colour, dashes = style_of(curve.label, position)
        ours = curve.label == SEARCHED
        axes.plot(
            curve.x,
            curve.y,
            color=colour,
            linestyle=dashes,
            linewidth=_width(curve),
            marker="o" if ours else None,
            markersize=4,
            zorder=3 if ours else 2,
        )
        if ours and curve.low and curve.high:
            axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)


def _plain_ticks(axes: Axes, lengths: Sequence[float]) -> None:
    plain = FuncFormatter(lambda value, _: f"{value:g}" if value < 1e6 else f"{value:.3g}")
    axes.xaxis.set_major_locator(FixedLocator(list(lengths)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    low, high = axes.get_ylim()
    steps = [digit * 10.0**power for power in range(-2, 9) for digit in (1, 1.5, 2, 3, 5, 7)]
    axes.yaxis.set_major_locator(FixedLocator([step for step in steps if low <= step <= high]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(plain)


def _mark(axes: Axes, x: float, text: str, height: float) -> None:
    axes.axvline(x, color=_GREY, linewidth=1, linestyle=_DOTTED)
    where = axes.get_xaxis_transform()
    axes.text(x, height, f" {text}", transform=where, va="top", fontsize=FONT_POINTS - 1, color=_GREY)


def _label_ends(axes: Axes, curves: Sequence[Curve]) -> None:
    """Labels every line at the right of its end, with a sample of its dashes; labels do not overlap."""
    to_height = _height_of(axes)
    ends = [to_height(curve.y[-1]) for curve in curves]
    for index, height in zip(_order(ends), spread(sorted(ends), LABEL_GAP), strict=True):
        curve = curves[index]
        colour, dashes = style_of(curve.label, index)
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 1}
        axes.annotate(
            "",
            xy=(curve.x[-1], curve.y[-1]),
            xytext=(SAMPLE[0], height),
            textcoords="axes fraction",
            annotation_clip=False,
            arrowprops=leader,
        )
        sample = {"color": colour, "linestyle": dashes, "linewidth": _width(curve), "clip_on": False}
        axes.plot(SAMPLE, [height, height], transform=axes.transAxes, **sample)
        weight = "bold" if curve.label == SEARCHED else "normal"
        axes.text(
            SAMPLE[1] + 0.01, height, _literal(curve.label), transform=axes.transAxes, va="center",
            color=colour, fontsize=FONT_POINTS, fontweight=weight,
        )  # fmt: skip


def _width(curve: Curve) -> float:
    return 3.0 if curve.label == SEARCHED else 1.8


def _height_of(axes: Axes) -> Callable[[float], float]:
    transform = axes.transData + axes.transAxes.inverted()
    left = axes.get_xlim()[0]
    return lambda y: float(transform.transform((left, y))[1])


def _order(values: Sequence[float]) -> list[int]:
    return sorted(range(len(values)), key=lambda index: values[index])


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Returns heights at least `gap` apart, within 0 to 1, nearest to the given ones in least squares.

    Args:
        heights: ascending. If there are too many for 0 to 1, the last ones lie above 1.
    """
    flat = isotonic_regression([height - index * gap for index, height in enumerate(heights)]).x
    ceiling = max(0.0, 1.0 - (len(heights) - 1) * gap)
    return [min(max(mean, 0.0), ceiling) + index * gap for index, mean in enumerate(flat.tolist())]


def _literal(text: str) -> str:
    """Escapes dollar signs, which would begin a formula."""
    return text.replace("$", r"\$")


def _png(figure: Figure) -> bytes:
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()
