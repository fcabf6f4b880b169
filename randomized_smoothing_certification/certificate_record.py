"""What the records around a file of certificates say: the settings that it was made with, and its model's training."""

import contextlib
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from data.datasets import Sigma
from randomized_smoothing_certification.certificate_file import read_certificate_record
from randomized_smoothing_certification.sampling import Probability, Votes
from runtime.bounds import Bound
from runtime.files import InputError, read_json, read_record
from runtime.part_by_part import settings_path
from runtime.provenance import project_path


class MadeWith(NamedTuple):
    """The settings of a file's certificates."""

    sigma: Sigma
    votes: Annotated[Votes, Bound("be below 10^9, from which NumPy can draw", lambda votes: votes < 10**9)]
    alpha: Probability
    failure_mass: Annotated[float, Bound("be at least 0 and below 0.5", lambda mass: 0 <= mass < 0.5)]


def recorded_settings(path: Path) -> dict[str, Any]:
    """Settings of certificates, with n, sigma, alpha and failure_mass, from the record beside the file; {} without one.

    A certification run, fewer_votes.py or evaluation/tables/certificates.py wrote the record. 'model' is the path of
    the model that was certified, or 'victim' its record. Raises InputError for a damaged record.
    """
    if settings_path(path).is_file():
        record = read_certificate_record(path)
        settings, model = record["settings"], record["provenance"].get("config", {}).get("model", "")
        return {**settings, "failure_mass": settings["noise"].get("failure_mass", 0.0), "model": model}
    if (own := path.with_suffix(".json")).is_file() and "made_with" in (made := read_record(own)):
        try:
            known = msgspec.convert([made["made_with"][name] for name in MadeWith._fields], MadeWith)
            more = msgspec.convert(made.get("settings", {}), dict)  # files of older versions have none
            return {**more, **known._asdict(), "n": msgspec.convert(made["config"]["n"], int)}
        except (KeyError, TypeError, msgspec.ValidationError) as error:
            raise InputError(f"{own}: not a record of fewer_votes.py; make it again, or move it away") from error
    with contextlib.suppress(InputError, LookupError, TypeError, AttributeError, msgspec.ValidationError):
        exported = read_json(path.with_name("settings.json"))[path.stem.removeprefix("seed_")]  # where it is one
        settings = exported["certificate"]["settings"]
        mass = (settings.get("noise") or {}).get("failure_mass", 0.0)
        msgspec.convert([settings["sigma"], settings["n"], settings["alpha"], mass], MadeWith)
        return {**settings, "failure_mass": mass, "victim": msgspec.convert(exported["victim"], dict)}
    return {}


def recorded_victim(known: dict[str, Any]) -> dict[str, Any]:
    """The record of the model that was certified, {} where it is not at hand. known: from ``recorded_settings``."""
    if "victim" in known:
        whole = all(isinstance(known["victim"].get(name), dict) for name in ("settings", "config"))
        return known["victim"] if whole else {}
    with contextlib.suppress(KeyError, TypeError, ValueError, OSError):  # no record of this project, or none at all
        # The path is as it was given: relative to the project or to the folder of the run.
        for path in (project_path(known["model"]), Path(known["model"])):
            if (file := path.with_suffix(".json")).is_file():
                record = read_record(file, settings=dict, config=dict)
                if record.get("sha256") == known["model_sha256"]:
                    return record
    return {}
