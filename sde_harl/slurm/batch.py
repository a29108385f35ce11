"""Writes the text of a batch job: what sbatch is asked for, and the script that it starts.

The script starts the run, passes signals on to it, and has Slurm put the job back into its queue
where a signal ended the run early. The options of a job are a header; everything behind it is the
same for all jobs.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import NamedTuple

BODY = r"""
# USR1 and not the signal that came: mpirun answers any other by killing its ranks half a second
# later. USR1 it hands on to them, as srun does. Rank 0 saves, sends the executors home and ends.
signalled=''
launcher=''
pass_on() { [[ ! $launcher ]] || kill -USR1 "$launcher" || true; }
trap 'signalled=yes; interrupted=yes; pass_on' USR1 TERM INT HUP
"${command[@]}" &
launcher=$!
# A signal may have come before the launcher's number was known. Of two, a run minds the first.
[[ ! $signalled ]] || pass_on

# A trapped signal ends the wait; the run is over only when its launcher is gone.
interrupted=yes
while [[ $interrupted ]]; do
    interrupted=''
    code=0
    wait "$launcher" || code=$?
done
trap '' USR1 TERM INT HUP

# 130: stopped, and all of it saved. The job goes back into the queue, and its next start goes on
# from there. Slurm refuses that for a job that sde-harl cancel has ended.
if [[ $signalled && $code == 130 ]]; then
    scontrol requeue "$SLURM_JOB_ID" || true
fi
exit "$code"
"""


class Component(NamedTuple):
    """Hosts of one kind. A heterogeneous job has several kinds, any other job one."""

    nodes: int
    """Number of hosts; 0: Slurm decides."""
    tasks: int
    cpus_per_task: int = 1
    gpus_per_node: int = 0

    def options(self) -> Iterator[str]:
        """Yields what sbatch is asked for."""
        if self.nodes:
            yield f"--nodes={self.nodes}"
        yield f"--ntasks={self.tasks}"
        yield f"--cpus-per-task={self.cpus_per_task}"
        if self.gpus_per_node:
            yield f"--gpus-per-node={self.gpus_per_node}"


class Batch(NamedTuple):
    """A batch job. What begins with `shell_` is written into the script as it is."""

    about: str
    """Comment at its beginning, without the #."""
    name: str
    time: str
    signal: str
    """The signal that says the time is nearly over, and how many seconds before: USR1@120."""
    log: str
    """File that the job's output is appended to, in Slurm's spelling: %j is the job's number."""
    components: tuple[Component, ...]
    shell_folder: str
    """Folder that the run is started in."""
    shell_command: tuple[str, ...]
    """Words of the command that starts the run."""
    shell_setup: tuple[str, ...] = ()
    """Lines before it."""
    array: str = ""
    """Numbers of the array's tasks, and how many run at once: 0,3%2. Empty: no array."""
    options: tuple[str, ...] = ()
    """Further options of sbatch."""


def batch_text(batch: Batch) -> str:
    """Returns the job's script."""
    lines = ["#!/usr/bin/env bash", *(f"# {line}" for line in batch.about.splitlines()), ""]
    lines += [f"#SBATCH {option}" for option in _options(batch)]
    first, *others = batch.components
    lines += [f"#SBATCH {option}" for option in first.options()]
    for component in others:
        lines.append("#SBATCH hetjob")
        lines += [f"#SBATCH {option}" for option in component.options()]
    lines += ["", "set -euo pipefail", f"cd {batch.shell_folder}", *batch.shell_setup]
    lines += ["command=(", *(f"    {word}" for word in batch.shell_command), ")"]
    return "\n".join(lines) + BODY


def _options(batch: Batch) -> Iterator[str]:
    yield f"--job-name={shlex.quote(batch.name)}"
    yield f"--time={batch.time}"
    yield f"--output={shlex.quote(batch.log)}"
    # A job that was put back into the queue goes on in the same file.
    yield "--open-mode=append"
    yield "--requeue"
    # B: to this script alone. Slurm would send it to the ranks without the script knowing of it.
    yield f"--signal=B:{batch.signal}"
    if batch.array:
        yield f"--array={batch.array}"
    yield from batch.options
