"""Pictures of poison."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from runtime.plots import default_style, plain_text, save_png


@default_style()
def save_image_grids(
    path: Path, grids: Mapping[str, tuple[np.ndarray, np.ndarray]], epsilon: float, title: str = "", columns: int = 10
) -> None:
    """Draw a grid for each entry, as PNG. Its rows show the first images: clean, poisoned, amplified difference.

    grids: clean images and poison by name, (N, H, W, C) float32 in [0, 1]. Only the first channel is drawn unless there
    are 3 channels. Differences are scaled from [-epsilon, epsilon] to [0, 1], so that grey means no change. Below each
    difference stand its l-infinity and l2 norms.
    """
    from matplotlib.figure import Figure

    columns = min(columns, *(len(clean) for clean, _ in grids.values()))
    figure = Figure(figsize=(columns * 0.9 + 1, 3.3 * len(grids) + bool(title) * 0.4), layout="constrained")
    parts = figure.subfigures(len(grids), 1, squeeze=False)[:, 0]
    for part, (name, (clean, poison)) in zip(parts, grids.items(), strict=True):
        change, scale = poison[:columns] - clean[:columns], f"white +{epsilon:g}\ngrey 0"
        rows = {"clean": clean, "poison": poison, f"difference\n{scale}": 0.5 + change / (2 * epsilon)}
        axes = part.subplots(3, columns, squeeze=False)
        part.suptitle(plain_text(name), fontsize="medium")
        for line, (label, images) in zip(axes, rows.items(), strict=True):
            line[0].set_ylabel(label)
            for axis, image in zip(line, images, strict=False):
                shown = image if image.shape[-1] == 3 else image[..., 0]
                axis.imshow(np.clip(shown, 0, 1), cmap="gray", vmin=0, vmax=1)
                axis.set_xticks([])
                axis.set_yticks([])
        for axis, delta in zip(axes[-1], change, strict=True):
            axis.set_xlabel(f"l∞ {np.abs(delta).max():.3f}\nl2 {np.linalg.norm(delta):.2f}", fontsize=7)
    figure.suptitle(plain_text(title), fontsize="large")
    save_png(path, figure, colours=256)
