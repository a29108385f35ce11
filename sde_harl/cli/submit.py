"""Submits runs to Slurm, each as a job that goes on by itself until its run is finished.

    sde-harl submit EXPERIMENT --nodes 4 --time 2:00:00 [key=value ...]
    sde-harl submit EXPERIMENT --time 2:00:00 --array seed=1..5 [--max-parallel 3]
    sde-harl submit EXPERIMENT --time 2:00:00 --dry-run           shows the job's script, and stops
    sde-harl submit EXPERIMENT --time 2:00:00 -- --partition=gpu --account=mine    options of sbatch

A job that reaches its time limit, or whose host fails, goes back into the queue and its run goes on
where it was. --array makes a run of each combination of values, as sde-harl sweep does. Type the
same command again to submit what has failed: runs that are finished or in the queue are left out.

Everything about the jobs lies in <record.dir>/jobs/<record.exp>/: configurations, script and logs.
sde-harl status shows how far they are, sde-harl cancel ends them.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from sde_harl.cli.counting import count
from sde_harl.cli.job_folder import JobFolder
from sde_harl.cli.job_launch import LAUNCHERS, job_launch
from sde_harl.cli.trials import SweepPlan, Trial, finished, plan
from sde_harl.config.schema import Config
from sde_harl.envs.registry import spec_of
from sde_harl.errors import ExitCode, UserError
from sde_harl.slurm import commands
from sde_harl.slurm.batch import Batch, Component, batch_text
from sde_harl.slurm.times import check_times

ABOUT = "Written by sde-harl submit. docs/clusters.md says what it does and why."
SIGNAL = "USR1@120"


def main(argv: list[str]) -> int:
    """Submits what is neither finished nor in the queue, and says where everything is."""
    ours, extra = _parted(argv)
    options, words = _parser().parse_known_args(ours)
    check_times(options.time, options.signal)
    for word in options.array:
        if "=" not in word:
            raise UserError(f"--array: expected key=a,b,c or key=1..5, got {word}")
    asked = plan([*words, *options.array], kind="jobs", must_vary=False)
    folder = JobFolder(asked.folder)
    missing = _missing(asked, folder, is_asking_slurm=not options.dry_run)
    if not missing:
        print(f"nothing to submit: sde-harl status {asked.folder} shows the runs")
        return ExitCode.DONE
    text = batch_text(_batch(options, extra, asked=asked, missing=missing, folder=folder))
    if options.dry_run:
        print(text, end="")
        return ExitCode.DONE
    folder.write(missing.values(), text)
    job = commands.submit(folder.script)
    folder.note(job, {task: trial.name for task, trial in missing.items()})
    print(f"job {job}: {len(missing)} of {len(asked.trials)} runs; logs in {asked.folder}")
    print(f"next: sde-harl status {asked.folder}, or sde-harl cancel {asked.folder}")
    return ExitCode.DONE


def _missing(plan: SweepPlan, folder: JobFolder, *, is_asking_slurm: bool) -> dict[int, Trial]:
    """Returns the runs that are neither finished nor in the queue, by their numbers in the plan."""
    queue = commands.queue() if is_asking_slurm else []
    queued = {run.name for run in folder.submitted() if run.find(queue)}
    return {
        number: trial
        for number, trial in enumerate(plan.trials)
        if trial.name not in queued and not finished(trial.config)
    }


def _batch(
    options: argparse.Namespace,
    extra: list[str],
    *,
    asked: SweepPlan,
    missing: dict[int, Trial],
    folder: JobFolder,
) -> Batch:
    """Returns the job that plays the missing runs."""
    configs = [trial.config for trial in asked.trials]
    learners = max(config.learner.ranks for config in configs)
    ranks = options.ranks or _ranks(configs)
    launch = job_launch(options.launcher, ranks=ranks, is_hetjob=options.hetjob)
    array = ""
    setup = list(launch.setup)
    if len(asked.trials) > 1:
        array = ",".join(map(str, missing))
        if options.max_parallel:
            array += f"%{options.max_parallel}"
        setup.append("configs=(")
        for number, trial in missing.items():
            setup.append(f"    [{number}]={_quoted(folder.config_file(trial.name))}")
        setup.append(")")
        config = '"${configs[$SLURM_ARRAY_TASK_ID]}"'
    else:
        config = _quoted(folder.config_file(asked.trials[0].name))
    # Trusted, because submit itself has written the file, after it had asked for trust.
    run = (shlex.quote(sys.executable), "-m sde_harl.run", config, "--trust", *_sensor(configs))
    return Batch(
        about=ABOUT,
        name=asked.folder.name,
        time=options.time,
        signal=options.signal,
        log=folder.log(is_array=bool(array)),
        components=_components(options, ranks, learners),
        shell_folder=_quoted(Path.cwd()),
        shell_setup=tuple(setup),
        shell_command=(*launch.words, *run),
        array=array,
        options=tuple(extra),
    )


def _components(options: argparse.Namespace, ranks: int, learners: int) -> tuple[Component, ...]:
    if not options.hetjob:
        nodes = min(options.nodes, ranks)
        return (Component(nodes, ranks, options.cpus_per_task, options.gpus),)
    if ranks < 2:
        raise UserError("--hetjob: expected a run of two ranks or more, this one is one process")
    if options.array:
        raise UserError("--hetjob: Slurm takes no arrays of such jobs; leave out --array")
    if learners > 1:
        raise UserError(
            "--hetjob: expected learner.ranks = 1, for the last ranks of such a job are on the"
            f" executors' hosts, got {learners}"
        )
    # The learner's host, and those of the executors, which need neither a GPU nor many cores.
    learner = Component(1, 1, options.cpus_per_task, options.gpus)
    return (learner, Component(min(options.nodes, ranks - 1), ranks - 1))


def _ranks(configs: list[Config]) -> int:
    """Returns the ranks that all runs can use: the learners, and one for each agent.

    Raises UserError where the user has to decide.
    """
    modes = {config.placement.mode for config in configs}
    learners = {config.learner.ranks for config in configs}
    if len(learners) > 1:
        raise UserError("--array: expected runs of the same learner.ranks, which share one script")
    if "local" in modes:
        return min(learners)
    if "envs" in modes:
        raise UserError("--ranks: expected how many share the environments of placement.mode=envs")
    # A run refuses more executors than it has agents.
    agents = min(len(spec_of(env).agents) for env in {config.env for config in configs})
    return min(learners) + agents


def _sensor(configs: list[Config]) -> tuple[str, ...]:
    """Returns the word that an executor takes from its own command line alone."""
    sensors = {config.executor.sensor for config in configs} - {"none"}
    return tuple(shlex.quote(f"executor.sensor={sensor}") for sensor in sensors)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _parted(argv: list[str]) -> tuple[list[str], list[str]]:
    """Returns our own words, and behind -- those for sbatch."""
    if "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sde-harl submit",
        usage="%(prog)s EXPERIMENT --time H:MM:SS [options] [key=value ...] [-- SBATCH OPTIONS]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--time", required=True, metavar="H:MM:SS", help="time limit of one start")
    add("--nodes", type=count, default=0, metavar="N", help="hosts (as Slurm sees fit)")
    add("--ranks", type=count, metavar="N", help="MPI ranks (the learners, one for each agent)")
    add("--cpus-per-task", type=count, default=1, metavar="N", help="cores of a rank (1)")
    add("--gpus", type=count, default=0, metavar="N", help="GPUs of each host (0)")
    add(
        "--hetjob",
        action="store_true",
        help="cores and GPUs for rank 0 alone",
    )
    add("--array", action="append", default=[], metavar="KEY=A,B", help="a run for each value")
    add("--max-parallel", type=count, default=0, metavar="N", help="runs at once (all)")
    add("--launcher", choices=LAUNCHERS, default="auto", help="mpirun, or srun's --mpi (auto)")
    add("--signal", default=SIGNAL, metavar="NAME@S", help=f"warning before the limit ({SIGNAL})")
    add("--dry-run", action="store_true", help="show the script, and submit nothing")
    return parser
