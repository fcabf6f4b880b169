"""The settings, machine description and record that all benchmarks share."""

import os
import platform
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime import onednn_in_force
from runtime.files import write_json
from runtime.lazy import keras
from runtime.provenance import has_bfloat16_units, printed_path, provenance
from runtime.text_tables import rows_as_text


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Settings of every benchmark."""

    quick: bool = False
    """Toy sizes, to show that everything runs. The numbers mean nothing."""
    out: Path | None = None
    """JSON file for the rows, with commit, versions and machine."""


def finish(config: BenchmarkConfig, about: dict[str, str], rows: list[dict[str, Any]]) -> None:
    """Print the rows of a benchmark, and write them where ``config.out`` asks for it."""
    print(rows_as_text(rows))
    if config.quick:
        print("toy sizes: these numbers mean nothing")
    if config.out is not None:
        write_json(config.out, {"about": about, "rows": rows, **provenance(config)})
        print(f"written to {printed_path(config.out)}")


def peak_resident_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # the kernel gives bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def machine() -> dict[str, str]:
    """Print and return the conditions of the measurement: backend, devices, processor, cores, load before the run."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    about = {
        "backend": keras.backend.backend(),
        "devices": ", ".join(map(str, keras.distribution.list_devices())),
        "processor": (models or [platform.processor() or platform.machine()])[0],
        "cores": str(os.cpu_count()),
        "oneDNN": {None: "not known", True: "on", False: "off"}[onednn_in_force()],
        "bfloat16 units": {None: "not known", True: "yes", False: "no"}[has_bfloat16_units()],
        "load before the run (should be near 0)": f"{os.getloadavg()[0]:.1f}",
    }
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    return about
