"""Plays games in worker processes. This is the vector's side of it; `worker.py` is the other.

Workers are programs of their own, started by exec: a process that has MPI, torch or JAX inside must
not be forked, and a worker's environment must hold nothing of MPI's launcher. All arrays are in
memory that workers and vector share. A step costs two bytes to each worker and one byte back, over
pipes: eventfd and semaphores were measured to be no faster, and the end of a pipe tells of a death.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import select
import signal
import subprocess
import sys
import time
from typing import IO, NoReturn, cast

import numpy as np

from sde_harl.envs.base import EnvSpec
from sde_harl.envs.settings import EnvConfig
from sde_harl.envs.specs import common_spec, from_json
from sde_harl.envs.vector.ring import RingVector, memory_size
from sde_harl.envs.vector.worker_protocol import (
    DONE,
    FAILED,
    RESET,
    STEP,
    WorkerSetup,
    failure_from_bytes,
)
from sde_harl.errors import UserError
from sde_harl.outside.process import interruption

LAUNCHERS = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "SLURM_")
"""Variables that would make a worker's MPI believe that it is one of the job's ranks."""
CLOSE_TIMEOUT_S = 5.0
START_TIMEOUT_S = 120.0
"""Least time for a worker to start and to make its games. Many start at once and import much."""
POLL_S = 0.5
SETTINGS = [name for name, value in vars(EnvConfig).items() if isinstance(value, property)]
"""Names of the settings that an environment reads, the only ones that travel to a worker."""


class Worker:
    """Starts one worker process and talks to it."""

    def __init__(self, number: int, setup: WorkerSetup, *, timeout_s: float) -> None:
        """`timeout_s`: time that a step may take."""
        self._number = number
        self._setup = setup
        self._timeout_s = timeout_s
        self._process = _start_process(setup.memory)
        self._stdin = cast("IO[bytes]", self._process.stdin)
        self._stdout = cast("IO[bytes]", self._process.stdout)
        self._write(setup.to_json() + b"\n")

    def spec(self) -> EnvSpec:
        """Waits until the games are made and returns their spec. Raises UserError."""
        self._wait(max(self._timeout_s, START_TIMEOUT_S))
        line = self._stdout.readline()
        if not line or line.startswith(FAILED):
            self._fail(line)
        return from_json(line)

    def start(self, command: int, index: int) -> None:
        """Sends RESET or STEP, and the index of the step buffers to write."""
        self._write(bytes((command, index)))

    def finish(self) -> None:
        """Waits until the command is carried out.

        Raises UserError if the worker failed or died, or doesn't answer in time.
        """
        self._wait(self._timeout_s)
        answer = self._stdout.read(1)
        if answer != DONE:
            self._fail(answer + self._stdout.readline())

    def dismiss(self) -> None:
        """Asks the process to end, without waiting for it."""
        self._stdin.close()
        self._stdout.close()

    def reap(self, timeout_s: float) -> None:
        """Waits for the end of the process, and enforces it after `timeout_s`."""
        _ended(self._process, timeout_s)

    def _write(self, message: bytes) -> None:
        # If the worker has died, reading its answer finds out why.
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(message)

    def _wait(self, timeout_s: float) -> None:
        """Waits until there is something to read. Raises UserError if there is nothing in time."""
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN)
        # In short waits that are counted: while this process itself is stopped, the clock goes on,
        # but the worker may be stopped with it.
        for _ in range(math.ceil(timeout_s / POLL_S)):
            if poll.poll(1e3 * min(POLL_S, timeout_s)):
                return
            interruption.check()
        self._process.kill()  # it would not hear that its input ends
        raise self._error(
            f"no answer within {timeout_s:g} s (link.failure_timeout_s): it is stopped, or its"
            " environment hangs"
        )

    def _fail(self, answer: bytes) -> NoReturn:
        """Raises the UserError that an answer, or the lack of one, calls for."""
        raise self._error(self._reason(answer))

    def _error(self, reason: str) -> UserError:
        first = self._setup.first_env + self._setup.first_row
        games = f"environments {first} to {first + self._setup.num_rows - 1}"
        return UserError(f"environment worker {self._number} ({games}) failed: {reason}")

    def _reason(self, answer: bytes) -> str:
        """Returns why the worker failed. Raises UserError if it's one that speaks for itself."""
        if answer.startswith(FAILED):
            failure = failure_from_bytes(answer)
            if failure.is_user_error:
                raise UserError(failure.text)
            return failure.text
        # Its output has ended, so it has ended or is about to.
        code = _ended(self._process, CLOSE_TIMEOUT_S)
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"it ended with code {code}"


class WorkerVector(RingVector):
    """Deals E games over worker processes. Raises UserError if a game can't be made."""

    def __init__(
        self,
        env_config: EnvConfig,
        *,
        num_envs: int,
        seed: int,
        first_env: int,
        timeout_s: float,
    ) -> None:
        """`timeout_s`: time that a step may take before its worker is given up."""
        memory = os.memfd_create("environments")
        everyones = WorkerSetup(
            env={name: getattr(env_config, name) for name in SETTINGS},
            seed=seed,
            first_env=first_env,
            num_envs=num_envs,
            first_row=0,
            num_rows=num_envs,
            memory=memory,
            parent=os.getpid(),
        )
        self._workers: list[Worker] = []
        try:
            # All workers are started before the first is waited for, so that they make their games
            # at the same time.
            deal = np.array_split(np.arange(num_envs), min(env_config.workers, num_envs))
            for number, rows in enumerate(deal):
                own = everyones._replace(first_row=int(rows[0]), num_rows=len(rows))
                self._workers.append(Worker(number, own, timeout_s=timeout_s))
            # The memory gets its size last, because the size follows from the spec, which only a
            # game knows. All are asked: one that failed says so instead of its spec.
            spec = common_spec([worker.spec() for worker in self._workers])
            os.ftruncate(memory, memory_size(spec, num_envs))
            super().__init__(spec, num_envs, mmap.mmap(memory, 0), first_env=first_env)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(memory)  # the mappings, ours and the workers', keep the memory

    def _start(self, index: int, *, is_reset: bool) -> None:
        command = STEP
        if is_reset:
            command = RESET
        for worker in self._workers:
            worker.start(command, index)

    def _finish(self) -> None:
        for worker in self._workers:
            worker.finish()

    def close(self) -> None:
        for worker in self._workers:
            worker.dismiss()
        # One time limit for all: an environment may hang in each of them.
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        for worker in self._workers:
            worker.reap(max(0.0, deadline - time.monotonic()))


def _ended(process: subprocess.Popen[bytes], timeout_s: float) -> int:
    """Returns the exit code of a process that has nothing left to do; kills it if it goes on."""
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _start_process(memory: int) -> subprocess.Popen[bytes]:
    """Starts a worker that inherits the file descriptor of the shared memory."""
    return subprocess.Popen(
        [sys.executable, "-m", "sde_harl.envs.vector.worker"],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_environment(),
        pass_fds=(memory,),
        # signals to the process group of the terminal or of mpirun are the parent's to answer
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    """Returns a worker's environment variables.

    They are this process's, without the launcher's, with its import path, and with one thread for
    numpy: the workers are the parallelism.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    return {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | kept | {"PYTHONPATH": path}
