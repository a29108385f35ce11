"""The program: `python -m sde_harl.run CONFIG [key=value ...]`, alone or under mpirun. Runs this rank's role.

Rank 0 is the learner; every other rank is an executor, which reads no file: rank 0 tells it what to be. Only which
module drives its own sensors it takes from its command line (sensing.py). Exit codes:
0 done; 2 something the user can mend (one line on rank 0); 3 done, but without executors that were absent at the end;
130 stopped by Ctrl-C, SIGTERM or SIGUSR1 with everything saved; 1 a defect.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import traceback
from types import FrameType

# The acting nets are small and the cores are busy with environments: numpy's BLAS must not start a thread per core.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from sde_harl.errors import UserError
from sde_harl.link import mpi
from sde_harl.link.loopback import Loopback
from sde_harl.link.transport import Transport

MENDABLE, BEREFT, INTERRUPTED, DEFECT = 2, 3, 130, 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Save and end. mpirun turns Ctrl-C into SIGTERM and kills soon after; SIGUSR1 it passes on and leaves us our time."""


def main(argv: list[str]) -> int:
    """Run this process's part of the job; returns its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    keep_memory()
    rank, size = mpi.launched_ranks()
    if rank:
        return run_executor(argv)
    for number in STOPS:
        signal.signal(number, _interrupt)
    transport: Transport | None = None
    reason, code = "", DEFECT
    try:
        transport = mpi.join() if size > 1 else None
        code = lead(argv, transport)
    except UserError as error:
        reason, code = str(error), MENDABLE
        print(f"error: {reason}", file=sys.stderr)
    except KeyboardInterrupt:
        code = INTERRUPTED
        print("interrupted: everything so far is saved", file=sys.stderr)
    except BaseException as error:
        reason = f"rank 0 failed: {type(error).__name__}: {error}"
        if transport and transport.absent:
            traceback.print_exc()  # the job is about to be ended from under us
        raise
    finally:
        for number in STOPS:
            signal.signal(
                number, signal.SIG_IGN
            )  # an executor's exit code makes mpirun end us, who are ending anyway
        if transport:
            dismiss(transport, reason, code)
    return code


def keep_memory() -> None:
    """Asks glibc to keep what is freed: by default frames and tensors go back to the kernel and are faulted in anew."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the largest that glibc takes


def lead(argv: list[str], transport: Transport | None) -> int:
    """Rank 0: read the command line, then train; the exit code. Raises UserError for whatever the user can mend."""
    from sde_harl.config.arguments import parse

    request = parse(argv)
    if request.text:
        print(request.text)
    if request.config is None:
        return 0
    if transport and request.config.placement.mode == "local":
        raise UserError(
            f"placement.mode: local is one process, mpirun started {transport.size}; use mode agents"
        )
    from sde_harl.training.build import build
    from sde_harl.training.trainer import Trainer

    link = transport or loopback(request.config.executor.sensor)
    try:
        learner = Trainer(build(request.config, link))
        learner.run()
    finally:
        if not transport:
            dismiss(link, "")
    absent = learner.pool.absent
    if absent:
        print(
            f"done, but without executors {', '.join(map(str, absent))}: no answer", file=sys.stderr
        )
    return BEREFT if absent else 0


def loopback(sensor: str = "none") -> Transport:
    """One executor inside this process, holding all agents, behind the same frames; `sensor` as of `Executor`."""
    from sde_harl.executor.executor import Executor

    server, far = Loopback.pair()
    executor = Executor(far, sensor)

    def step() -> None:
        for message in far.poll():
            executor.handle(message)

    server.attach(step)
    return server


def run_executor(argv: list[str]) -> int:
    """Ranks 1..N. Of their command line the sensor alone counts; to stop is the server's business: it saves first."""
    from sde_harl.executor.executor import serve
    from sde_harl.executor.sensors import named

    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    transport = mpi.join()
    code = 0
    try:
        serve(transport, named(argv))
    except UserError:
        code = MENDABLE  # rank 0 has printed the reason
    except Exception as error:
        traceback.print_exc()
        print(
            f"error: executor {transport.rank} on {socket.gethostname()}: {error!r}",
            file=sys.stderr,
        )
        transport.abort(DEFECT)  # rank 0 would wait for an answer that can't come
    transport.close()
    return code


def dismiss(transport: Transport, reason: str, code: int = 0) -> None:
    """Send every executor home, then leave MPI; where some are absent, end the job with `code`."""
    from sde_harl.link.wire import Kind

    transport.absent -= transport.parted
    for rank in {*range(1, transport.size)} - transport.absent:
        transport.send(rank, Kind.BYE, reason.encode()[:4096], step=len(transport.absent))
    transport.flush(2.0)
    transport.close(code)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
