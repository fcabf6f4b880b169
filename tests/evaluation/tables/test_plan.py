"""Plans of paper tables: combinations, flags, and the errors of a plan that cannot work."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import data
from evaluation.tables.cells import Cell, Poison, Victim
from evaluation.tables.jobs import check_scripts, jobs_of, words_of
from evaluation.tables.plan import plan_of, read_plan, yaml_values
from evaluation.tables.records import runs_of
from runtime.files import InputError, write_json

ROOT = Path(data.__file__).parents[1]
SMALL: dict[str, Any] = {
    "table": "small", "title": "Small", "dataset": "DIGITS", "architecture": "digits_cnn", "runs": 2,
    "methods": {"gaussianaug": [0.25], "macer": [0.25, 0.5]}, "target_classes": [8, 3],
    "rows": ["clean", "constant", "optimised"],
}  # fmt: skip
THEIRS = {"method": "theirs", "sigma": 0.5, "target_class": 8, "files": ["a.tsv"]}


def test_main_entries_are_the_product_of_methods_noise_levels_classes_and_rows() -> None:
    cells = plan_of(SMALL).cells()
    assert len(cells) == len(set(cells)) == 3 * 2 * 3
    clean = [cell for cell in cells if cell.poison is None]
    assert {(cell.victim.method, cell.victim.sigma, cell.target_class) for cell in clean} == {
        (method, sigma, label)
        for method, sigma in (("gaussianaug", 0.25), ("macer", 0.25), ("macer", 0.5))
        for label in (8, 3)
    }
    against = {cell.poison.against for cell in cells if cell.poison and cell.victim.method == "macer"}
    assert against == {"constant", "macer"}


def test_a_victim_on_clean_data_is_trained_once_for_all_classes() -> None:
    plan = plan_of(SMALL)
    clean = [cell for cell in plan.cells() if cell.poison is None]
    assert len({plan.paths.model(cell, 0) for cell in clean}) == 3
    assert len({plan.paths.certificate(cell, 0) for cell in clean}) == 6


def test_method_transfer_crosses_poisons_and_victims_of_one_sigma() -> None:
    transfer = {"sigmas": [0.25], "against": ["gaussianaug", "standard", "constant"]}
    plan = plan_of({**SMALL, "target_classes": [8], "method_transfer": transfer})
    cells = plan.transfer_cells()["method"]
    pairs = {(cell.victim.method, cell.poison.against if cell.poison else None) for cell in cells}
    assert pairs == {(m, a) for m in ("gaussianaug", "macer") for a in (None, "gaussianaug", "standard", "constant")}
    controls = [cell for cell in cells if cell.poison and cell.poison.against == "constant"]
    assert set(controls) <= set(plan._main_cells())  # the same images and victims as in the main table
    assert {cell.victim.sigma for cell in cells} == {0.25}


def test_architecture_transfer_crosses_attacked_models_and_victims() -> None:
    transfer = {"method": "macer", "sigmas": [0.5], "attacked": ["mlp", "tint"], "victims": ["digits_cnn", "cnn_3x3"]}
    cells = plan_of({**SMALL, "architecture_transfer": transfer}).transfer_cells()["architecture"]
    for poison in (Poison("macer", "mlp", 0.5, 8), Poison("tint", "", 0.5, 8)):
        assert Cell(Victim("macer", 0.5, "cnn_3x3"), 8, poison) in cells
    assert len(cells) == 2 * 2 * 3


def test_the_more_special_settings_win() -> None:
    plan = plan_of({**SMALL, "victim": {"all": {"epochs": 3}, "macer": {"lam": 2}, "macer 0.5": {"lam": 4}}})

    def of(method: str, sigma: float) -> str:
        start = f"victims/{method}_digits_cnn_sigma_{sigma}/clean/"
        return next(job.command for job in jobs_of(plan) if job.name.startswith(start))

    assert of("gaussianaug", 0.25).endswith("--epochs 3")
    assert of("macer", 0.25).endswith("--epochs 3 --lam 2")
    assert of("macer", 0.5).endswith("--epochs 3 --lam 4")
    mixed = {"all": {"weight-decay": 1}, "macer": {"weight_decay": 2}, "macer 0.5": {"weight-decay": 3}}
    plan = plan_of({**SMALL, "victim": mixed})
    assert of("macer", 0.5).endswith("--weight-decay 3") and of("macer", 0.25).endswith("--weight-decay 2")
    with pytest.raises(InputError, match=r"'macer 0\.50' must be written with the sigma 0\.5"):
        plan_of({**SMALL, "victim": {"macer 0.50": {"lam": 4}}})


CROSSED: dict[str, Any] = {
    **SMALL, "methods": {"macer": [0.5]}, "target_classes": [8], "rows": ["clean", "constant"], "shards": 2,
    "attack": {"macer 0.5": {"epochs": 9, "lr_u": 0.2}}, "victim": {"all": {"epochs": 3}},
    "attacks": {"approxgrad": {"epochs": [1, 3]}, "soba": {"optimiser": "soba", "lr_u": 0.5}},
    "victims": {"published": {}, "one_cycle": {"schedule": "one_cycle", "epochs": 2}},
}  # fmt: skip


def test_every_attack_and_budget_is_a_row_for_every_kind_of_victim() -> None:
    plan = plan_of(CROSSED)
    rows = ["clean", "constant", "approxgrad_epochs_1", "approxgrad_epochs_3", "soba"]
    assert [(cell.victim.variant, cell.row) for cell in plan.cells()] == [
        (kind, row) for kind in ("published", "one_cycle") for row in rows
    ]
    poisons = [job for job in jobs_of(plan) if job.rule == "poison"]
    assert [job.command.rpartition("/poison/")[2].partition(" ")[2] for job in poisons] == [
        "--epochs 1 --lr-u 0.2", "--epochs 3 --lr-u 0.2", "--epochs 9 --lr-u 0.5 --optimiser soba",
    ]  # fmt: skip
    victims = [job.command for job in jobs_of(plan) if job.rule == "victim"]
    assert [flags.endswith("--epochs 3") for flags in victims] == 10 * [True] + 10 * [False]
    assert all(flags.endswith("--epochs 2 --schedule one_cycle") for flags in victims[10:])


def test_entries_of_variants_have_files_and_names_of_their_own() -> None:
    plan = plan_of({**CROSSED, "rows": ["clean", "optimised"]})
    certificates = [plan.paths.certificate(cell, seed) for cell in plan.cells() for seed in plan.seeds]
    models = [plan.paths.model(cell, seed) for cell in plan.cells() for seed in plan.seeds]
    assert len(set(certificates)) == len(set(models)) == len(set(map(str, plan.cells()))) * 2 == 2 * 5 * 2
    cell = plan.cells()[-3]
    assert cell.key == (
        "macer_digits_cnn_sigma_0.5_one_cycle/macer_digits_cnn_sigma_0.5_class_8_approxgrad_epochs_1/class_8"
    )
    assert str(cell) == (
        "macer (digits_cnn, one_cycle), σ = 0.5, class 8, training data: approxgrad_epochs_1 against macer "
        "with digits_cnn"
    )
    made: set[Path] = {plan.paths.plan}
    for job in jobs_of(plan):
        assert made.issuperset(job.needs) and not made & set(job.outputs), job.name
        made.update(job.outputs)


def test_an_attack_may_be_run_with_several_seeds() -> None:
    attacks = {"soba": {"optimiser": "soba", "epochs": [1, 2], "seed": [0, 3]}}
    plan = plan_of({**SMALL, "target_classes": [8], "attacks": attacks})
    assert list(plan.attack_variants()) == [f"soba_epochs_{epochs}_seed_{seed}" for epochs in (1, 2) for seed in (0, 3)]
    job = next(job for job in jobs_of(plan) if "soba_epochs_2_seed_3" in job.name)
    assert "--epochs 2" in job.command and job.command.count("--seed") == 1 and "--seed 3" in job.command
    assert "--seed 3" not in next(job for job in jobs_of(plan) if "soba_epochs_2_seed_0" in job.name).command


def test_a_plan_without_variants_has_the_folders_that_it_always_had() -> None:
    cell = plan_of(SMALL).cells()[2]
    assert cell.key == "gaussianaug_digits_cnn_sigma_0.25/gaussianaug_digits_cnn_sigma_0.25_class_8/class_8"
    assert str(cell) == (
        "gaussianaug (digits_cnn), σ = 0.25, class 8, training data: optimised against gaussianaug with digits_cnn"
    )


def test_the_tables_job_makes_every_page_and_figure_of_the_results_folder() -> None:
    plan = plan_of({**SMALL, "results_dir": "somewhere"})
    tables = jobs_of(plan)[-1]
    assert tables.rule == tables.name == "tables"
    assert tables.outputs == tuple(
        Path("somewhere") / name
        for name in (
            "tables.md", "tables.tex", "tables.csv", "tables.html", "acr.png", "p_a.png", "certified_accuracy.png",
        )
    )  # fmt: skip


def test_other_programs_may_say_how_many_votes_they_counted(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("idx\tlabel\tpredict\tradius\n0\t8\t8\t0.1\n")
    plan = plan_of({**SMALL, "foreign": [THEIRS, {**THEIRS, "poison": "constant", "n": 500, "alpha": 0.01}]})
    first, second = (runs_of(foreign, tmp_path)[0].records for foreign in plan.foreign)
    victim = {"file": "a.tsv", "victim": {"accuracy": None}}
    assert first == {**victim, "foreign": {}}
    assert second == {**victim, "foreign": {"n": 500, "alpha": 0.01, "sigma": 0.5}}


def test_a_ready_poison_is_a_row_for_every_victim() -> None:
    plan = plan_of({**SMALL, "target_classes": [8], "ready": {"theirs": "mnist_published"}})
    cells = [cell for cell in plan.cells() if cell.row == "theirs"]
    assert [cell.victim for cell in cells] == [cell.victim for cell in plan.cells() if cell.row == "clean"]
    jobs = {job.name: job for job in jobs_of(plan)}
    made = jobs["poison/ready_sigma_0.5_class_8_theirs/X_poisoned_radius_ready_0.5_8"]
    assert made.script == "attack_generation/ready_poison.py" and made.rule == "ready"
    assert "--name mnist_published --target-class 8 --epsilon 0.1" in made.command
    victim = jobs[
        "victims/macer_digits_cnn_sigma_0.5/ready_sigma_0.5_class_8_theirs/macer_0.5_poisoned_radius_ready_0.5_8_seed0"
    ]
    assert made.outputs[0] in victim.needs and f"--poison {made.outputs[0]}" in victim.command


def test_every_kind_of_poisoned_data_is_a_row_at_each_share_of_the_class() -> None:
    shares = {"rows": ["clean", "constant"], "ready": {"theirs": "mnist_published"}, "shares": [0.25, 1]}
    plan = plan_of({**SMALL, **shares, "methods": {"macer": [0.5]}, "target_classes": [8]})
    rows = [cell.row for cell in plan.cells()]
    assert rows == ["clean", "constant, 25 % of the class", "constant", "theirs, 25 % of the class", "theirs"]
    made = [job for job in jobs_of(plan) if job.rule in ("control", "ready")]
    assert ["--share 0.25" in job.command for job in made] == [True, False, True, False]
    assert len({job.outputs[0] for job in made}) == 4
    check_scripts(jobs_of(plan))


def test_transfers_are_to_the_first_kind_of_victims() -> None:
    transfer = {"sigmas": [0.5], "against": ["macer"]}
    cells = plan_of({**CROSSED, "method_transfer": transfer}).transfer_cells()["method"]
    assert {cell.victim.variant for cell in cells} == {"published"}
    assert {cell.poison.variant for cell in cells if cell.poison} == {""}


def test_flags_of_every_kind_of_value() -> None:
    settings = {"lr_u": 0.1, "redraw_noise": False, "augment": True, "epsilons": [1, 2], "out": "a b"}
    assert shlex.join(words_of(settings)) == ("--lr-u 0.1 --no-redraw-noise --augment --epsilons 1 2 --out 'a b'")
    assert words_of({"loss.fixed_noise": False}) == ["--loss.no-fixed-noise"]


def test_certificates_are_made_as_the_plan_says() -> None:
    plan = plan_of({**SMALL, "certification": {"noise": "grid", "n": 50}})
    assert all(
        "--n 50" in job.command and "--noise grid" in job.command for job in jobs_of(plan) if job.rule == "certify"
    )  # fmt: skip
    for settings, message in (({"noise": "exact"}, "exact.*noise"), ({"m": 3}, "Unrecognized options: --m")):
        with pytest.raises(InputError, match=f"certificates of victim 0, gaussianaug .*{message}"):
            check_scripts(jobs_of(plan_of({**SMALL, "certification": settings})))


def test_certificates_may_be_made_with_fewer_votes() -> None:
    settings = {"shared_noise": False, "acr_only": True, "radius_loss": 0.02, "n0": 1000}
    plan = plan_of({**SMALL, "certification": settings})
    job = next(job for job in jobs_of(plan) if job.rule == "certify")
    for flag in ("--no-shared-noise", "--acr-only", "--radius-loss 0.02", "--n0 1000"):
        assert flag in job.command
    job = next(job for job in jobs_of(plan_of(SMALL)) if job.rule == "certify")
    assert not any(flag in job.command for flag in ("shared-noise", "acr-only", "radius-loss"))  # the script's defaults
    with pytest.raises(InputError, match=r"radius_loss must lie between 0 and"):
        plan_of({**SMALL, "certification": {"radius_loss": -1}})
    with pytest.raises(InputError, match="alpha"):
        check_scripts(jobs_of(plan_of({**SMALL, "certification": {"alpha": 2}})))


def test_certificates_in_shards_are_joined() -> None:
    rules = [job.rule for job in jobs_of(plan_of(SMALL))]
    in_shards = jobs_of(plan_of({**SMALL, "shards": 3}))
    assert rules.count("certify") == 3 * 2 * 3 * 2 and "merge" not in rules
    assert [job.rule for job in in_shards].count("certify") == 3 * rules.count("certify")
    check_scripts(in_shards)
    merge = next(job for job in in_shards if job.rule == "merge")
    parts = [job for job in in_shards if job.outputs[0] in merge.needs]
    assert [job.command.partition("--shard ")[2] for job in parts] == ["1/3", "2/3", "3/3"]


@pytest.mark.parametrize(("shards", "points"), [(3, {"points": 2}), (501, {})])  # by default a script takes 500 points
def test_more_shards_than_points_are_refused_before_victims_are_trained(shards: int, points: dict[str, int]) -> None:
    plan = plan_of({**SMALL, "shards": shards, "certification": points})
    with pytest.raises(InputError, match=f"shard is 1/{shards}: .* of {points.get('points', 500)} points"):
        check_scripts(jobs_of(plan))
    check_scripts(jobs_of(plan_of({**SMALL, "shards": shards, "certification": {**points, "all_classes": True}})))


@pytest.mark.parametrize(("scripts", "folder"), [("", "MNIST"), ("CIFAR10", "CIFAR10")])
def test_any_data_set_is_prepared_by_the_general_script_and_names_whose_scripts_it_uses(
    scripts: str, folder: str
) -> None:
    plan = plan_of({**SMALL, "dataset": "OWN", "scripts": scripts, "data": {"source": "own.npz"}})
    data, *others = jobs_of(plan)
    assert data.script == "data/prepare.py"
    assert data.command == "data/prepare.py --name OWN --source own.npz --out-dir data/OWN"
    of_a_data_set = [job for job in others if job.rule in ("poison", "victim", "certify")]
    assert {Path(job.script).parent.name for job in of_a_data_set if job.rule != "certify"} == {folder}
    assert all("--data-dir data/OWN" in job.command for job in of_a_data_set)
    assert any(job.script.endswith(f"certify_{folder.lower()}.py") for job in of_a_data_set)


def test_every_job_comes_once_and_after_what_it_needs() -> None:
    transfer = {"sigmas": [0.25], "against": ["gaussianaug", "standard"]}
    plan = plan_of({**SMALL, "shards": 2, "method_transfer": transfer})
    made = {plan.paths.plan}
    for job in jobs_of(plan):
        assert made.issuperset(job.needs), job.name
        assert not made & set(job.outputs), job.name
        made.update(job.outputs)
    assert len({job.name for job in jobs_of(plan)}) == len(jobs_of(plan))


def test_the_plan_of_ten_lines_that_readme_shows_works() -> None:
    """With the defaults of the scripts."""
    (example,) = re.findall("```yaml\n(table: .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(example.splitlines()) == 10
    plan = plan_of(yaml_values(example, "the example"))
    assert [cell.row for cell in plan.cells()] == ["clean", "constant", "optimised"]
    check_scripts(jobs_of(plan))


def test_a_data_set_that_is_not_prepared_needs_a_source() -> None:
    with pytest.raises(InputError, match=r"the data: data/prepare\.py: .*--source"):
        check_scripts(jobs_of(plan_of({**SMALL, "dataset": "OWN"})))


def test_plans_of_the_project_are_valid_and_their_scripts_exist_and_have_every_flag() -> None:
    jobs = []
    for path in sorted((ROOT / "config").glob("*.yaml")):
        plan = read_plan(path)
        assert plan.table == path.stem and plan.cells()
        names = [plan.paths.certificate(cell, seed) for cell in plan.cells() for seed in plan.seeds]
        assert len(set(names)) == len(names), path
        jobs += jobs_of(plan)
    assert all((ROOT / job.script).is_file() for job in jobs)
    check_scripts(jobs)  # a kind of job that several plans have is checked once


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scripts": "SVHN"}, "no scripts 'SVHN'; choose from MNIST, CIFAR10, DIGITS"),
        ({"dataset": "../SVHN"}, "dataset is '../SVHN', which cannot be a file's name"),
        ({"methods": {"pgd": [0.5]}}, "no method 'pgd'"),
        ({"methods": {"macer": [0.0]}}, "sigma must be positive, got 0.0"),
        ({"methods": {"macer": 0.5}}, r"methods"),
        ({"rows": ["clean", "adversarial"]}, "no row 'adversarial'"),
        ({"rows": ["optimised"]}, "rows holds no 'clean'"),
        ({"runs": 0}, "runs must lie between 1 and 1000, got 0"),
        ({"epsilon": "big"}, r"Expected `float`.*epsilon"),
        ({"shares": [0.5, 2]}, "shares must be at most 1"),
        ({"shares": [0.5, 0.5]}, "shares must be at least one, and different"),
        ({"shares": [0.5], "method_transfer": {"sigmas": [], "against": []}}, "shares: transfers have poison of the"),
        ({"attack": {"all 0.25": {"epochs": 4}}}, "'all 0.25' has a sigma; name a method before it, or 'all' alone"),
        ({"foreign": [{**THEIRS, "poison": "constnat"}]}, "no poison of foreign 'constnat'; choose from clean, random"),
        ({"certification": {"on_other_settings": "refuse"}}, "on_other_settings is decided by the plan's own entries"),
        ({"shares": [0.3333333, 0.3333334]}, "shares must be at least one, and different"),
        ({"seed": 2**31 - 1, "runs": 2}, "seed [+] runs - 1 must lie between 0 and 2147483647"),
        ({"results_dir": "runs/tables/t/incomplete", "work_dir": "runs/tables/t"}, "is the place of incomplete tables"),
        ({"attack": {"all": {"share": 0.5}}}, "share is decided by the plan's own entries"),
        ({"epsylon": 0.1}, "unknown field `epsylon`; did you mean epsilon\\?"),
        ({"target-classes": [3]}, "unknown field `target-classes`; did you mean target_classes\\?"),
        ({"limits": {"all": {"threads": 9}}}, r"unknown field `threads` - at `\$\.limits\[\.\.\.\]`$"),
        ({"certification": {"all_classes": "no"}}, "certification: all_classes is 'no'; give true or false"),
        ({"certification": {"shard": "1/2"}}, "certification: shard is decided by the plan's own entries"),
        ({"victim": {"mazer": {"epochs": 1}}}, "no method of attack or victim settings 'mazer'; choose from all, "),
        ({"attack": {"all": {"epsilon": 0.05}}}, "epsilon is decided by the plan's own entries"),
        ({"attack": {"all": {"lr-u": 0.1, "lr_u": 0.2}}}, "attack, victim: lr-u stands there twice, with - and with _"),
        ({"attack": {"all": {"seed": [0, 1]}}}, r"several attack runs: attacks: \{NAME: \{seed: \[0, 1\]"),
        ({"victim": {"macer": {"out-dir": "x"}}}, "out-dir is decided by the plan's own entries"),
        ({"victim": {"all": {"help": True}}}, "'help' is no setting of a script"),
        ({"limits": {"train": {"minutes": 60}}}, "no rule of limits 'train'"),
        ({"limits": {"all": {"minutes": 1}}}, "minutes of a job of 'all' must be at least 5, got 1"),
        ({"method_transfer": {"sigmas": [0.7], "against": ["macer"]}}, "no method of the table has sigma 0.7"),
        ({"method_transfer": {"sigmas": [0.5], "against": ["brighter"]}}, "no method or control 'brighter'; choose"),
        ({"attacks": {"soba 1": {}}}, "attacks: a name is made of letters, digits and _, got 'soba 1'"),
        ({"victims": {"../x": {}}}, "victims: a name is made of letters, digits and _"),
        ({"attacks": {"random": {}}}, "attacks: 'random' is the name of a row"),
        ({"attacks": {"a": {"epochs": []}}}, "attacks: a has epochs \\[\\]; give at least one number"),
        ({"attacks": {"a": {"epochs": [1, 1]}}}, r"attacks: a has epochs \[1, 1\]; give .* all different, from 1 on"),
        ({"attacks": {"a": {"epochs": [0]}}}, "give at least one number, all different, from 1 on"),
        ({"attacks": {"a": {"epochs": ["x"]}}}, "give at least one number, all different, from 1 on"),
        ({"attacks": {"a": {"seed": [1, 1]}}}, r"attacks: a has seed \[1, 1\]; give .* all different, from 0 on"),
        ({"attacks": {"a": {"epochs": [5]}, "a_epochs_5": {}}}, "attacks: two attacks are named 'a_epochs_5'"),
        ({"attacks": {"a": {"seed": [0, 1], "epochs": [5]}, "a_epochs_5": {}}}, "'a_epochs_5' also names the mean"),
        ({"attacks": {"a": {"epsilon": 0.05}}}, "attacks: epsilon is decided by the plan's own entries"),
        ({"ready": {"a": "none"}}, "ready: no poison 'none' in data/poisons; choose from digits_per_image"),
        ({"ready": {"a": "a\0.npz"}}, "a file of the plan is 'a.*', which cannot be a path"),
        ({"ready": {"a": 300 * "a" + ".npz"}}, "a file of the plan is 'a.*', which cannot be a path"),
        ({"foreign": [{**THEIRS, "files": [300 * "a"]}]}, "a file of the plan is 'a.*', which cannot be a path"),
        ({"ready": {"clean": "mnist_published"}}, "ready: 'clean' is the name of a row"),
        ({"ready": {"a": "mnist_published"}, "attacks": {"a": {}}}, "ready: 'a' is the name of an attack"),
        ({"victims": {"a": {"schedule": {"x": 1}}}}, "victims: schedule is "),
        ({"victims": {"a": 3}}, r"Expected `object`.*victims"),
        ({"attacks": {"a" * 120: {}}}, "which cannot be a file's name"),
        ({"architecture": "../x"}, r"no architecture '\.\./x'"),
        ({"foreign": [{**THEIRS, "n": 0}]}, "n of foreign certificates must be at least 1, got 0"),
        ({"foreign": [{**THEIRS, "alpha": 0}]}, "alpha of foreign certificates must lie strictly between"),
        ({"foreign": [{**THEIRS, "n": "many"}]}, r"Expected `int.*foreign"),
    ],
    ids=str,
)  # fmt: skip
def test_a_plan_that_cannot_work_names_the_entry(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_of({**SMALL, **change})


def test_a_plan_without_a_table_name() -> None:
    with pytest.raises(InputError, match="missing required field `table`"):
        plan_of({})


@pytest.mark.parametrize("content", ["a: [", "- 1", "\xff"])
def test_a_damaged_plan_file(content: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"plan\.yaml"):
        read_plan(path)


def test_a_name_that_stands_twice(tmp_path: Path) -> None:
    """YAML keeps the last of equal names, so that a setting would be lost without a word."""
    path = tmp_path / "plan.yaml"
    path.write_text("victim:\n  all: {epochs: 5}\nruns: 1\nvictim:\n  macer: {epochs: 2}\n")
    with pytest.raises(InputError, match=r"plan\.yaml: .*victim stands there twice .*line 1"):
        read_plan(path)


def test_a_merged_mapping_may_replace_a_name(tmp_path: Path) -> None:
    """The merge (<<) of a mapping that has a merge of its own, and that lies deeper."""
    path = tmp_path / "plan.yaml"
    values = "&a {epochs: 5}\nattacks: {long: &b {<<: *a, epochs: 9}}\ncertification: {<<: *b, n: 10}\n"
    path.write_text(f"victim: {values}")
    found = yaml_values(path.read_text(), "plan.yaml")
    assert found["attacks"] == {"long": {"epochs": 9}} and found["certification"] == {"epochs": 9, "n": 10}
    with pytest.raises(InputError, match="epochs stands there twice"):
        yaml_values("a: &a {n: 1}\nb: {<<: *a, epochs: 5, epochs: 9}", "plan.yaml")


def test_a_runs_plan_has_the_title_of_the_plan(tmp_path: Path) -> None:
    write_json(tmp_path / "plan.json", {**SMALL, "title": "a \U0001f438"})  # JSON writes it as two halves
    assert read_plan(tmp_path / "plan.json").title == "a \U0001f438"


def test_a_missing_plan_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: no such file"):
        read_plan(tmp_path / "none.yaml")


def test_every_class_may_be_certified_and_every_poison_measured() -> None:
    plan = plan_of({**SMALL, "target_classes": [8], "visibility": True, "certification": {"all_classes": True}})
    jobs = {job.name: job for job in jobs_of(plan)}
    seen = jobs["visibility/constant_sigma_0.25_class_8"]
    poison = jobs["poison/constant_sigma_0.25_class_8/X_poisoned_radius_constant_0.25_8"].outputs[0]
    assert f"--poison {poison}" in seen.command and poison in seen.needs
    assert seen.outputs[0] in jobs["tables"].needs
    assert jobs["tables"].command.endswith("/plan.json --directory .")
    certify = next(job for job in jobs_of(plan) if job.rule == "certify")
    assert "--target-class all" in certify.command and "all-classes" not in certify.command
    assert not any(job.rule == "visibility" for job in jobs_of(plan_of(SMALL)))
