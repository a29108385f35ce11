"""Games in worker processes: the vector's side of it. `worker.py` is the other.

Workers are programs of their own, started by exec: no fork of a process that has MPI, torch or JAX inside, and nothing
of MPI's launcher in their environment. Observations and all else lie in memory that they share with the vector; a step
costs one byte pair to each worker and one byte back (a pipe was no slower than eventfd or semaphores, and its end tells
of a death).
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import signal
import subprocess
import sys
from typing import IO, NoReturn, cast

import numpy as np

from sde_harl.config.schema import EnvConfig as EnvSection
from sde_harl.envs.base import EnvConfig, EnvSpec
from sde_harl.envs.specs import from_json
from sde_harl.envs.vector.games import RingVector, memory_size
from sde_harl.envs.vector.orders import DONE, FAILED, RESET, STEP, Failure, Order
from sde_harl.errors import UserError

LAUNCHERS = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "SLURM_")
"""Variables that would make a worker's MPI believe it was one of the job's ranks."""
CLOSE_TIMEOUT_S = 5.0


class Worker:
    """One process and the games it holds."""

    def __init__(self, number: int, order: Order) -> None:
        self._number, self._order = number, order
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sde_harl.envs.vector.worker"],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
            pass_fds=(order.memory,),
            start_new_session=True,  # signals to the terminal's or mpirun's process group are the parent's to answer
        )
        self._stdin = cast("IO[bytes]", self._process.stdin)
        self._stdout = cast("IO[bytes]", self._process.stdout)
        self._write(json.dumps(order).encode() + b"\n")

    def spec(self) -> EnvSpec:
        """Wait until the games are made. Raises UserError."""
        line = self._stdout.readline()
        if not line or line.startswith(FAILED):
            self._fail(line)
        return from_json(line)

    def tell(self, command: int, slot: int) -> None:
        self._write(bytes((command, slot)))

    def hear(self) -> None:
        """Wait until the command is carried out. Raises UserError where the worker failed or died."""
        answer = self._stdout.read(1)
        if answer != DONE:
            self._fail(answer + self._stdout.readline())

    def close(self) -> None:
        """End the process, by force where it doesn't end by itself."""
        self._stdin.close()
        self._stdout.close()
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self, words: bytes) -> None:
        try:
            self._stdin.write(words)
        except BrokenPipeError:
            pass  # it has died; `hear` says of what

    def _fail(self, said: bytes) -> NoReturn:
        if said.startswith(FAILED):
            failure = Failure(*json.loads(said[1:]))
            if failure.mendable:
                raise UserError(failure.text)
            reason = failure.text
        else:
            reason = self._death()
        first = self._order.first_env + self._order.first
        games = f"environments {first} to {first + self._order.games - 1}"
        raise UserError(f"environment worker {self._number} ({games}) failed: {reason}")

    def _death(self) -> str:
        code = self._process.wait()  # its output is at an end, so it has ended
        return (
            f"killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with code {code}"
        )


class WorkerVector(RingVector):
    """E games dealt over worker processes. Raises UserError where a game can't be made."""

    def __init__(self, env_config: EnvConfig, num_envs: int, seed: int, first_env: int) -> None:
        memory = os.memfd_create("environments")
        parts = np.array_split(np.arange(num_envs), min(env_config.workers, num_envs))
        fields = {
            field.name: getattr(env_config, field.name) for field in dataclasses.fields(EnvSection)
        }
        self._workers: list[Worker] = []
        try:
            for number, rows in enumerate(parts):
                order = Order(
                    fields, seed, first_env, num_envs, int(rows[0]), len(rows), memory, os.getpid()
                )
                self._workers.append(Worker(number, order))
            spec = [worker.spec() for worker in self._workers][0]
            os.ftruncate(memory, memory_size(spec, num_envs))
            super().__init__(spec, num_envs, mmap.mmap(memory, 0))
        except BaseException:
            self.close()
            raise
        finally:
            os.close(memory)

    def _begin(self) -> None:
        for worker in self._workers:
            worker.tell(RESET if self._resetting else STEP, self._slot)

    def _finish(self) -> None:
        for worker in self._workers:
            worker.hear()

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


def _environment() -> dict[str, str]:
    """This process's, without the launcher's, with its import path, and with one thread a worker."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    return {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | kept | {"PYTHONPATH": path}
