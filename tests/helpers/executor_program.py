"""Started by test_executor.py under mpirun -np 2: what an executor costs before its first order and while none comes.

Rank 0 prints one line of JSON: CPU seconds of rank 1 until its HELLO was here, wall seconds likewise, its share of a
core in a silence as long as a server's learning, and its resident bytes. Rank 1 is the program's own executor.
"""

from __future__ import annotations

import json
import sys
import time

import psutil

from sde_harl.link.mpi import join, launched_ranks
from sde_harl.link.wire import Kind
from sde_harl.run import dismiss, run_executor

SILENCE_S = 3.0


def main() -> int:
    if launched_ranks()[0]:
        return run_executor(sys.argv[1:])
    transport = join()
    messages = transport.wait(30.0)
    if [message.header.kind for message in messages] != [Kind.HELLO]:
        raise AssertionError(f"{messages} where one HELLO is expected")
    executor = psutil.Process(json.loads(bytes(messages[0].payload))["pid"])
    ready_cpu_s, ready_s = cpu_s(executor), time.time() - executor.create_time()
    before, began = cpu_s(executor), time.monotonic()
    time.sleep(SILENCE_S)
    share = (cpu_s(executor) - before) / (time.monotonic() - began)
    rss = executor.memory_info().rss
    print(
        json.dumps(
            {
                "ready_cpu_s": ready_cpu_s,
                "ready_s": ready_s,
                "waiting_share": share,
                "rss_bytes": rss,
            }
        )
    )
    dismiss(transport, "")
    return 0


def cpu_s(process: psutil.Process) -> float:
    used = process.cpu_times()
    return float(used.user + used.system)


if __name__ == "__main__":
    sys.exit(main())
