"""The batch jobs whose texts the repository holds: jobs/*.slurm, and golden files of the tests.

`python tests/helpers/slurm_texts.py` writes all of them anew.
"""

from __future__ import annotations

from pathlib import Path

from sde_harl.slurm.batch import Batch, Component, batch_text

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("slurm")
SMAC = Batch(
    about="""The main job under Slurm. From the checkout, after `make venv`:
    sbatch jobs/smac.slurm [key=value ...]
To end it early with everything saved:
    scontrol update JobId=JOBID Requeue=0; scancel --batch --signal=USR1 JOBID
Edit the time, and add your cluster's partition and account. Rank 0 learns; each of the other tasks
holds agents. For 3s5z, which has eight, more than nine tasks are of no use. `sde-harl submit`
writes such a script for any run.""",
    name="sde_harl",
    time="04:00:00",
    signal="USR1@120",
    log="sde_harl-%j.log",
    components=(Component(0, 9),),
    shell_folder='"${SLURM_SUBMIT_DIR:?start this with sbatch, from the checkout}"',
    shell_setup=(
        "# Where the cluster has an Open MPI of its own: load its module here, and build mpi4py",
        "# against it.",
        "source .venv/bin/activate",
    ),
    shell_command=(
        'mpirun --bind-to none -np "$SLURM_NTASKS"',
        '"$PWD/.venv/bin/python" -m sde_harl.run configs/smac.yaml train.resume=auto "$@"',
    ),
)
JOB = Batch(
    about="Written by sde-harl submit. docs/clusters.md says what it does and why.",
    name="main",
    time="2:00:00",
    signal="USR1@120",
    log="/home/me/results/jobs/main/%j.log",
    components=(Component(4, 9),),
    shell_folder="'/home/me/my work'",
    shell_command=(
        "/venv/bin/mpirun",
        "--bind-to none",
        '-np "$SLURM_NTASKS"',
        "/venv/bin/python",
        "-m sde_harl.run",
        "/home/me/results/jobs/main/run.yaml",
        "--trust",
    ),
)
ARRAY = JOB._replace(
    log="/home/me/results/jobs/main/%A_%a.log",
    array="0,2%3",
    options=("--partition=gpu",),
    components=(Component(1, 1, cpus_per_task=4, gpus_per_node=1),),
    shell_setup=(
        "configs=(",
        "    [0]=/home/me/results/jobs/main/seed=1.yaml",
        "    [2]=/home/me/results/jobs/main/seed=3.yaml",
        ")",
    ),
    shell_command=("/venv/bin/python", "-m sde_harl.run", '"${configs[$SLURM_ARRAY_TASK_ID]}"'),
)
TEXTS = {
    ROOT / "jobs" / "smac.slurm": SMAC,
    GOLDEN / "job.slurm": JOB,
    GOLDEN / "array.slurm": ARRAY,
}

if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for path, batch in TEXTS.items():
        path.write_text(batch_text(batch))
