"""Shows what an executor costs before its first order and while none comes: mpirun -np 2.

Rank 0 prints one line of JSON: the CPU seconds of rank 1 until its HELLO was here, those of a
Python that imports numpy, rank 1's share of a core in a silence as long as a server's learning, and
its resident bytes. Rank 1 is the program's own executor.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import psutil
from limits import hang_limit_s

from sde_harl.link.mpi import join, launched_ranks
from sde_harl.link.wire import Kind
from sde_harl.run import dismiss, run_executor

SILENCE_S = 3.0


def main() -> int:
    if launched_ranks()[0]:
        return run_executor(sys.argv[1:])
    transport = join()
    messages = transport.wait(hang_limit_s())
    if [message.header.kind for message in messages] != [Kind.HELLO]:
        raise AssertionError(f"{messages} where one HELLO is expected")
    executor = psutil.Process(json.loads(bytes(messages[0].payload))["pid"])
    ready_cpu_s = cpu_s(executor)
    before, began = cpu_s(executor), time.monotonic()
    time.sleep(SILENCE_S)
    share = (cpu_s(executor) - before) / (time.monotonic() - began)
    rss = executor.memory_info().rss
    print(
        json.dumps(
            {
                "ready_cpu_s": ready_cpu_s,
                "numpy_cpu_s": numpy_cpu_s(),
                "waiting_share": share,
                "rss_bytes": rss,
            }
        )
    )
    dismiss(transport, "")
    return 0


def numpy_cpu_s() -> float:
    """Returns the CPU seconds of a Python that imports numpy, which is part of every executor."""
    program = "import numpy, time; print(time.process_time())"
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    return float(told.stdout)


def cpu_s(process: psutil.Process) -> float:
    used = process.cpu_times()
    return float(used.user + used.system)


if __name__ == "__main__":
    sys.exit(main())
