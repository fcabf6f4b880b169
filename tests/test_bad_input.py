"""What no script can use: one line that names it, exit status 2, nothing written. Every script, in this process."""

import dataclasses
import itertools
import json
import lzma
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import yaml

import data
from data.datasets import load_dataset
from models.registry import build_model
from models.saving import save_model
from runtime.files import InputError, write_json
from runtime.store import POINTS, SETTINGS, Store, write_store

ROOT = Path(data.__file__).parents[1]
ATTACK = "attack_generation/gaussian_data_augmentation/DIGITS/poison_radius_gaussianaug.py"
CONTROL = "attack_generation/control_poison.py"
VICTIM = "evaluation/DIGITS/macer_training.py"
CERTIFY = "randomized_smoothing_certification/certify_digits.py"
MERGE = "randomized_smoothing_certification/merge_shards.py"
FEWER_VOTES = "randomized_smoothing_certification/fewer_votes.py"
READY = "attack_generation/ready_poison.py"
PACK = "attack_generation/pack_poison.py"
CHECK = "attack_generation/check_poison.py"
RANK = "evaluation/tables/rank.py"
VISIBILITY = "evaluation/visibility.py"
LABELS = "label_flipping/digits.py"
COLLECT = "label_flipping/collect.py"
CONTRASTIVE = "label_flipping/contrastive_features.py"
BOUNDARY = "evaluation/boundary/two_dimensional.py"
RUN_PLAN = "evaluation/tables/run_plan.py"
MAKE_TABLES = "evaluation/tables/make_tables.py"
CERTIFICATES = "evaluation/tables/certificates.py"
WRITE_RESULTS = "evaluation/write_results.py"
PREPARE = ("data/prepare_digits.py", "data/prepare_mnist.py", "data/prepare_cifar10.py")
PREPARE_ANY = "data/prepare.py"
BENCHMARKS = ("benchmarks/speed.py", "benchmarks/price.py", "benchmarks/memory.py", "benchmarks/label_certificates.py")
PLAN: dict[str, Any] = {
    "table": "toy", "title": "Toy", "dataset": "DIGITS", "architecture": "digits_cnn", "runs": 1,
    "methods": {"gaussianaug": [0.25]}, "certification": {"points": 6, "n": 200},
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder of outputs, which stays empty, and what the scripts read."""

    folder: Path
    data: Path
    model: Path
    plan: Path

    def flags(self, script: str) -> list[str]:
        """Flags with which the script would begin its work."""
        out = self.folder / "out"
        runs = ["--data-dir", self.data, "--out-dir", out, "--run-dir", out / "runs"]
        return list(
            map(
                str,
                {
                    ATTACK: runs, CONTROL: runs, VICTIM: runs, CONTRASTIVE: runs,
                    CERTIFY: ["--data-dir", self.data, "--model", self.model, "--out", out / "a.tsv"],
                    MERGE: ["--shards", self.model.with_name("a.tsv"), "--out", out / "a.tsv"],
                    FEWER_VOTES: ["--certificates", self.folder / "a.tsv", "--sigma", "1", "--out", out / "a.tsv"],
                    READY: ["--name", "mnist_published", "--data-dir", self.data, "--out", out / "a.npy"],
                    VISIBILITY: ["--poison", "none.npy", "--data-dir", self.data, "--out", out / "a.json"],
                    PACK: ["--poison", self.folder / "a.npy", "--name", "a", "--out-dir", out],
                    RANK: ["--plan", self.plan, "--poison", self.folder / "a.npz", "--directory", out],
                    CHECK: [self.folder / "a.npz", "--data-dir", self.data],
                    LABELS: ["--data-dir", self.data, "--work-dir", out, "--results-dir", out],
                    COLLECT: ["--studies", self.folder / "study", "--results-dir", out],
                    BOUNDARY: ["--out-dir", out],
                    RUN_PLAN: ["--plan", self.plan, "--directory", out],
                    MAKE_TABLES: ["--plan", self.plan, "--directory", self.folder, "--results-dir", out],
                    CERTIFICATES: ["--store", self.folder, "--entry", "a/class_8", "--out-dir", out],
                    WRITE_RESULTS: ["--results-dir", out, "--benchmarks-dir", out],
                    **{prepare: ["--out-dir", out] for prepare in PREPARE},
                    PREPARE_ANY: ["--name", "A", "--source", self.folder / "source.npz", "--out-dir", out],
                    **{benchmark: ["--quick", "--out", out / "a.json"] for benchmark in BENCHMARKS},
                }[script],
            )
        )  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, tiny_data_dir: Path, model_file: Path) -> Place:
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(PLAN))
    return Place(tmp_path, tiny_data_dir, model_file, plan)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.keras"
    save_model(build_model("digits_cnn", (8, 8, 1), 10, seed=0), path)
    return path


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a script that refuses what it is given: its line, once it is found to be one and nothing was written."""

    def run(place: Place, script: str, *flags: object) -> str:
        monkeypatch.setattr(sys, "argv", [str(ROOT / script), *place.flags(script), *map(str, flags)])
        for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            monkeypatch.setenv(name, "1")  # what a plan sets, which is then undone
        monkeypatch.chdir(place.folder)
        before = sorted(place.folder.rglob("*"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        line = capsys.readouterr().err
        assert end.value.code == 2, line
        assert line.startswith("error: ") and line.count("\n") == 1 and line.endswith("\n"), line
        assert len(line) < 1000
        assert sorted(place.folder.rglob("*")) == before
        return line

    return run


SCRIPTS = (
    ATTACK, CONTROL, READY, PACK, CHECK, RANK, VISIBILITY,
    VICTIM, CERTIFY, MERGE, FEWER_VOTES, LABELS, COLLECT, CONTRASTIVE,
    BOUNDARY, RUN_PLAN, MAKE_TABLES, CERTIFICATES, WRITE_RESULTS, *PREPARE, PREPARE_ANY, *BENCHMARKS,
)  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_parsers_own_errors(script: str, place: Place, refused: Callable[..., str]) -> None:
    for flags, told in (
        (["--no-such-flag", "3"], "--no-such-flag"),
        (["stray"] if script != MERGE else ["--out"], "stray" if script != MERGE else "--out"),
        (["--a\nb"], "--a b"),
    ):
        line = refused(place, script, *flags)
        assert told in line and line.endswith("; see --help\n"), line


@pytest.mark.parametrize(
    ("script", "flags", "told"),
    [
        (ATTACK, ["--sigma", "a lot"], "--sigma: could not convert string to float: 'a lot'"),
        (ATTACK, ["--epochs"], "--epochs"),
        (ATTACK, ["--solver", "qr"], "'qr'"),
        (ATTACK, ["--loss.lam", "1"], "--loss.lam"),
        (ATTACK, ["--epochs", "1" * 5000], "--epochs"),
        (ATTACK, ["--epochs", "2.5"], "'2.5'"),
        (READY, [], "mnist_published: was made from other training images"),
        (
            READY,
            ["--name", "none"],
            "no ready poison 'none'; choose from digits_per_image, mnist_f2sa, mnist_published, mnist_smoothadv",
        ),
        (PACK, [], "a.json: no such file"),
        (PACK, ["--png-dir", "."], "give --poison FILE.npy, or --png-dir FOLDER with --target-class and --epsilon"),
        (CHECK, [], "a.npz: no such file"),
        (RANK, [], "a.npz: no such file"),
        (RANK, ["--set", "runs=0"], "runs must lie between 1 and 1000, got 0"),
        (VISIBILITY, [], "none.npy: no such file"),
        (VISIBILITY, ["--sigma", "0"], "sigma must be positive"),
        (VICTIM, ["--jitter-brightness", "2"], "jitter_brightness must lie between 0 and 1, got 2"),
        (ATTACK, ["--networks", "3"], "reinitialise_every is 10 epochs, which 3 networks cannot take in equal turns"),
        (FEWER_VOTES, [], "a.tsv: no such file"),
        (FEWER_VOTES, ["--n", "0"], "n must be at least 1, got 0"),
        (VICTIM, ["--loss.copies", "0"], "copies of macer must be positive, got 0"),
        (CERTIFY, ["--target-class", "eight"], "'eight'"),
        (CERTIFY, ["--max-minutes", "soon"], "'soon'"),
        (LABELS, ["--q", "0.1", "many"], "'many'"),
        (COLLECT, [], "study: has no settings.json.xz; give a folder that a script of label_flipping wrote"),
    ],
    ids=str,
)
def test_the_parser_names_flag_and_value(
    script: str, flags: list[str], told: str, place: Place, refused: Callable[..., str]
) -> None:
    assert told in refused(place, script, *flags)


def test_required_flags_are_named(refused: Callable[..., str], place: Place) -> None:
    required = {
        CERTIFY: "--model", MERGE: "--shards", RUN_PLAN: "--plan", MAKE_TABLES: "--plan", COLLECT: "--studies",
    }  # fmt: skip
    for script, flag in required.items():
        bare = dataclasses.replace(place)
        object.__setattr__(bare, "flags", lambda _: [])
        assert flag in refused(bare, script)


NOT_FINITE = ("nan", "inf", "-inf")
SIGMAS = ("-1", "0", "11", "1e6", "1e39", *NOT_FINITE)
SEEDS = ("-1", 2**31, 2**63, 10**400)
COUNTS = ("-1", "0", 2**31, 10**30)
VALUES: dict[str, dict[str, tuple[Any, ...]]] = {
    ATTACK: {
        "share": ("0", "2", "nan"),
        "epsilon": ("-1", "0", "2", "1e39", *NOT_FINITE), "sigma": SIGMAS, "seed": SEEDS, "epochs": COUNTS,
        "batch-clean": (*COUNTS, 10**6), "batch-poison": (*COUNTS, 10**6), "batch-validation": COUNTS,
        "lower-steps": COUNTS, "lr-u": ("0", "1e39", *NOT_FINITE), "lr-v": ("-1", *NOT_FINITE), "damping": NOT_FINITE,
        "max-minutes": ("0", "-1", *NOT_FINITE), "checkpoint-minutes": ("0", *NOT_FINITE), "target-class": ("-1", "10"),
        "radius-clip": ("0", "0.5", "nan"), "architecture": ("", "../x", "resnet1000001v1"),
    },
    CONTROL: {
        "share": ("0", "2", "nan"),
        "epsilon": ("-1", "0", "2", *NOT_FINITE), "sigma": SIGMAS, "seed": SEEDS, "max-minutes": ("0", "-1", "nan"),
        "target-class": ("-1", "10"),
    },
    VICTIM: {
        "sigma": SIGMAS, "seed": SEEDS, "epochs": COUNTS, "batch-size": (*COUNTS, 10**6), "runs": COUNTS,
        "learning-rate": ("0", "-1", "1e39", *NOT_FINITE), "max-minutes": ("0", "-1", *NOT_FINITE),
        "loss.lam": ("-1", "nan", "inf"), "loss.gamma": ("0", "nan", "inf"), "target-class": ("-1", "10"),
    },
    CERTIFY: {
        "sigma": SIGMAS, "seed": SEEDS, "points": ("0", "-1", 2**31), "n0": COUNTS, "n": (*COUNTS, 3_000_000_000),
        "alpha": ("0", "1", "-1", "2", *NOT_FINITE), "batch-size": (*COUNTS, 10**9), "max-minutes": ("0", "-1", "nan"),
        "target-class": ("-1", "10"), "shard": ("", "0/2", "3/2", "1/0", "a/b", "36/1000", "1" * 5000 + "/1", "²/²"),
    },
    LABELS: {
        "seed": SEEDS, "points": ("0", "-1", 2**31), "held-out": COUNTS, "q": ("0", "0.5", "-1", *NOT_FINITE),
        "ridge": ("-1", *NOT_FINITE), "at": ("0", "1", *NOT_FINITE),
        "network-shares": ("-1", "2", *NOT_FINITE), "network-points": ("-1", 2**31), "max-minutes": ("0", "-1", "nan"),
        "network.learning-rate": ("0", *NOT_FINITE), "network.epochs": COUNTS, "network.batch-size": COUNTS,
        "network.architecture": ("", "x"), "classes": ("1", "-1", "10"),
    },
    BOUNDARY: {
        "sigma": SIGMAS, "epsilon": ("0", "2", *NOT_FINITE), "seed": SEEDS, "n": (*COUNTS, 3_000_000_000),
        "n0": COUNTS, "alpha": ("0", "1", *NOT_FINITE), "lr-u": ("0", *NOT_FINITE), "target-class": ("-1", "2"),
        "runs": COUNTS, "test-points": COUNTS,
    },
    RUN_PLAN: {"max-minutes": ("0", "-1", *NOT_FINITE), "methods": ("macer", ""), "set": ("", "x", "runs=[", "runs=0")},
    PREPARE[0]: {"seed": SEEDS, "label": ("a\nb", "x" * 1000)},
    PREPARE_ANY: {
        "seed": SEEDS, "validation": (0, -1, 2**40), "first-label": (-1, 2**40), "name": ("", "..", "a/b", "x" * 300),
        "source": ("nowhere", "/dev/null"),
    },
    BENCHMARKS[0]: {"seconds": ("0", "-1", *NOT_FINITE), "batch-size": COUNTS},
    BENCHMARKS[1]: {"steps": COUNTS, "only": ("", "macer/", "x/attack")},
    BENCHMARKS[2]: {"q": ("0", "0.5", *NOT_FINITE)},
}  # fmt: skip


@pytest.mark.parametrize("script", VALUES)
def test_values_that_cannot_work(script: str, place: Place, refused: Callable[..., str]) -> None:
    for flag, values in VALUES[script].items():
        for value in values:
            line = refused(place, script, f"--{flag}={value}")
            name = flag.rpartition(".")[2].replace("-", "_")
            assert name in line or name.removesuffix("s") in line or str(value) in line, line


def test_a_source_that_cannot_be_prepared(place: Place, refused: Callable[..., str]) -> None:
    source = place.folder / "source.npz"
    rows = np.full((20, 28, 28), 255, np.uint8), np.arange(20) % 10
    np.savez(source, x_train=rows[0], y_train=rows[1], x_test=rows[0], y_test=rows[1])
    for flags in (["--seed", "-1"], ["--seed", 2**31], ["--validation", "0"], ["--validation", "20"]):
        refused(place, PREPARE[1], "--source", source, *flags)
    for damaged in (b"", b"PK\x03\x04", source.read_bytes()[:-200]):
        source.write_bytes(damaged)
        assert "source.npz" in refused(place, PREPARE[1], "--source", source)
    refused(place, PREPARE[1], "--source", place.folder / "none.npz")
    assert "is a folder" in refused(place, PREPARE[1], "--source", place.folder)


OUTPUTS = {
    ATTACK: ("out-dir", "run-dir", "data-dir"), CONTROL: ("out-dir", "run-dir", "data-dir"),
    VICTIM: ("out-dir", "run-dir", "data-dir"), CERTIFY: ("out", "data-dir", "model"), MERGE: ("out", "shards"),
    LABELS: ("work-dir", "results-dir", "data-dir"), BOUNDARY: ("out-dir",), RUN_PLAN: ("directory", "plan"),
    COLLECT: ("results-dir", "studies"), CERTIFICATES: ("store", "out-dir", "import-files"),
    MAKE_TABLES: ("results-dir", "directory", "plan"), WRITE_RESULTS: ("results-dir", "benchmarks-dir"),
    **dict.fromkeys((*PREPARE, PREPARE_ANY), ("out-dir",)), **dict.fromkeys(BENCHMARKS, ("out",)),
}  # fmt: skip


@pytest.mark.parametrize("script", OUTPUTS)
def test_places_where_nothing_can_be(script: str, place: Place, refused: Callable[..., str]) -> None:
    (place.folder / "a_file.tsv").write_text("in the way")
    (place.folder / "a_folder.tsv").mkdir()
    is_folder = ("dir", "directory", "studies", "store")
    for flag in OUTPUTS[script]:
        in_the_way = "a_file.tsv" if flag.endswith(is_folder) else "a_folder.tsv"
        for value in (in_the_way, "a_file.tsv/below/x.tsv", "x" * 300 + ".tsv", "y/" * 3000 + "x.tsv"):
            assert flag.replace("-", "_") in refused(place, script, f"--{flag}={place.folder / value}")


def test_folders_in_the_way_of_what_lies_beside_a_certificate(place: Place, refused: Callable[..., str]) -> None:
    for name in ("a.settings.json", "a.summary.json"):
        (place.folder / name).mkdir()
        assert name in refused(place, CERTIFY, "--out", place.folder / "a.tsv")
        (place.folder / name).rmdir()


NOT_A_RECORD = {
    "nothing": b"", "null": b"null", "list": b"[]", "text": b'"text"', "number": b"1",
    "no settings": b'{"settings": null}', "other": b'{"settings": {}, "points": 3}', "cut": b'{"settings": {',
    "deep": b"[" * 100_000,
    "long number": b'{"settings": ' + b"1" * 5000 + b"}", "not text": b"\xff\xfe\x00",
    "zip": b"PK\x03\x04" + bytes(100),
}  # fmt: skip


@pytest.mark.parametrize("content", NOT_A_RECORD.values(), ids=NOT_A_RECORD)
def test_records_of_another_form(content: bytes, place: Place, refused: Callable[..., str]) -> None:
    """In every place where a script reads one."""
    tsv, settings = place.folder / "a.tsv", place.folder / "a.settings.json"
    tsv.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n")
    settings.write_bytes(content)
    assert "a." in refused(place, CERTIFY, "--out", tsv)
    assert "a.settings.json" in refused(place, MERGE, "--shards", tsv)
    (place.folder / "gaussianaug_0.25_clean_seed0.json").write_bytes(content)
    (place.folder / "macer_0.25_clean_seed0.json").write_bytes(content)
    assert "macer_0.25_clean_seed0" in refused(place, VICTIM, "--out-dir", place.folder)
    stem = "poisoned_radius_{}_0.25_8.json"
    for script, name in ((ATTACK, "gaussianaug"), (CONTROL, "constant")):
        (place.folder / f"X_{stem.format(name)}").write_bytes(content)
        assert name in refused(place, script, "--out-dir", place.folder, "--sigma=0.25")
    model = place.folder / "model.keras"
    model.write_bytes(place.model.read_bytes())
    model.with_suffix(".json").write_bytes(content)
    assert "model.json" in refused(place, CERTIFY, "--model", model)
    (place.folder / "ridge_1.json").write_bytes(content)
    assert "ridge_1.json" in refused(place, LABELS, "--work-dir", place.folder, "--ridge", "1", "2", "--points=2")
    for name in ("benchmarks/records/speed.json", "a/plan.yaml"):
        path = place.folder / "store" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        stores = ["--results-dir", place.folder / "store", "--benchmarks-dir", place.folder / "store/benchmarks"]
        assert path.name in refused(place, WRITE_RESULTS, *stores) or name.startswith("benchmarks")
        if not name.startswith("benchmarks"):
            path.unlink()
    data_dir = place.folder / "DIGITS"
    data_dir.mkdir()
    for path in place.data.glob("*.npy"):
        (data_dir / path.name).symlink_to(path)
    (data_dir / "manifest.json").write_bytes(content)
    assert "manifest.json" in refused(place, VICTIM, "--data-dir", data_dir)
    assert "manifest.json" in refused(place, RUN_PLAN, "--plan", data_dir / "manifest.json")


@pytest.mark.parametrize(
    "name", ["../..", "..", ".", "", "/tmp/x", "a/b", "a\\b", "x" * 300, "a\nb", "a\0b", None, 3, ["a"]], ids=repr
)
def test_a_dataset_whose_name_leads_out(name: Any, place: Place, refused: Callable[..., str]) -> None:
    data_dir = place.folder / "DIGITS"
    data_dir.mkdir()
    for path in place.data.glob("*.npy"):
        (data_dir / path.name).symlink_to(path)
    manifest = json.loads((place.data / "manifest.json").read_text())
    write_json(data_dir / "manifest.json", {**manifest, "dataset": name, "label": "digits"})
    for script in (ATTACK, CONTROL, VICTIM, CERTIFY, LABELS):
        assert "the dataset's name is" in refused(place, script, "--data-dir", data_dir)
    write_json(data_dir / "manifest.json", {**manifest, "label": name})
    if name not in ("../..", "..", ".", "/tmp/x", "a/b", "a\\b"):
        assert "the dataset's label is" in refused(place, VICTIM, "--data-dir", data_dir)


FOREIGN = {"method": "consistency", "sigma": 0.5, "target_class": 8, "files": ["a.tsv"]}
PLANS: list[Any] = [
    {"attack": {"": {}}}, {"attack": {" ": {}}}, {"attack": {"macer x": {}}}, {"attack": {"all": None}},
    {"attack": {"all": {"": 1}}}, {"attack": {"all": {"lr_u": float("inf")}}}, {"attack": {"all": {"lr_u": {"a": 1}}}},
    {"attack": {"all": {"out_dir=/x": 1}}}, {"attack": {"all": {"objective": "--out-dir=/x"}}}, {"attack": []},
    {"victim": {"all": {"epochs": -1}}}, {"victim": {"all": {"--seed": 1}}}, {"victim": {"all": {"seed": 1}}},
    {"data": {"out-dir": "x"}}, {"data": {"seed": None}}, {"data": 3},
    {"table": ""}, {"table": ".."}, {"table": "a/b"}, {"table": "x" * 300}, {"work_dir": "x" * 300},
    {"data_dir": "a\0b"},
    {"architecture": ""}, {"architecture": "../x"}, {"architecture": None}, {"title": None}, {"dataset": "../x"},
    {"epsilon": 0}, {"epsilon": 2}, {"epsilon": float("nan")}, {"epsilon": 10**400}, {"seed": -1}, {"seed": 2**31},
    {"runs": 0}, {"runs": 10**9}, {"runs": 1.5}, {"runs": True}, {"threads": 0}, {"threads": 10**6}, {"shards": 0},
    {"target_classes": []}, {"target_classes": [-1]}, {"target_classes": 8}, {"rows": []}, {"rows": ["x"]},
    {"methods": {"macer": [0]}}, {"methods": {"macer": [float("nan")]}}, {"methods": {"macer": [1e6]}},
    {"methods": {"": [0.5]}}, {"methods": ["macer"]}, {"limits": {"all": {"minutes": -1}}}, {"limits": {"all": None}},
    {"certification": {"points": 0}}, {"certification": {"n": 3_000_000_000}}, {"certification": {"n0": 0}},
    {"certification": {"alpha": float("nan")}}, {"certification": {"alpha": 1}}, {"certification": {"batch_size": 0}},
    {"certification": {"precision": "float8"}}, {"certification": None},
    {"architecture_transfer": {"method": "macer", "sigmas": [-1], "attacked": ["mlp"], "victims": ["mlp"]}},
    {"architecture_transfer": {"method": "macer", "sigmas": [0.5], "attacked": ["../x"], "victims": ["mlp"]}},
    {"architecture_transfer": {"method": "../x", "sigmas": [0.5], "attacked": ["mlp"], "victims": ["mlp"]}},
    {"method_transfer": {"sigmas": [0.25], "against": ["../x"]}},
    *(
        {"foreign": [{**FOREIGN, **change}]}
        for change in (
            {"method": "../../../X"}, {"method": ""}, {"method": ".."}, {"poison": "../../../X"}, {"poison": ""},
            {"architecture": "../X"}, {"poison_architecture": "a/b"}, {"sigma": float("nan")}, {"sigma": -1},
            {"target_class": -1}, {"files": []}, {"accuracy": float("nan")}, {"accuracy": 99}, {"method": "x" * 300},
            {"n": 0}, {"n": -1}, {"n": 2**31}, {"alpha": 0}, {"alpha": float("nan")},
        )
    ),
    None, [], 3, "text", {"table": {}},
]  # fmt: skip


@pytest.mark.parametrize("script", [RUN_PLAN, MAKE_TABLES])
def test_plans_that_cannot_work(script: str, place: Place, refused: Callable[..., str]) -> None:
    for change in PLANS:
        place.plan.write_text(yaml.safe_dump({**PLAN, **change} if isinstance(change, dict) else change))
        line = refused(place, script)
        # The scripts check their own settings; a table is made of what they have made.
        assert "plan.yaml" in line or (script == MAKE_TABLES and "has no certificate of the plan" in line), line


@pytest.mark.parametrize(
    "content",
    [b"a: [", b"\xff", b"[" * 100_000, b"a: 2020-99-99", b"a: " + b"1" * 5000, b"&a [*a]", b"a: &a [*a]", b"? [a]\n: 1",
     b"a: !!int ''", b"a: !!python/object/apply:os.system [ls]", b"title: &a {a: *a}", b"\0", b"data: &a {b: *a}"],
    ids=lambda content: repr(content[:40]),
)  # fmt: skip
def test_plan_files_that_are_no_plan(content: bytes, place: Place, refused: Callable[..., str]) -> None:
    place.plan.write_bytes(
        yaml.safe_dump(PLAN).encode() + content if content.startswith((b"data", b"title")) else content
    )
    for script in (RUN_PLAN, MAKE_TABLES):
        assert "plan.yaml" in refused(place, script)


def test_certificates_of_other_programs_that_cannot_be_used(place: Place, refused: Callable[..., str]) -> None:
    lines = ["idx\tlabel\tpredict\tradius", "0\t8\t8\t0.5", "0\t8\t8\t0.4", ""]
    place.plan.write_text(yaml.safe_dump({**PLAN, "foreign": [FOREIGN]}))
    assert "a.tsv" in refused(place, MAKE_TABLES)
    for content, told in (
        ("\n".join(lines), "a.tsv: line 3 has the point 0 once more"),
        ("\n".join([*lines[:2], ""]).replace("0.5", "nan"), "a.tsv"),
        ("\n".join([*lines[:2], ""]).replace("8", "3"), "no point of class 8"),
        ("\xff", "a.tsv"),
        ("", "a.tsv"),
    ):
        (place.folder / "a.tsv").write_bytes(content.encode("latin-1"))
        assert told in refused(place, MAKE_TABLES)
    place.plan.write_text(yaml.safe_dump({**PLAN, "foreign": [FOREIGN, FOREIGN]}))
    (place.folder / "a.tsv").write_text("\n".join([*lines[:2], ""]))
    assert "names it twice" in refused(place, MAKE_TABLES)


def test_where_nothing_is_there_no_table_and_no_page_is_made(place: Place, refused: Callable[..., str]) -> None:
    for flags in ([], ["--directory", place.folder / "nowhere"], ["--results-dir", place.folder / "runs"]):
        line = refused(place, MAKE_TABLES, *flags)
        assert "runs/tables/toy: has no certificate of the plan" in line and ": 0 of 1 runs, the first of 5" in line
    assert "has no store with a plan.yaml" in refused(place, WRITE_RESULTS)
    (place.folder / "a.tsv").touch()
    assert "a.tsv: has no point" in refused(place, FEWER_VOTES)


def test_stores_of_another_form(place: Place, refused: Callable[..., str]) -> None:
    entry = "gaussianaug_digits_cnn_sigma_0.25/clean/class_8"
    names = ("seed", "idx", "label", "predict", "radius", "correct")
    points = pd.DataFrame([dict(zip(("entry", *names), (entry, 0, 0, 8, 8, 0.5, 1), strict=True))])
    victim = {"victim": {"accuracy": 0.9}}
    flags = ["--entry", entry]
    for records in (
        None, [], {"0": None}, {"0": {}}, {"../../x": victim}, {"0": {"victim": []}}, {"-1": victim},
        {"0": {"victim": {"accuracy": "high"}}}, {"0": {**victim, "certificate": {"settings": 3}}},
        {"0": {**victim, "certificate": {"settings": {"n": "many"}}}}, {"0": {**victim, "foreign": {"n": -1}}},
        {"0": {**victim, "visibility": {"measured": 3}}}, {"0": {**victim, "poison": {"gradients": "few"}}},
    ):  # fmt: skip
        write_store(place.folder, Store(points, {entry: records}))  # type: ignore[dict-item]
        assert ".xz: " in refused(place, MAKE_TABLES, "--from-results")
        if not (isinstance(records, dict) and "0" in records):  # what is exported is not looked into
            assert ".xz: " in refused(place, CERTIFICATES, *flags)
    for name in names:
        for changed in (points.drop(columns=name), points.assign(**{name: "x"}), points.assign(**{name: None})):
            write_store(place.folder, Store(changed, {entry: {"0": victim}}))
            for script, more in ((MAKE_TABLES, ["--from-results"]), (CERTIFICATES, flags)):
                assert "points.csv.xz: not the points of a plan" in refused(place, script, *more)


def test_store_files_that_are_none(place: Place, refused: Callable[..., str]) -> None:
    write_store(place.folder, Store(pd.DataFrame({"entry": ["a"]}), {"a": {}}))
    for name in (POINTS, SETTINGS):
        whole = (place.folder / name).read_bytes()
        for content in (b"", b"text", whole[:-20], b"\xff" * 100, lzma.compress(b""), lzma.compress(b"\xff")):
            (place.folder / name).write_bytes(content)
            for script, more in ((MAKE_TABLES, ["--from-results"]), (CERTIFICATES, [])):
                assert f"/{name}: " in refused(place, script, *more)
        (place.folder / name).write_bytes(whole)


def damaged_arrays(whole: bytes) -> dict[str, bytes]:
    """Bytes of an .npy file, damaged in every bit of its header and otherwise."""
    flipped = {}
    for place, bit in itertools.product(range(128), range(8)):
        content = bytearray(whole)
        content[place] ^= 1 << bit
        flipped[f"bit {bit} of byte {place}"] = bytes(content)
    return {**flipped, "empty": b"", "zip": b"PK\x03\x04" + bytes(200), "text": b"abc", "cut": whole[:200]}


def test_damaged_arrays_of_a_dataset(place: Place, refused: Callable[..., str]) -> None:
    """No bit of a header can change unnoticed: the manifest's shape, type and hash would differ."""
    data_dir = place.folder / "DIGITS"
    data_dir.mkdir()
    for path in place.data.iterdir():
        (data_dir / path.name).symlink_to(path)
    array = data_dir / "X_val.npy"
    whole = array.read_bytes()
    array.unlink()
    for number, (name, content) in enumerate(damaged_arrays(whole).items()):
        array.write_bytes(content)
        unchanged = np.array_equal(np.load(array), np.load(place.data / "X_val.npy")) if loads(array) else False
        if unchanged:  # spaces in the header mean nothing
            continue
        with pytest.raises(InputError, match=r"X_val\.npy"):
            load_dataset(data_dir)
        if number % 50 == 0:
            assert "X_val.npy" in refused(place, CONTROL, "--data-dir", data_dir), name


def loads(path: Path) -> bool:
    try:
        np.load(path, allow_pickle=False)
    except Exception:
        return False
    return True


def classifier(outputs: Any) -> keras.Model:
    """A model from images of the digits to what ``outputs`` makes of its ten scores."""
    images = keras.Input((8, 8, 1))
    scores = keras.layers.Dense(10)(keras.layers.Flatten()(images))
    return keras.Model(images, outputs(scores, images))


def with_weight(value: float) -> keras.Model:
    model = classifier(lambda scores, _: scores)
    kernel, bias = model.get_weights()
    bias[3] = value
    model.set_weights([kernel, bias])
    return model


MODELS: dict[str, Callable[[], keras.Model]] = {
    "a mapping": lambda: classifier(lambda scores, _: {"a": scores}),
    "a list": lambda: classifier(lambda scores, _: [scores]),
    "two outputs": lambda: classifier(lambda scores, _: [scores, scores + 1]),
    "an image": lambda: classifier(lambda _, images: images),
    "five classes": lambda: classifier(lambda scores, _: keras.layers.Dense(5)(scores)),
    "two inputs": lambda: keras.Model([a := keras.Input((8, 8, 1)), b := keras.Input((8, 8, 1))], a + b),
    "rows": lambda: keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)]),
    "infinite": lambda: with_weight(np.inf),
    "no number": lambda: with_weight(np.nan),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_models_that_cannot_be_certified(make: Callable[[], keras.Model], place: Place, refused: Any) -> None:
    path = place.folder / "bad.keras"
    make().save(path)
    line = refused(place, CERTIFY, "--model", path)
    assert "the model has 5 classes" in line or "bad.keras" in line


def test_files_that_are_no_model(place: Place, refused: Callable[..., str]) -> None:
    path, random = place.folder / "bad.keras", np.random.default_rng(0)
    whole = place.model.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content in (b"", b"text", random.bytes(5000), whole[:-100], bytes(flipped)):
        path.write_bytes(content)
        assert "bad.keras" in refused(place, CERTIFY, "--model", path)


def test_checkpoints_that_are_none(place: Place, refused: Callable[..., str]) -> None:
    """Leaves of another kind, records of another form, a folder in its place."""
    run = place.folder / "runs/DIGITS/macer_0.25_clean_seed0"
    run.mkdir(parents=True)
    path = run / "checkpoint.npz"
    flags = ["--run-dir", place.folder / "runs"]
    for content in NOT_A_RECORD.values():
        path.write_bytes(content)
        assert "checkpoint.npz" in refused(place, VICTIM, *flags)
        np.savez(path, record=np.array(content.decode("latin-1")), leaf_0=np.zeros(2))
        assert "checkpoint.npz" in refused(place, VICTIM, *flags)
    np.savez(path, record=np.array([{}], object), allow_pickle=True)
    assert "checkpoint.npz" in refused(place, VICTIM, *flags)
    path.unlink()
    path.mkdir()
    assert "checkpoint.npz" in refused(place, VICTIM, *flags)
