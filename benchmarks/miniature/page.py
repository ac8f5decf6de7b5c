"""Tables and the report: what is shown, apart from how it was measured."""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from miniature.readings import Reading, Share, cell
from ropewalk.report.figures import DPI, SIZE_INCHES, Curve, style_of

Rows = list[list[object]]


@dataclass(frozen=True)
class Grid:
    """Rows under a header, the first column being names."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]

    def markdown(self) -> list[str]:
        lines = [self.caption, ""] if self.caption else []
        lines.append(f"| {' | '.join(self.header)} |")
        lines.append("| --- " * len(self.header) + "|")
        lines += [f"| {' | '.join(map(cell, row))} |" for row in self.rows]
        return [*lines, ""]


@dataclass(frozen=True, kw_only=True)
class Page:
    """One table of the report.

    Attributes:
        verdicts: a sentence each, made from the data, on whether the paper's claim holds here.
        notes: what a reader must know to read the numbers.
        figure: makes a PNG; None without one.
    """

    grids: Sequence[Grid]
    verdicts: Sequence[str]
    notes: str = ""
    figure: Callable[[], bytes] | None = None


@dataclass(frozen=True)
class Claim:
    """A table that can be asked for.

    Attributes:
        name: for `--table`.
        paper: which tables and figures of the paper it repeats, and what they say.
        make: asks a bench for all it shows.
        needs_run: whether it needs a run of `ropewalk extend`.
    """

    name: str
    title: str
    paper: str
    make: Callable[..., Page]
    needs_run: bool = False


@dataclass
class Written:
    """A claim's part of the report."""

    lines: list[str] = field(default_factory=list)
    figure: bytes | None = None


def write_claim(number: int, claim: Claim, page: Page | None, num_cells: int, num_missing: int) -> Written:
    """Markdown of a claim; without a page, or with no cell at all, it is named as missing."""
    written = Written([f"## {number}. {claim.title}", "", f"The paper: {claim.paper}", ""])
    if page is None or num_cells == 0:
        why = "no run of `ropewalk extend` was given" if page is None else "none of its cells is measured"
        written.lines += [f"MISSING: {why}.", ""]
        return written
    if num_missing:
        written.lines += [
            f"INCOMPLETE: {num_cells} cells are measured, {num_missing} of what it shows are not.",
            "",
        ]
    written.lines += [f"- {sentence}" for sentence in page.verdicts] + [""]
    for grid in page.grids:
        written.lines += grid.markdown()
    if page.notes:
        written.lines += [page.notes, ""]
    written.figure = page.figure() if page.figure is not None else None
    return written


# ---------------------------------------------------------------- figures


def curve(label: str, readings: Iterable[Reading | None]) -> Curve | None:
    """Perplexity against length of what was measured."""
    known = [reading for reading in readings if reading is not None]
    if not known:
        return None
    bounds = [reading.interval for reading in known]
    whole = all(low is not None for low, _ in bounds)
    return Curve(
        label=label,
        x=[reading.length for reading in known],
        y=[reading.perplexity for reading in known],
        low=[low for low, _ in bounds if low is not None] if whole else (),
        high=[high for _, high in bounds if high is not None] if whole else (),
    )


def draw_shares(shares: Sequence[Share], *, title: str) -> bytes:
    """A PNG of passkeys found against length, with their intervals and the paper's 90%."""
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left")
    for position, label in enumerate(dict.fromkeys(share.label for share in shares)):
        here = [share for share in shares if share.label == label]
        colour, dashes = style_of(label, position)
        y = [share.found / share.n for share in here]
        bounds = [share.interval for share in here]
        bars = [[max(0.0, v - low) for v, (low, _) in zip(y, bounds, strict=True)],
                [max(0.0, high - v) for v, (_, high) in zip(y, bounds, strict=True)]]  # fmt: skip
        axes.errorbar(
            [share.length for share in here], y, yerr=bars, color=colour, linestyle=dashes, marker="o",
            capsize=4, label=label,
        )  # fmt: skip
    axes.axhline(0.9, color="#6F6F6F", linewidth=1, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({share.length for share in shares}))
    axes.get_xaxis().set_major_formatter(lambda value, _: f"{value:.0f}")
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("length of prompt and answer, tokens")
    axes.set_ylabel("passkeys found (bars: 95% interval; dotted: the paper's 90%)")
    axes.legend(frameon=False)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()
