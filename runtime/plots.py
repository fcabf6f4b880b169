"""What all figures share: colours, Matplotlib's default style, text without formulas, small PNG files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.files import atomic_path

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = BLACK, ORANGE, BLUE, GREEN, PURPLE, YELLOW, SKY, GREY = (
    "#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999",
)  # fmt: skip


def plain_text(text: str) -> str:
    """Text that Matplotlib draws literally: no part of it is read as a formula."""
    return text.replace("$", r"\$")


@contextmanager
def default_style() -> Iterator[None]:
    """Matplotlib's default settings instead of a matplotlibrc's or a notebook's. Decorates every drawing function."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # all but the backend
        yield


def save_png(path: Path, figure: Any, colours: int, dpi: int = 120) -> None:
    """Write a Matplotlib figure as PNG, whole or not at all. colours: largest number of colours, for a small file."""
    from PIL import Image

    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png", bbox_inches="tight")
        with Image.open(temporary) as image:
            few = image.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
        few.save(temporary, format="PNG", optimize=True)
