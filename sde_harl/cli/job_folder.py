"""The folder of an experiment's batch jobs: <record.dir>/jobs/<record.exp>/.

It holds each run's whole configuration as it was submitted, so that editing a file changes nothing
that waits in the queue; jobs.json, which says what Slurm was given; the jobs' script and logs.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, TypeAdapter

from sde_harl.cli.trials import Trial
from sde_harl.config.layers import from_yaml, to_yaml
from sde_harl.config.schema import Config
from sde_harl.errors import UserError
from sde_harl.outside.text import read_text
from sde_harl.slurm.commands import Queued

JOBS_FILE = "jobs.json"
MOST_BYTES = 1 << 24
ALONE = "run"
"""The name in this folder of a run that is no part of an array."""


class _Job(BaseModel):
    """A job that Slurm has taken."""

    job: int
    runs: dict[int, str]
    """Names of its runs by their numbers in its array; 0 where it is none."""


_JOBS = TypeAdapter(list[_Job])


class Submitted(NamedTuple):
    """One run as Slurm was given it last."""

    name: str
    job: int
    task: int
    """Its number in the job's array; 0 where the job is none."""

    def find(self, queue: Iterable[Queued]) -> Queued | None:
        """Returns what Slurm says of it; None where it has ended."""
        return next(
            (each for each in queue if (each.job, each.task) == (self.job, self.task)), None
        )


class JobFolder:
    """The folder of one experiment's jobs."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def script(self) -> Path:
        """Returns the file of the script that was submitted last."""
        return self.path / "job.slurm"

    def log(self, *, is_array: bool) -> str:
        """Returns the name of the jobs' logs in Slurm's spelling."""
        return str(self.path).replace("%", "%%") + ("/%A_%a.log" if is_array else "/%j.log")

    def log_of(self, run: Submitted) -> Path:
        """Returns the log of a run that was submitted."""
        array = self.path / f"{run.job}_{run.task}.log"
        if array.exists():
            return array
        return self.path / f"{run.job}.log"

    def config_file(self, name: str) -> Path:
        """Returns the file with a run's configuration."""
        return self.path / f"{name or ALONE}.yaml"

    def config(self, name: str) -> Config:
        """Returns a run's configuration. Raises UserError where it can't be read."""
        path = self.config_file(name)
        try:
            return from_yaml(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: can't read the configuration: {error}") from error

    def write(self, trials: Iterable[Trial], script: str) -> None:
        """Writes what a job needs before it is submitted. Raises UserError where it can't."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for trial in trials:
                self.config_file(trial.name).write_text(to_yaml(trial.config), encoding="utf-8")
            self.script.write_text(script, encoding="utf-8")
        except OSError as error:
            raise UserError(f"{self.path}: can't be written: {error.strerror}") from error

    def note(self, job: int, runs: dict[int, str]) -> None:
        """Adds a job that Slurm has taken: the names of its runs by their numbers in the array."""
        jobs = [*self._jobs(), _Job(job=job, runs=runs)]
        part = self.path / f"{JOBS_FILE}.part"
        part.write_bytes(_JOBS.dump_json(jobs, indent=2))
        part.replace(self.path / JOBS_FILE)

    def submitted(self) -> list[Submitted]:
        """Returns every run as it was submitted last. Raises UserError for a file not of ours."""
        latest: dict[str, Submitted] = {}
        for each in self._jobs():
            for task, name in each.runs.items():
                latest[name] = Submitted(name=name, job=each.job, task=task)
        return [*latest.values()]

    def _jobs(self) -> list[_Job]:
        path = self.path / JOBS_FILE
        if not path.exists():
            return []
        try:
            return _JOBS.validate_json(read_text(path, MOST_BYTES))
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{path}: not as sde-harl submit writes it: {reason}") from error
