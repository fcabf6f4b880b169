"""Paths of a plan's files."""

from pathlib import Path
from typing import NamedTuple

from data.datasets import MANIFEST, poison_paths
from evaluation.tables.cells import CLEAN, Cell, Poison
from models.saving import victim_name

PAGES = ("tables.md", "tables.tex", "tables.csv", "tables.html")
FIGURES = {
    "acr.png": "average certified radius", "p_a.png": "lower bound of p_A",
    "certified_accuracy.png": "certified accuracy against radius",
}  # fmt: skip


class Paths(NamedTuple):
    """The three folders of a plan, and each file in them."""

    data: Path  # prepared arrays
    work: Path  # poison, victims, certificates, checkpoints, logs
    results: Path  # tables and figures

    @property
    def manifest(self) -> Path:
        """File that exists when the data are prepared."""
        return self.data / MANIFEST

    @property
    def plan(self) -> Path:
        """The plan with the changes of the command line."""
        return self.work / "plan.json"

    @property
    def incomplete(self) -> Path:
        """Folder of tables and figures where some jobs of the plan failed."""
        return self.work / "incomplete"

    def poison(self, poison: Poison) -> Path:
        """Images of a poison. Its record is the .json beside it."""
        name = poison_paths(Path(), poison.against, poison.sigma, poison.target_class)[0].name
        return self.work / "poison" / poison.key / name

    def visibility(self, poison: Poison) -> Path:
        """Record of a poison's visibility."""
        return self.work / "visibility" / f"{poison.key}.json"

    def model(self, cell: Cell, seed: int) -> Path:
        """A trained victim. Its record is the .json beside it. A clean victim serves every class."""
        victim = cell.victim
        data = self.poison(cell.poison).stem.removeprefix("X_") if cell.poison else CLEAN
        name = victim_name(victim.method, victim.sigma, data, seed)
        return self.work / "victims" / victim.key / cell.data / name

    def certificate(self, cell: Cell, seed: int, shard: str = "") -> Path:
        """Certificates (.tsv) of one victim. When they are whole, a .summary.json exists beside them."""
        return self.work / "certificates" / cell.key / f"seed_{seed}{shard}.tsv"
