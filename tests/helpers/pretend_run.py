"""Stands for mpirun and the run behind it, in tests of sweeps.

It writes a record of what the run's words ask for. `policy.width=13` fails, `policy.width=17`
writes a record that ends too early, `policy.width=19` goes on until SIGUSR1, and 29 and 31 go on
until both have started. Each start adds a line to the file that $STARTS names.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from filled import add_evaluation

from sde_harl.config.arguments import parse
from sde_harl.config.layers import to_yaml
from sde_harl.record.folder import make_run_folder
from sde_harl.record.writer import RunFile


def main(words: list[str]) -> int:
    config = parse(words[words.index("sde_harl.run") + 1 :]).config
    assert config is not None
    with Path(os.environ["STARTS"]).open("a") as starts:
        starts.write(f"{config.policy.width}\n")
    print("a line of the run", flush=True)
    if config.policy.width == 13:
        print("error: an unlucky width")
        return 2
    if config.policy.width == 19:
        wait_for_signal()
        return 130
    if config.policy.width in (29, 31):
        while not {"29", "31"} <= {*Path(os.environ["STARTS"]).read_text().split()}:
            time.sleep(0.02)
    folder = make_run_folder(
        Path(config.record.dir),
        env="smax",
        task="3m",
        algo=config.algo.name,
        exp=config.record.exp,
        seed=config.seed,
    )
    (folder / "config.yaml").write_text(to_yaml(config))
    file = RunFile(folder / "run.h5", {}, "stop")
    step = config.train.steps // (2 if config.policy.width == 17 else 1)
    add_evaluation(file, step, return_mean=float(config.policy.width))
    file.close()
    return 0


def wait_for_signal() -> None:
    told: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: told.append(number))
    print("waiting", flush=True)
    while not told:
        time.sleep(0.02)
    Path(f"{os.environ['STARTS']}.saved").touch()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
