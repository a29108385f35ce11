"""The program: `sde-harl run EXPERIMENT [key=value ...]`, alone or under mpirun.

`python -m sde_harl.run ...` is the same. Each process runs the role of its rank: rank 0 is the
server and the learner, every other rank is an executor. An executor reads no file, because rank 0
sends it what it needs. From its own command line it takes only its sensor (executor/sensors.py).
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Until the run takes its signals, Ctrl-C ends it without a word. Python's own handler would
    # print a traceback out of the middle of an import.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import contextlib
import ctypes
import functools
import logging
import os
import shlex
import socket
import sys
import traceback
from typing import TYPE_CHECKING

# The acting nets are small and the environments keep the cores busy, so a BLAS thread for each
# core would only get in their way. BLAS reads this once, when numpy is first imported: below.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Torch's threads wait for one another at each operation, and spin a millisecond before they sleep.
# Where other processes want their cores, an update took a hundred times as long. OpenMP reads this
# when torch is first imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from sde_harl.config.entry_points import function
from sde_harl.errors import ExitCode, UserError
from sde_harl.executor.in_process import loopback
from sde_harl.link import mpi
from sde_harl.link.transport import Transport
from sde_harl.outside.process import guarded_streams, ignore_stops, interruption

if TYPE_CHECKING:
    from pathlib import Path

    from sde_harl.config.schema import Config
    from sde_harl.executor.handlers.base import Handler
    from sde_harl.link.mpi_end import MpiEnd
    from sde_harl.link.wire import Message
    from sde_harl.protocol.session import SessionSpec
    from sde_harl.training.trainer import Trainer

# glibc's mallopt, from malloc.h. 32 MiB is the largest mmap threshold that it accepts.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
TRIM_BYTES = 1 << 30
MMAP_BYTES = 32 << 20


def main(argv: list[str]) -> int:
    """Runs this process's role in the job and returns its exit code (errors.ExitCode)."""
    with guarded_streams():
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
        keep_freed_memory()
        try:
            rank, ranks = mpi.launched_ranks()
            if rank:
                return run_executor(argv)
        except UserError as error:
            # The launcher has made no world of ranks. One of them says so.
            if os.environ.get("SLURM_PROCID", "0") == "0":
                print(f"error: {error}", file=sys.stderr)
            return ExitCode.USER_ERROR
        return run_server(argv, ranks)


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory. By default it returns frames and tensors to the kernel.

    The next allocation of that size would then fault in every page again.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # musl has none
        libc.mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)


def run_server(argv: list[str], ranks: int) -> int:
    """Runs rank 0 of `ranks` to its end, dismisses the executors and returns the exit code."""
    interruption.watch(functools.partial(end_before_the_run, None))
    transport: MpiEnd | None = None
    reason = ""
    code = ExitCode.DEFECT
    try:
        if ranks > 1:
            transport = mpi.join()
            interruption.watch(functools.partial(end_before_the_run, transport))
        code = lead(argv, transport)
    except UserError as error:
        reason = str(error)
        code = ExitCode.USER_ERROR
        print(f"error: {reason}", file=sys.stderr)
    except KeyboardInterrupt:
        # What was saved, and where, has been said by the trainer.
        code = ExitCode.INTERRUPTED
        print("interrupted", file=sys.stderr)
    except BaseException as error:
        reason = f"rank 0 failed: {type(error).__name__}: {error}"
        if transport and transport.absent:
            # `dismiss` ends the job at once then, before Python gets to print the traceback.
            traceback.print_exc()
        raise
    finally:
        # mpirun signals all ranks when an executor exits with an error. We are ending anyway.
        ignore_stops()
        if transport:
            dismiss(transport, reason, code)
    return code


def end_before_the_run(transport: Transport | None) -> None:
    """Ends this process and its executors on a signal, while there is nothing to save yet."""
    with contextlib.suppress(OSError):  # a closed terminal
        # Past Python's streams: the signal may have come while one of them was in use.
        os.write(2, b"interrupted before the run began: there was nothing to save\n")
    ignore_stops()
    if transport:
        dismiss(transport, "interrupted", ExitCode.INTERRUPTED)
    # Not an exception, which would have to pass through half-made libraries. The environments'
    # worker processes end with this one.
    os._exit(ExitCode.INTERRUPTED)


def lead(argv: list[str], transport: MpiEnd | None) -> ExitCode:
    """Reads the command line and trains. `transport` is None where all is in this one process.

    Raises UserError for everything that the user can correct.
    """
    # Imported here, because executors import this module too and must stay small.
    from sde_harl.config.arguments import parse

    request = parse(argv)
    if request.text:
        print(request.text)
    if request.config is None:
        return ExitCode.DONE
    learners = share_ranks(request.config, transport)
    if not transport and request.config.placement.mode == "envs":
        raise UserError(
            "placement.mode: envs needs executors, which mpirun starts; use mode local for the same"
            " numbers in one process"
        )
    find_code(request.config, is_one_process=transport is None)
    # Busy cores can take minutes for the imports and for compiling a game.
    print(f"loading the libraries and {request.config.env.name}", file=sys.stderr)
    from sde_harl.training.build import build
    from sde_harl.training.trainer import Trainer

    if transport and transport.executors:
        link: Transport = transport
    else:
        link = loopback(request.config.executor.sensor)
    folder = ""
    try:
        from sde_harl.training.learners import Learners

        others = Learners(request.config, transport) if transport and learners else None
        trainer = Trainer(build(request.config, link, others))
        folder = str(trainer.logger.folder)
        trainer.run()
    except KeyboardInterrupt:
        if folder:
            typed = shlex.quote(folder)
            print(f"next: sde-harl run --resume {typed} goes on from there", file=sys.stderr)
        raise
    finally:
        if link is not transport:
            dismiss(link, "")
    return tell_the_end(trainer)


def share_ranks(config: Config, transport: MpiEnd | None) -> int:
    """Divides the ranks of the job into executors and learners; returns how many learn beside rank
    0.

    Raises UserError where they are too few or too many.
    """
    ranks = transport.size if transport else 1
    learners = config.learner.ranks
    mode = config.placement.mode
    if mode == "local" and learners == 1 < ranks:
        raise UserError(
            f"placement.mode: local is one process, mpirun started {ranks}; use mode agents"
        )
    if mode == "local" and learners != ranks:
        raise UserError(
            f"learner.ranks: expected {ranks}, the ranks of this job (placement.mode = local),"
            f" got {learners}"
        )
    if mode != "local" and learners > max(1, ranks - 1):
        raise UserError(
            f"learner.ranks: expected {max(1, ranks - 1)} or less of -np {ranks}"
            f" (placement.mode = {mode} needs an executor), got {learners}"
        )
    if transport:
        transport.reserve(learners - 1)
    return learners - 1


def tell_the_end(trainer: Trainer) -> ExitCode:
    """Says how a run has ended, where everything is and what to type next.

    Returns the exit code.
    """
    folder = trainer.logger.folder
    code = ExitCode.DONE
    lines = ["done"]
    if trainer.incomplete:
        code = ExitCode.NOT_RECORDED
        lines = [f"done, but not all of it is recorded: {trainer.incomplete}"]
    elif trainer.pool.absent:
        code = ExitCode.EXECUTORS_ABSENT
        ranks = ", ".join(map(str, trainer.pool.absent))
        lines = [f"done, but without executors {ranks}: no answer"]
    if code != ExitCode.NOT_RECORDED:
        lines += used_of_a_job(folder / "run.h5")
    # The folder again: its line has scrolled away, and the next commands need it.
    lines.append(f"everything is in {folder}: run.h5, metrics.csv, models/last.pt, config.yaml")
    typed = shlex.quote(str(folder))
    lines.append(f"next: sde-harl report {typed}, or sde-harl play {typed}")
    for line in lines:
        print(line, file=sys.stderr)
    return code


def used_of_a_job(file: Path) -> list[str]:
    """Returns how much of what Slurm has given this job the run used; [] outside of Slurm."""
    from sde_harl.analysis.efficiency import efficiency
    from sde_harl.record.reader import open_run
    from sde_harl.slurm.allocation import allocation

    given = allocation()
    if given is None:
        return []
    run = open_run(file)
    return efficiency(run, cores=given.cores, memory_bytes=given.memory_bytes)


def find_code(config: Config, *, is_one_process: bool) -> None:
    """Looks for the functions that this process will call. Raises UserError for a missing one.

    It comes before the imports that take ten seconds and more. Under mpirun a sensor is looked for
    by its own executor, for it need not be on this host.
    """
    from sde_harl.config.named_code import named_code
    from sde_harl.executor.sensors import KEY

    for key, spelt in named_code(config).items():
        if is_one_process or key != KEY:
            function(key, spelt)


def run_executor(argv: list[str]) -> int:
    """Runs one of ranks 1 to N and returns its exit code. Of `argv` only the sensor is used."""
    from sde_harl.executor.sensors import sensor_on_command_line
    from sde_harl.executor.serving import serve

    # The server ends the executors, after it has saved what it needs of them.
    ignore_stops()
    transport = mpi.join()
    name = f"executor {transport.rank} ({socket.gethostname()})"
    code = ExitCode.DONE
    try:
        farewell = serve(
            transport,
            sensor_on_command_line(argv),
            make_player=functools.partial(play_environments, argv),
            make_learner=functools.partial(learn, argv),
        )
        if farewell.reason:
            code = ExitCode.USER_ERROR  # rank 0 has printed it
    except UserError as error:
        # Rank 0 can't print this one: it is what this executor misses.
        code = ExitCode.USER_ERROR
        print(f"error: {name}: {error}", file=sys.stderr)
    except Exception as error:
        traceback.print_exc()
        print(f"error: {name}: {error!r}", file=sys.stderr)
        # The link is broken. To return would leave rank 0 waiting for an answer that can't come.
        transport.abort(ExitCode.DEFECT)
    transport.close(code)
    return code


def play_environments(argv: list[str], transport: Transport, session: SessionSpec) -> Handler:
    """Returns the handler of an executor that plays environments of its own."""
    # Imported here, because other executors have neither environments nor pydantic.
    from sde_harl.training.shard_player import make_player

    return make_player(argv, transport, session)


def learn(argv: list[str], transport: Transport, message: Message) -> Handler:
    """Returns the handler of a rank that learns with rank 0."""
    # Imported here, because executors have neither torch nor pydantic.
    from sde_harl.training.learner_rank import make_learner

    return make_learner(argv, transport, message)


def dismiss(transport: Transport, reason: str, code: int = ExitCode.DONE) -> None:
    """Tells every executor to end and why, then leaves MPI.

    Where executors are absent, MPI would wait for them: then the job is ended with `code` at once.
    """
    from sde_harl.link.wire import Header, Kind

    transport.absent -= transport.parted
    for rank in {*range(1, transport.size)} - transport.absent:
        header = Header(kind=Kind.BYE, step=len(transport.absent))
        transport.send(rank, header, reason.encode()[:4096])
    transport.flush(2.0)
    transport.close(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
