"""The entries of tables: their runs, with the numbers that tables and figures show. Files of certificates."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluation.tables.cells import Cell
from randomized_smoothing_certification.certificate_file import Point, read_known_points
from randomized_smoothing_certification.certificate_record import recorded_settings, recorded_victim
from randomized_smoothing_certification.certificate_summary import share_at_ceiling
from runtime.files import InputError

MUST_AGREE = ("test_sha256", "split", "sigma", "n0", "n", "alpha", "radius_loss", "noise", "precision")
"""Settings of certificates that must be equal, where they are known, so that radii can be compared."""


def require_different_files(files: Iterable[Path]) -> None:
    """Raise InputError for a file of certificates that is given twice, also through links."""
    known = set[Path]()
    for file in files:
        if (place := file.resolve()) in known:
            raise InputError(f"{file}: is given twice; give each victim's file once")
        known.add(place)


class Certified(NamedTuple):
    """A file with the certificates of one victim."""

    file: Path
    points: list[Point]  # sorted by idx
    settings: dict[str, Any]  # of the certificates, {} where they are not known
    victim: dict[str, Any]  # record of the model that was certified, {} where it is not at hand

    @property
    def training(self) -> dict[str, Any]:
        """Settings of the victim's training, {} where they are not known."""
        return self.victim.get("settings", {})

    @property
    def training_data(self) -> str:
        """The victim's training data: clean or poisoned_radius. '' where not known."""
        return self.victim.get("config", {}).get("training_data") or ""


def read_certified(files: Sequence[Path]) -> list[Certified]:
    """Read files of certificates. Raises InputError for a damaged or unfinished file, and for one victim twice."""
    require_different_files(files)
    found, victims = [], dict[str, Path]()
    for file in files:
        settings = recorded_settings(file)
        if (first := victims.setdefault(str(settings.get("model_sha256") or file), file)) != file:
            raise InputError(f"{first}: is of the same victim as {file}; give each victim's file once")
        found.append(Certified(file, sorted(read_known_points(file)), settings, recorded_victim(settings)))
    return found


class Run(NamedTuple):
    """One victim of an entry."""

    seed: int
    radii: np.ndarray  # float (points,), the class's points, -1 where not certified correctly
    records: dict[str, Any]  # settings of certificate, victim and poison
    sigma: float
    target_class: int
    idx: np.ndarray  # int (points,), numbers of the test images
    other_radii: np.ndarray = np.empty(0)  # points of all other classes, if they were certified

    @property
    def acr(self) -> float:
        """Average certified radius: abstentions and wrong classes count 0."""
        return float(np.maximum(self.radii, 0).mean())

    def certified_at(self, radius: float) -> float:
        """Approximate certified accuracy: the share of points with at least this radius."""
        return float(np.mean(self.radii >= radius))

    @property
    def at_ceiling(self) -> float | None:
        """The share of points with the largest radius that n votes can certify. None: n is not known."""
        n, alpha, sigma, noise = (self.certificate.get(name) for name in ("n", "alpha", "sigma", "noise"))
        if not (n and alpha and sigma):
            return None
        return share_at_ceiling(self.radii, n, alpha, sigma, (noise or {}).get("failure_mass", 0.0))

    @property
    def others_acr(self) -> float | None:
        """Average certified radius of the other classes, None where they were not certified."""
        return float(np.maximum(self.other_radii, 0).mean()) if len(self.other_radii) else None

    @property
    def others_certified_accuracy(self) -> float | None:
        """Approximate certified accuracy at radius 0 of the other classes."""
        return float(np.mean(self.other_radii >= 0)) if len(self.other_radii) else None

    @property
    def accuracy(self) -> float | None:
        """Accuracy on the clean test images without noise, None where it is not known."""
        return self.records["victim"].get("accuracy")

    @property
    def target_accuracy(self) -> float | None:
        """Accuracy on the clean test images of the certified class. The record's target_accuracy may be of another."""
        return self.records["victim"].get(f"accuracy_class_{self.target_class}")

    @property
    def certificate(self) -> dict[str, Any]:
        """Settings of the certificate. For another program's certificates: those of MUST_AGREE that are known."""
        return self.records.get("certificate", {}).get("settings") or self.records.get("foreign", {})

    @property
    def visibility(self) -> dict[str, float]:
        """Measurements of its poison by evaluation/visibility.py, by name. Empty where there are none."""
        measured = self.records.get("visibility", {}).get("measured") or {}
        sizes = {name: size for name, size in measured.items() if name != "auc"}
        return sizes | {f"auc_{name}": area for name, area in measured.get("auc", {}).items()}

    @property
    def attack(self) -> dict[str, str]:
        """Optimiser and parametrisation of the attack that made its poison. Empty for controls and clean data."""
        if "epochs" not in self.poison:
            return {}
        older = {"optimiser": "approxgrad", "parametrisation": "per_image"}  # of records older than these settings
        return {name: str(self.poison.get(name, default)) for name, default in older.items()}

    @property
    def poison(self) -> dict[str, Any]:
        """Settings of its poison, as far as its record says them. Empty for clean data."""
        return self.records.get("poison", {}).get("settings", {})

    @property
    def gradients(self) -> float | None:
        """Gradients of a batch of training images that the attack computed. None: not known."""
        return self.records.get("poison", {}).get("gradients")


class Entry(NamedTuple):
    """An entry of a table: what it is about, and the runs that exist."""

    cell: Cell
    wanted: int  # runs that it should have
    runs: tuple[Run, ...]
