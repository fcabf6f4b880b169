"""The cells of a plan's tables, and their files. An entry (runs.py) is a cell with its runs."""

from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from attack_generation.controls import CONTROLS
from data.datasets import MANIFEST, Sigma, poison_paths
from models.saving import victim_name
from randomized_smoothing_certification.sampling import ALPHA, Votes
from runtime.bounds import PROBABILITY, between, require_bounds
from runtime.checks import LARGEST_COUNT, require_name
from runtime.files import InputError

CLEAN, OPTIMISED, READY = "clean", "optimised", "ready"
ROWS = (CLEAN, *CONTROLS, OPTIMISED)
PAGES = ("tables.md", "tables.tex", "tables.csv", "tables.html")
FIGURES = {
    "acr.png": "average certified radius", "p_a.png": "lower bound of p_A",
    "certified_accuracy.png": "certified accuracy against radius",
}  # fmt: skip


def of_share(share: float) -> str:
    """What follows the name of poison in tables: the poisoned share of the class, '' for the whole class."""
    return f", {100 * share:g} % of the class" if share < 1 else ""


class Poison(NamedTuple):
    """One poisoned training set: how the target class's images were changed."""

    against: str  # the method that it was made against, a control, or READY
    architecture: str  # model of the attack; '' for a control
    sigma: float
    target_class: int
    variant: str = ""  # name of the attack in Plan.attacks, or of the poison in Plan.ready
    share: float = 1.0  # of the class's training images

    @property
    def key(self) -> str:
        """Name of its folder."""
        share = f"share_{self.share:g}" if self.share < 1 else ""
        about = self.against, self.architecture, f"sigma_{self.sigma}", f"class_{self.target_class}", self.variant
        return "_".join(filter(None, (*about, share)))

    @property
    def row(self) -> str:
        """Its name in the plan and in tables: a control, 'optimised', a named attack or a ready poison."""
        name = self.variant or (self.against if self.against in CONTROLS else OPTIMISED)
        return name + of_share(self.share)

    def __str__(self) -> str:
        made = f" against {self.against} with {self.architecture}" if self.architecture else ""
        return f"{self.row}{made}, σ = {self.sigma:g}, class {self.target_class}"


class Victim(NamedTuple):
    """One kind of victims: method, noise level, model and variant (how they are trained), without training data."""

    method: str
    sigma: float
    architecture: str
    variant: str = ""  # a name in Plan.victims, '' where the plan names none

    @property
    def key(self) -> str:
        """Name of its folder."""
        return "_".join(filter(None, (self.method, self.architecture, f"sigma_{self.sigma}", self.variant)))

    def __str__(self) -> str:
        how = ", ".join(filter(None, (self.architecture, self.variant)))
        return f"{self.method}{how and f' ({how})'}, σ = {self.sigma:g}"


class Cell(NamedTuple):
    """What an entry is about: its victims, their training data and the certified class."""

    victim: Victim
    target_class: int
    poison: Poison | None  # None: clean data

    @property
    def data_folder(self) -> str:
        """Name of the training data's folder."""
        return self.poison.key if self.poison else CLEAN

    @property
    def key(self) -> str:
        """Name of the cell's folder."""
        return f"{self.victim.key}/{self.data_folder}/class_{self.target_class}"

    @property
    def row(self) -> str:
        """Name of the training data in the plan and in tables."""
        return self.poison.row if self.poison else CLEAN

    def __str__(self) -> str:
        data = str(self.poison or CLEAN).removesuffix(f", σ = {self.victim.sigma:g}, class {self.target_class}")
        return f"{self.victim}, class {self.target_class}, training data: {data}"


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
        return self.work / "victims" / victim.key / cell.data_folder / name

    def certificate(self, cell: Cell, seed: int, shard: str = "") -> Path:
        """Certificates (.tsv) of one victim. When they are whole, a .summary.json exists beside them."""
        return self.work / "certificates" / cell.key / f"seed_{seed}{shard}.tsv"


class Foreign(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Certificates that another program wrote: a file for each run, in the columns of Cohen et al.'s code."""

    method: str
    sigma: Sigma
    target_class: Annotated[int, between(0, LARGEST_COUNT)]
    files: tuple[str, ...]
    architecture: str = ""
    victim: str = ""  # a name in Plan.victims
    poison: str = CLEAN  # clean, a control, 'ready', or the method that the poison was made against
    poison_architecture: str = ""
    poison_variant: str = ""  # a name in Plan.attacks or Plan.ready
    accuracy: Annotated[float, between(0, 1)] | None = None  # on the clean test images, if known
    n: Votes | None = None  # votes, if known. Entries with different n are not compared
    alpha: Annotated[float, PROBABILITY] = ALPHA  # error probability of a certificate

    def check(self) -> None:
        """Raise InputError on a value that cannot work. Names become folders of the results."""
        for name in ("method", "poison", "architecture", "victim", "poison_architecture", "poison_variant"):
            if getattr(self, name) or name in ("method", "poison"):  # the others may be empty
                require_name(f"foreign: {name}", getattr(self, name))
        require_bounds(self, " of foreign certificates")
        if not self.files:
            raise InputError("foreign: files names no file; give at least one file of certificates")

    @property
    def cell(self) -> Cell:
        """Its entry of a table."""
        poison = Poison(self.poison, self.poison_architecture, self.sigma, self.target_class, self.poison_variant)
        poisoned = None if self.poison == CLEAN else poison
        return Cell(Victim(self.method, self.sigma, self.architecture, self.victim), self.target_class, poisoned)
