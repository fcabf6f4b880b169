"""Accuracy of a base classifier on the certified points, and a check of its pixel scale."""

from __future__ import annotations

import numpy as np

from runtime.lazy import keras, ops


def clean_accuracy(model: keras.Model, images: np.ndarray, truth: np.ndarray, num_classes: int, sigma: float) -> float:
    """Accuracy of the base classifier on images without noise. Prints it, with a note if the pixel scale seems wrong.

    images: (N, height, width, channels) in [0, 1]. truth: their classes, int (N,). sigma: standard deviation of noise.
    Other pixel scales are tried without and with this noise.
    """
    noise = np.random.default_rng(0).normal(0, sigma, images.shape).astype(np.float32)

    def accuracies(scale: float, offset: float) -> np.ndarray:
        """Accuracies without and with noise, on the pixels scale * x + offset."""
        pixels = np.float32(scale) * np.concatenate([images, images + noise]) + np.float32(offset)
        scores = [model(pixels[i : i + 500], training=False) for i in range(0, len(pixels), 500)]
        classes = np.concatenate([np.argmax(ops.convert_to_numpy(ops.cast(s, "float32")), axis=1) for s in scores])
        return np.mean(classes.reshape(2, -1) == truth, axis=1)

    on_unit = accuracies(1, 0)
    print(f"base classifier: accuracy {on_unit[0]:.3f} on these {len(images)} points without noise")
    pixels = {(255, 0): "0 to 255", (2, -1): "-1 to 1"}
    better = {scale: accuracies(*scale) - on_unit for scale in pixels}
    best = max(better, key=lambda scale: better[scale].max())
    if better[best].max() > 0.2:
        kind = int(better[best].argmax())
        what, there = ("it", "the accuracy with noise")[kind], (on_unit + better[best])[kind]
        print(
            f"note: on pixels {pixels[best]} {what} would be {there:.3f} in place of {on_unit[kind]:.3f}. The model "
            f"seems to be made for those; put keras.layers.Rescaling{best} in front of it"
        )
    elif on_unit[0] <= 1 / num_classes:
        print(
            f"note: that is no better than guessing ({1 / num_classes:.3f}). The class may be poisoned; if not, check "
            "the model's training, its pixel scale and its order of classes"
        )
    return float(on_unit[0])
