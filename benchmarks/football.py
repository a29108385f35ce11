"""Measures training on football beside gfootball's own environment, in as many processes.

* `football/MAP/run` is training by HAPPO in one process with worker processes beside it, by the
  run's own record: deciding, learning and recording are included. Below it are its stages' shares.
* `football/MAP/processor` is the same for each second of a processor's time, all processes
  together. It tells what a step costs on a machine that others use too.

Their floor is gfootball's environment, stepped at random by as many processes as there are workers,
before and after the run. Resets are included everywhere.

    python benchmarks/football.py [--quick] [--json OUT.json] [env.map=... env.workers=... KEY=...]
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
import warnings
from typing import Any, NamedTuple

import numpy as np
from rows import Row, report
from train import QUICK, ROOT, SILENT, Trained, options_of, rows_of, train

from sde_harl.config.arguments import parse
from sde_harl.config.schema import Config
from sde_harl.envs.registry import spec_of

SECONDS = 15.0
QUICK_SECONDS = 0.1
ROLLOUT = 50
LENGTHS = (2, 8)
"""Updates of a short and of a long run, whose difference has no start-up in it."""
QUICK_WORDS = [*QUICK, "train.envs=2", "env.workers=1"]
QUICK_LENGTHS = (3, 4)


class Speed(NamedTuple):
    """Steps for each second."""

    by_clock: float
    by_processor: float
    """For each second of a processor's time."""


class Share(NamedTuple):
    """What one process steps."""

    config: Config
    agents: int
    games: int
    number: int
    """The process's, which its random actions follow from."""


def step_theirs(share: Share, seconds: float, ready: Any, rates: Any) -> None:
    """Steps some of gfootball's environments in turn; puts their `Speed` into `rates`."""
    warnings.simplefilter("ignore")
    import gfootball.env as gfootball

    env = share.config.env
    games = [
        gfootball.create_environment(
            env_name=env.map,
            representation=env.representation,
            stacked=env.stacked,
            rewards=env.rewards,
            number_of_left_players_agent_controls=share.agents,
        )
        for _ in range(share.games)
    ]
    for game in games:
        game.reset()
    rng = np.random.default_rng(share.number)
    steps = 0
    ready.wait()
    used = time.process_time()
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        for game in games:
            _, _, ended, _ = game.step(rng.integers(0, 19, share.agents).tolist())
            if ended:
                game.reset()
        steps += len(games)
    rates.put(
        Speed(
            by_clock=steps / (time.perf_counter() - started),
            by_processor=steps / (time.process_time() - used),
        )
    )


def theirs(config: Config, agents: int, seconds: float) -> Speed:
    """Returns the speed of gfootball's own environments, all processes together."""
    context = multiprocessing.get_context("spawn")
    count = config.env.workers * config.train.slots
    ready = context.Barrier(count)
    rates = context.Queue()
    games = config.train.envs // count
    processes = [
        context.Process(
            target=step_theirs,
            args=(Share(config, agents, games, number), seconds, ready, rates),
        )
        for number in range(count)
    ]
    for process in processes:
        process.start()
    speeds = [rates.get() for _ in processes]
    for process in processes:
        process.join()
    return Speed(
        by_clock=sum(each.by_clock for each in speeds),
        by_processor=float(np.mean([each.by_processor for each in speeds])),
    )


def ours(words: list[str], config: Config, lengths: tuple[int, int]) -> tuple[Trained, float]:
    """Trains a short and a long run; returns the long one, and its steps by processor."""
    each = config.train.envs * config.train.rollout
    used = []
    for updates in lengths:
        before = _processor_s()
        trained = train(1, [*words, f"train.steps={updates * each}"])
        used.append(_processor_s() - before)
    short, long = lengths
    return trained, (long - short) * each / (used[1] - used[0])


def _processor_s() -> float:
    """Returns the processor's time that all ended children of this process have taken."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(argv: list[str]) -> None:
    options, keys = options_of(argv)
    seconds = SECONDS
    lengths = LENGTHS
    words = [str(ROOT / "configs" / "football.yaml"), *SILENT, f"train.rollout={ROLLOUT}"]
    if options.quick:
        seconds = QUICK_SECONDS
        lengths = QUICK_LENGTHS
        words += QUICK_WORDS
    words += keys
    config = parse([*words, "placement.mode=local"]).config
    assert config is not None  # no word asks for a text alone
    agents = len(spec_of(config.env).agents)
    before = theirs(config, agents, seconds)
    trained, by_processor = ours(words, config, lengths)
    after = theirs(config, agents, seconds)
    prefix = f"football/{config.env.map}"
    floor = (before.by_processor + after.by_processor) / 2
    processor = Row(
        name=f"{prefix}/processor",
        value=by_processor,
        unit="steps/s",
        floor=floor,
        ratio=by_processor / floor,
    )
    by_clock = (before.by_clock + after.by_clock) / 2
    report([processor, *rows_of(f"{prefix}/run", trained, by_clock)], argv)


if __name__ == "__main__":
    main(sys.argv[1:])
