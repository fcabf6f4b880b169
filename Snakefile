"""Paper tables: data -> poison -> victims, clean and poisoned -> certificates in shards -> tables and figures.

    make table TABLE=digits                                     # on this machine; config/digits.yaml is the plan
    snakemake --profile profiles/local --configfile config/mnist_paper.yaml
    snakemake --profile profiles/slurm --configfile config/mnist_paper.yaml

Each rule calls the script that a user calls by hand; evaluation/table_plan.py has the combinations and their flags.
A job that stops at its time limit keeps its checkpoint, which is no output here, and continues from it. Only files
that are whole when they appear are outputs, since Snakemake deletes those of a failed job.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from runtime.files import InputError
from evaluation.table_plan import CLEAN, CONTROLS, plan_of

try:
    PLAN = plan_of(config, "the plan (--configfile)")
except InputError as error:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)

ROOT = Path(workflow.basedir)
PYTHON = sys.executable
DATA, WORK, RESULTS = (PLAN.folders[name] for name in ("data", "work", "results"))
MANIFEST = DATA / "manifest.json"
POISONS, VICTIMS = PLAN.poisons(), PLAN.victims()
CELLS = {cell.key: cell for cell in PLAN.cells()}
SHARD = "{shard}" if PLAN.shards > 1 else ""
SHARDS = [f"_shard_{i + 1}_of_{PLAN.shards}" for i in range(PLAN.shards)]


def summary(tsv):
    """The file that appears beside certificates when they are whole."""
    return tsv.with_suffix(".summary.json")


def poison_of(wildcards):
    return None if wildcards.data == CLEAN else POISONS[wildcards.data]


def cell_of(wildcards):
    """The entry that a certificate's path names."""
    return CELLS[f"{wildcards.victim}/{wildcards.data}/class_{wildcards.label}"]


def limits(rule):
    """Resources of a job. It is asked to stop a tenth of its time before the limit: see STOP."""
    of_rule = PLAN.limits_of(rule)
    resources = {"mem_mb": of_rule.mem_mb, "runtime": of_rule.minutes}
    return {**resources, "gpu": of_rule.gpu} if of_rule.gpu else resources


STOP = "--max-minutes $(({resources.runtime} - {resources.runtime} / 10 - 1)) --on-other-settings start_afresh"
# A failed job shows the last line of its log, which is a script's one line of what is wrong.
LOGGED = " >> {log:q} 2>&1 || {{ status=$?; echo {log:q}: \"$(tail -n 1 {log:q})\" >&2; exit $status; }}"
# One thread count gives one result: sums of floats depend on how they are divided.
THREADS = "TF_NUM_INTRAOP_THREADS={threads} TF_NUM_INTEROP_THREADS={threads}"


localrules: all, plan, data, control, merge, tables


wildcard_constraints:
    victim="[^/]+",
    data="[^/]+",
    name="[^/]+",
    label=r"\d+",
    seed=r"\d+",
    shard=r"_shard_\d+_of_\d+",


report: "config/report/workflow.rst"


rule all:
    input: RESULTS / "tables.md"


rule plan:
    output: WORK / "plan.json"
    params: plan=config
    run:
        from runtime.files import write_json
        write_json(Path(output[0]), params.plan)


rule data:
    output: MANIFEST
    params: script=PLAN.script("data"), flags=PLAN.data_flags()
    log: WORK / "logs/data.log"
    shell: "{PYTHON:q} {ROOT:q}/{params.script} {params.flags} --out-dir \"$(dirname {output:q})\"" + LOGGED


rule control:
    input: MANIFEST
    output: WORK / "poison/{data}/{name}.npy"
    wildcard_constraints: data=f"({'|'.join(CONTROLS)})_[^/]+"
    params: flags=lambda wildcards: PLAN.control_flags(POISONS[wildcards.data])
    log: WORK / "logs/poison/{data}/{name}.log"
    shell:
        "{PYTHON:q} {ROOT:q}/attack_generation/control_poison.py {params.flags} --data-dir {DATA:q} "
        "--out-dir \"$(dirname {output:q})\"" + LOGGED


rule poison:
    input: MANIFEST
    output: WORK / "poison/{data}/{name}.npy"
    wildcard_constraints: data=f"(?!({'|'.join(CONTROLS)})_)[^/]+"
    params:
        script=lambda wildcards: PLAN.script("poison", POISONS[wildcards.data].against),
        flags=lambda wildcards: PLAN.poison_flags(POISONS[wildcards.data]),
    threads: PLAN.limits_of("poison").threads
    resources: **limits("poison")
    log: WORK / "logs/poison/{data}/{name}.log"
    benchmark: WORK / "benchmarks/poison/{data}/{name}.tsv"
    shell:
        THREADS + " {PYTHON:q} {ROOT:q}/{params.script} {params.flags} --data-dir {DATA:q} --out-dir \"$(dirname {output:q})\" "
        "--run-dir {WORK:q}/runs/poison/{wildcards.data} " + STOP + LOGGED


rule victim:
    input:
        MANIFEST,
        lambda wildcards: [PLAN.poison_file(poison)] if (poison := poison_of(wildcards)) else [],
    output:
        model=WORK / "victims/{victim}/{data}/{name}_seed{seed}.keras",
        record=WORK / "victims/{victim}/{data}/{name}_seed{seed}.json",
    params:
        script=lambda wildcards: PLAN.script("victim", VICTIMS[wildcards.victim].method),
        flags=lambda wildcards: PLAN.victim_flags(VICTIMS[wildcards.victim], poison_of(wildcards)),
    threads: PLAN.limits_of("victim").threads
    resources: **limits("victim")
    log: WORK / "logs/victims/{victim}/{data}/{name}_seed{seed}.log"
    benchmark: WORK / "benchmarks/victim/{victim}/{data}/{name}_seed{seed}.tsv"
    shell:
        THREADS + " {PYTHON:q} {ROOT:q}/{params.script} {params.flags} --seed {wildcards.seed} --runs 1 "
        "--data-dir {DATA:q} --out-dir \"$(dirname {output.model:q})\" "
        "--run-dir {WORK:q}/runs/{wildcards.victim}/{wildcards.data} " + STOP + LOGGED


rule certify:
    input:
        MANIFEST,
        model=lambda wildcards: PLAN.model_file(cell_of(wildcards), int(wildcards.seed)),
    output: f"{WORK}/certificates/{{victim}}/{{data}}/class_{{label}}/seed_{{seed}}{SHARD}.summary.json"
    params:
        script=PLAN.script("certify"),
        flags=lambda wildcards: PLAN.certify_flags(VICTIMS[wildcards.victim], wildcards.get("shard", "")),
        tsv=lambda wildcards, output: output[0].removesuffix(".summary.json") + ".tsv",
    threads: PLAN.limits_of("certify").threads
    resources: **limits("certify")
    log: f"{WORK}/logs/certificates/{{victim}}/{{data}}/class_{{label}}/seed_{{seed}}{SHARD}.log"
    benchmark: f"{WORK}/benchmarks/certify/{{victim}}/{{data}}/class_{{label}}/seed_{{seed}}{SHARD}.tsv"
    shell:
        THREADS + " {PYTHON:q} {ROOT:q}/{params.script} {params.flags} --target-class {wildcards.label} "
        "--model {input.model:q} --out {params.tsv:q} --data-dir {DATA:q} " + STOP + LOGGED


if PLAN.shards > 1:

    rule merge:
        input:
            lambda wildcards: [
                summary(PLAN.certificate_file(cell_of(wildcards), int(wildcards.seed), shard)) for shard in SHARDS
            ],
        output:
            WORK / "certificates/{victim}/{data}/class_{label}/seed_{seed}.summary.json",
            WORK / "certificates/{victim}/{data}/class_{label}/seed_{seed}.settings.json",
            tsv=WORK / "certificates/{victim}/{data}/class_{label}/seed_{seed}.tsv",
        params: shards=lambda wildcards, input: [path.removesuffix(".summary.json") + ".tsv" for path in input]
        log: WORK / "logs/certificates/{victim}/{data}/class_{label}/seed_{seed}.log"
        shell:
            "{PYTHON:q} {ROOT:q}/randomized_smoothing_certification/merge_shards.py --shards {params.shards:q} "
            "--out {output.tsv:q}" + LOGGED


rule tables:
    input:
        rules.plan.output,
        [summary(PLAN.certificate_file(cell, seed)) for cell in CELLS.values() for seed in PLAN.seeds],
        [path for foreign in PLAN.foreign for path in foreign.files],
    output:
        RESULTS / "tables.md",
        RESULTS / "tables.tex",
        RESULTS / "tables.csv",
        report(
            RESULTS / "tables.html", category="1 Tables", labels={"page": "all tables"},
            caption="config/report/tables.rst",
        ),
        report(
            RESULTS / "configuration.html", category="3 Configuration", labels={"page": "plan, versions, run times"},
            caption="config/report/configuration.rst",
        ),
        [
            report(RESULTS / "figures" / name, category="2 Figures", subcategory=kind, labels={"figure": about})
            for name, (kind, about) in PLAN.figures().items()
        ],
    log: WORK / "logs/tables.log"
    shell: "{PYTHON:q} {ROOT:q}/evaluation/make_tables.py --plan {input[0]:q}" + LOGGED


onerror:
    # What is there, with a list of what is missing; elsewhere, since a table in its place would count as made.
    if (WORK / "plan.json").is_file():
        make = [PYTHON, str(ROOT / "evaluation/make_tables.py"), "--plan", str(WORK / "plan.json")]
        subprocess.run([*make, "--results-dir", str(WORK / "incomplete")])


onsuccess:
    shutil.rmtree(WORK / "incomplete", ignore_errors=True)
