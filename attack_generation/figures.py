"""Pictures of poison."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from runtime.files import atomic_path


@contextmanager
def default_style() -> Iterator[None]:
    """Matplotlib's own settings, whatever a matplotlibrc or a notebook says; the decorator of all that draws here."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # all but the backend
        yield


def save_png(path: Path, figure: Any, dpi: int = 120) -> None:
    """Write a Matplotlib figure as PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png", bbox_inches="tight")


@default_style()
def save_image_grid(path: Path, clean: np.ndarray, poison: np.ndarray, epsilon: float, columns: int = 10) -> None:
    """Draw the first images clean, poisoned and their amplified difference, one row each, as PNG.

    clean, poison: (N, H, W, C) float32 in [0, 1], C 1 or 3. The difference is scaled from [-epsilon, epsilon] to
    [0, 1], grey where nothing changed; below it stand its l-infinity and l2 distances.
    """
    from matplotlib.figure import Figure

    columns = min(columns, len(clean))
    rows = {
        "clean": clean[:columns],
        "poison": poison[:columns],
        f"difference\n(±{epsilon:g})": 0.5 + (poison[:columns] - clean[:columns]) / (2 * epsilon),
    }
    change = (poison[:columns] - clean[:columns]).reshape(columns, -1)
    figure = Figure(figsize=(columns * 0.9 + 1, 3.3), layout="constrained")
    axes = figure.subplots(3, columns, squeeze=False)
    for line, (title, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(title)
        for axis, image in zip(line, images, strict=True):
            axis.imshow(np.clip(image, 0, 1).squeeze(), cmap="gray", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, one in zip(axes[-1], change, strict=True):
        axis.set_xlabel(f"l∞ {np.abs(one).max():.3f}\nl2 {np.linalg.norm(one):.2f}", fontsize=7)
    save_png(path, figure)
