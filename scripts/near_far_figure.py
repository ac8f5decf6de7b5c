"""Draw docs/images/near-far.png: the angle of a score against the distance of query and key.

python scripts/near_far_figure.py
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ropewalk.factors.geometry import RopeGeometry
from ropewalk.rope.schemes import scheme_factors
from ropewalk.store import write_atomically

IMAGE = Path(__file__).parent.parent / "docs" / "images" / "near-far.png"
WINDOW, TARGET = 256, 1024
GEOMETRY = RopeGeometry(head_dim=64, rotary_dim=64, rope_theta=625.0, original_length=WINDOW, num_layers=1)


def main() -> None:
    near_far = scheme_factors("near-far", GEOMETRY, TARGET)
    rescale_factor, near_window = near_far.rescale_factors[0][0], near_far.near_window
    distances = np.arange(TARGET)
    beyond = near_window + (distances - near_window) / rescale_factor
    figure: Any = Figure(figsize=(8.0, 4.6), dpi=150, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axhspan(0, WINDOW, color="#009E73", alpha=0.12, label="angles that the model was trained with")
    axes.plot(distances, distances, color="#000000", linestyle=":", label="as trained")
    axes.plot(distances, distances * WINDOW / TARGET, color="#0072B2", linestyle="--", label="PI")
    axes.plot(
        distances,
        np.where(distances < near_window, distances, beyond),
        color="#D55E00",
        linewidth=2.5,
        label="near-far",
    )
    axes.axvline(near_window, color="#999999", linewidth=0.8)
    axes.annotate("W", (near_window, 1.42 * WINDOW), xytext=(5, 0), textcoords="offset points")
    axes.set(
        xlim=(0, TARGET),
        ylim=(0, 1.5 * WINDOW),
        xlabel="distance of query and key, tokens",
        ylabel="angle / theta of the pair, tokens",
        title=f"Trained window L = {WINDOW}, target L' = {TARGET}, near window W = {near_window}",
    )
    axes.set_xticks([0, near_window, WINDOW, 512, 768, TARGET])
    axes.set_yticks([0, near_window, 128, 192, WINDOW])
    axes.legend(loc="lower right")
    image = io.BytesIO()
    canvas.print_png(image)
    write_atomically(IMAGE, image.getvalue())


if __name__ == "__main__":
    main()
