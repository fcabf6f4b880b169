"""Paper tables: data -> poison -> victims, clean and poisoned -> certificates in shards -> tables and figures.

    make table TABLE=digits                                     # on this machine; config/digits.yaml is the plan
    snakemake --profile profiles/local --configfile config/mnist_paper.yaml
    snakemake --profile profiles/slurm --configfile config/mnist_paper.yaml

Each rule calls the script that a user calls by hand. evaluation/tables/jobs.py makes the jobs, and run_plan.py beside it
runs the same jobs in one process or several, without Snakemake.
A job that stops at its time limit keeps its checkpoint, which is no output here, and continues from it. Only files
that are whole when they appear are outputs, since Snakemake deletes those of a failed job.
"""

import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from runtime.files import InputError, read_text
from attack_generation.controls import CONTROLS
from evaluation.tables.cells import FIGURES, READY
from evaluation.tables.jobs import jobs_of
from evaluation.tables.plan import plan_of, yaml_values
from evaluation.tables.run_plan import jobs_to_run

WHERE = "the plan (--configfile)"
try:
    PLAN = plan_of(config, WHERE)
    JOBS = {job.name: job for job in jobs_of(PLAN)}
    if workflow.is_main_process:  # a job of it reads this file again
        written = []
        for file in map(Path, workflow.configfiles):
            values = yaml_values(read_text(file), str(file))
            with suppress(InputError):  # a file may be a part of the plan
                written.append(plan_of(values))
        jobs_to_run(PLAN, written, Path(), WHERE)  # checks them
except InputError as error:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)

ROOT = Path(workflow.basedir)
PYTHON = sys.executable
WORK, RESULTS = PLAN.paths.work, PLAN.paths.results
THREADS = PLAN.threads
MADE_AT_ONCE = *CONTROLS, READY  # names of poisons that need no attack begin with one of these


def job(wildcards):
    """The job that a rule's output names."""
    return JOBS[f"{wildcards.kind}/{wildcards.name}"]


def needs(wildcards):
    return job(wildcards).needs


def command(wildcards):
    return job(wildcards).command


def limits(rule):
    """Resources of a job. It is asked to stop a tenth of its time before the limit: see STOP."""
    allowed = PLAN.limits_for(rule)
    resources = {"mem_mb": allowed.mem_mb, "runtime": allowed.minutes}
    return {**resources, "gpu": allowed.gpu} if allowed.gpu else resources


STOP = " --max-minutes $(({resources.runtime} - {resources.runtime} / 10 - 1)) --on-other-settings start_afresh"
# A failed job prints the last line of its log: the script's error line.
LOGGED = " >> {log:q} 2>&1 || {{ status=$?; echo {log:q}: \"$(tail -n 1 {log:q})\" >&2; exit $status; }}"
CALL = "TF_NUM_INTRAOP_THREADS={threads} TF_NUM_INTEROP_THREADS={threads} {PYTHON:q} {ROOT:q}/{params.command}"
WHOLE = r"(?!.*_shard_\d+_of_\d+\.).*"


localrules: all, plan, data, control, visibility, tables


wildcard_constraints:
    kind="poison|victims|certificates",


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
    output: JOBS["data"].outputs
    params: command=JOBS["data"].command
    threads: THREADS
    log: WORK / "logs/data.log"
    shell: CALL + LOGGED


rule control:
    input: needs
    output: WORK / "{kind}/{name}.npy", WORK / "{kind}/{name}.json"
    wildcard_constraints: kind="poison", name=f"({'|'.join(MADE_AT_ONCE)})_.*"
    params: command=command
    threads: THREADS
    log: WORK / "logs/{kind}/{name}.log"
    shell: CALL + LOGGED


use rule control as visibility with:
    output: WORK / "{kind}/{name}.json"
    wildcard_constraints: kind="visibility"


rule poison:
    input: needs
    output: WORK / "{kind}/{name}.npy", WORK / "{kind}/{name}.json"
    wildcard_constraints: kind="poison", name=f"(?!({'|'.join(MADE_AT_ONCE)})_).*"
    params: command=command
    threads: THREADS
    resources: **limits("poison")
    log: WORK / "logs/{kind}/{name}.log"
    benchmark: WORK / "benchmarks/poison/{kind}/{name}.tsv"
    shell: CALL + STOP + LOGGED


use rule poison as victim with:
    output: WORK / "{kind}/{name}.keras", WORK / "{kind}/{name}.json"
    wildcard_constraints: kind="victims"
    resources: **limits("victim")
    benchmark: WORK / "benchmarks/victim/{kind}/{name}.tsv"


use rule poison as certify with:
    output: WORK / "{kind}/{name}.summary.json"
    wildcard_constraints: kind="certificates", name=r".*_shard_\d+_of_\d+" if PLAN.shards > 1 else WHOLE
    resources: **limits("certify")
    benchmark: WORK / "benchmarks/certify/{kind}/{name}.tsv"


if PLAN.shards > 1:

    localrules: merge

    use rule control as merge with:
        output:
            WORK / "{kind}/{name}.summary.json", WORK / "{kind}/{name}.settings.json", WORK / "{kind}/{name}.tsv",
        wildcard_constraints: kind="certificates", name=WHOLE


rule tables:
    input: JOBS["tables"].needs
    output:
        RESULTS / "tables.md",
        RESULTS / "tables.tex",
        RESULTS / "tables.csv",
        report(
            RESULTS / "tables.html", category="1 Tables", labels={"page": "tables, plan, versions, run times"},
            caption="config/report/tables.rst",
        ),
        [report(RESULTS / name, category="2 Figures", labels={"figure": about}) for name, about in FIGURES.items()],
    params: command=JOBS["tables"].command
    threads: THREADS
    log: WORK / "logs/tables.log"
    shell: CALL + LOGGED


onerror:
    # The entries that are there, and a list of those that are missing. They go to another folder, because Snakemake would
    # take a table in its own place for the finished one.
    if (WORK / "plan.json").is_file():
        make = [PYTHON, str(ROOT / "evaluation/tables/make_tables.py"), "--plan", str(WORK / "plan.json")]
        subprocess.run([*make, "--directory", ".", "--results-dir", str(WORK / "incomplete")])


onsuccess:
    shutil.rmtree(WORK / "incomplete", ignore_errors=True)
