"""Latency of one decision of 8 agents on 9 ranks, against a floor measured in the same run.

`decision/ranks9/batchB/p50` is the time from handing observations of B rows an agent to the
executor pool until the actions are sent. Pool, executors, entropy codec and acting policy are the
program's own, in the shapes of configs/smac.yaml on 3s5z.

The floor moves the same bytes (observations down, coded latents up, actions down) by bare
nonblocking MPI calls on buffers made beforehand. It waits by the same rules and computes the same
nets in between, but it codes, checks and records nothing. Blocks of decisions and of floor rounds
alternate, so that a slow moment of the machine hits both.

Starts itself under mpirun. `--quick` measures little, to see that it works.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from rows import Row, report

from sde_harl.codec.coder import EntropyCoder
from sde_harl.codec.tables import TOTAL, Tables
from sde_harl.draws.counters import Draw, Purpose
from sde_harl.executor.executor import Executor
from sde_harl.link.mpi import join, launched_ranks
from sde_harl.link.mpi_end import MpiEnd
from sde_harl.link.waiting import Waiter
from sde_harl.link.wire import Kind
from sde_harl.meters.timing import now_ns
from sde_harl.policy.inference.acting import ActingPolicy
from sde_harl.policy.inference.local_nets import LocalNets
from sde_harl.policy.shapes import LocalShape, local_parameter_shapes
from sde_harl.protocol.session import SessionSpec
from sde_harl.server.executor_pool import ExecutorPool
from sde_harl.server.settings import PoolSettings

AGENTS = 8
OBS = 205
WIDTH = 64
LATENT = 32
ACTIONS = 13
LOCAL_BLOCKS = 2
SERVER_BLOCKS = 2
SHAPE = LocalShape(
    obs_sizes=(OBS,) * AGENTS,
    obs=OBS,
    width=WIDTH,
    latent=LATENT,
    local_blocks=LOCAL_BLOCKS,
    feature_norm=True,
)
ONE_AGENT = SHAPE._replace(obs_sizes=(OBS,))
AGENT_INDICES = np.arange(AGENTS, dtype=np.int32)
RANKS = AGENTS + 1
BATCHES = (1, 32)
WARM_UP = 1  # blocks
QUANTILES = (50, 95, 99)
SAMPLE = 512  # rows that the latents are measured on
SPREAD = np.linspace(0.2, 1.2, LATENT).astype(np.float32)
"""Standard deviations of the latents, in quantisation steps.

They take 1.5 bits an element, as latents do whose rate is trained."""


class Length(NamedTuple):
    """How much is measured."""

    blocks: int
    rounds: int
    """Decisions, or rounds of the floor, of one block."""


FULL = Length(blocks=40, rounds=50)
QUICK = Length(blocks=3, rounds=10)


@cache
def device_weights(agent: int) -> list[NDArray[np.float32]]:
    """Returns one agent's local net in wire order; its latents have the deviations of SPREAD."""
    generator = np.random.default_rng(agent)
    shapes = [each[1:] for each in local_parameter_shapes(ONE_AGENT)]
    arrays = [generator.normal(0, each[0] ** -0.5, each).astype(np.float32) for each in shapes]
    sample = observations(SAMPLE)[agent : agent + 1]
    # The last block is linear: scaling its weights scales the latents.
    arrays[-2] *= SPREAD / local_nets(arrays)(sample)[0].std(0)
    return arrays


def local_nets(arrays: list[NDArray[np.float32]]) -> LocalNets:
    return LocalNets(ONE_AGENT, np.concatenate([each.ravel() for each in arrays]))


def latents_of(agent: int, rows: int) -> NDArray[np.float32]:
    """Returns the latents (E, Z) of one agent's observations."""
    obs = observations(rows)[agent : agent + 1]
    latents: NDArray[np.float32] = local_nets(device_weights(agent))(obs)[0]
    return latents


@cache
def observations(rows: int) -> NDArray[np.float32]:
    """Returns observations (N, E, O) as the collector hands them over."""
    # A transposed view of the environments' (E, N, O), which is slower to read than an array.
    obs = np.random.default_rng(rows).normal(size=(rows, AGENTS, OBS)).astype(np.float32)
    return obs.swapaxes(0, 1)


@cache
def tables_of(agent: int) -> Tables:
    """Returns tables that fit the agent's latents: Gaussians, cut at five deviations."""
    medians = np.median(latents_of(agent, SAMPLE), axis=0).astype(np.float32)
    reach = np.ceil(5 * SPREAD).astype(np.int32)
    lengths = 2 * reach + 3  # symbols -reach..reach, the escape symbol, the end
    cdf = np.zeros((LATENT, int(lengths.max())), np.int32)
    for row, span, deviation in zip(cdf, reach, SPREAD):
        mass = np.exp(-0.5 * (np.arange(-span, span + 1) / deviation) ** 2)
        spare = TOTAL - (2 * span + 2)  # every symbol has a frequency of 1 at least
        bounds = np.rint(np.cumsum(mass) / mass.sum() * spare).astype(np.int32) + np.arange(
            1, 2 * span + 2
        )
        row[1 : 2 * span + 2] = bounds
        row[2 * span + 2] = TOTAL
    return Tables(
        version=1, cdf=cdf, lengths=lengths.astype(np.int32), offsets=-reach, medians=medians
    )


def acting_policy() -> ActingPolicy:
    generator = np.random.default_rng(1000)
    widths = [LATENT, *[WIDTH] * SERVER_BLOCKS, ACTIONS]
    layers = []
    for size_in, size_out in zip(widths[:-1], widths[1:]):
        weight = generator.normal(0, size_in**-0.5, (AGENTS, size_in, size_out)).astype(np.float32)
        layers.append((weight, np.zeros((AGENTS, 1, size_out), np.float32)))
    head_weight, head_bias = layers[-1]
    return ActingPolicy(
        trunk=layers[:-1], head_weight=head_weight, head_bias=head_bias, branches=(ACTIONS,)
    )


def session() -> SessionSpec:
    return SessionSpec(
        run_id=0,
        agents=tuple(range(AGENTS)),
        shape=SHAPE,
        codec="entropy",
        pack=0,
        frame_bytes=0,
        on_device=None,
        idle_s=0.0,
    )


def settings() -> PoolSettings:
    return PoolSettings(
        rows=max(BATCHES),
        slots=1,
        action_size=1,
        continuous=False,
        assign={},
        failure_timeout_s=60.0,
    )


def draw_at(step: int) -> Draw:
    """Returns the random numbers that actions are sampled with."""
    return Draw(
        seed=0,
        purpose=Purpose.ACTING,
        step=step,
        first_environment=0,
        agents=AGENT_INDICES,
    )


class Server:
    """Rank 0 of the program."""

    def __init__(self, transport: MpiEnd, policy: ActingPolicy) -> None:
        self.pool = ExecutorPool(transport, session(), settings())
        self._policy = policy
        self._step = 0
        self.pool.handshake()
        agents = range(AGENTS)
        weights = [device_weights(agent) for agent in agents]
        self.pool.publish(1, weights, [tables_of(agent) for agent in agents])

    def block(
        self, rounds: int, obs: NDArray[np.float32], available: NDArray[np.bool_]
    ) -> list[int]:
        """Returns the ns of each decision."""
        taken = []
        for _ in range(rounds):
            self._step += 1
            started = now_ns()
            self.pool.sense(0, self._step, obs)
            latents = self.pool.latents(0).values
            draw = draw_at(self._step)
            decision = self._policy.act(latents, available, draw)
            self.pool.act(0, decision.actions, policy_ns=0)
            taken.append(now_ns() - started)
        self.pool.report()
        return taken


class Floor:
    """One rank's end of the floor, for blocks of one batch."""

    def __init__(self, comm: Any, rows: int) -> None:
        from mpi4py import MPI  # after the link has set how MPI is started

        self._comm = comm
        self._test_all = MPI.Request.Testall
        self._waiter = Waiter()
        payloads = [
            len(EntropyCoder(tables_of(agent)).encode(latents_of(agent, rows)))
            for agent in range(AGENTS)
        ]
        self._coded = [bytearray(size) for size in payloads]
        self._obs = [np.ascontiguousarray(each) for each in observations(rows)]
        self._latents = np.zeros((AGENTS, rows, LATENT), np.float32)
        self._available = everything(rows)

    def serve(self, rounds: int, policy: ActingPolicy) -> list[int]:
        """Runs rank 0; returns the ns of each round."""
        comm = self._comm
        taken = []
        for step in range(rounds):
            started = now_ns()
            coming = [comm.Irecv(each, rank) for rank, each in enumerate(self._coded, start=1)]
            going = [comm.Isend(each, rank) for rank, each in enumerate(self._obs, start=1)]
            self._wait(coming)
            actions = policy.act(self._latents, self._available, draw_at(step)).actions
            going += [comm.Isend(each, rank) for rank, each in enumerate(actions, start=1)]
            taken.append(now_ns() - started)
            self._wait(going)
        return taken

    def follow(self, rounds: int, agent: int, nets: LocalNets) -> None:
        """Runs any other rank, which has one agent."""
        comm = self._comm
        obs = self._obs[agent]
        actions = np.empty((len(obs), 1), np.int32)
        for _ in range(rounds):
            # Both receives are posted at once, so that neither message waits for this process.
            receiving_obs = comm.Irecv(obs, 0)
            receiving_actions = comm.Irecv(actions, 0)
            self._wait([receiving_obs])
            nets(obs[None])
            going = comm.Isend(self._coded[agent], 0)
            self._wait([receiving_actions, going])

    def _wait(self, requests: list[Any]) -> None:
        while not self._test_all(requests):
            self._waiter.pause(math.inf)
        self._waiter.reset()


def everything(rows: int) -> NDArray[np.bool_]:
    """Returns (N, E, A) bool: every action is available."""
    return np.ones((AGENTS, rows, ACTIONS), bool)


def lead(transport: MpiEnd, comm: Any, length: Length) -> list[Row]:
    """Runs rank 0: all blocks of both kinds; returns the quantiles."""
    policy = acting_policy()
    server = Server(transport, policy)
    rows = []
    for batch in BATCHES:
        floor = Floor(comm, batch)
        taken = np.empty((2, length.blocks + WARM_UP, length.rounds))
        for block in range(length.blocks + WARM_UP):
            taken[0, block] = server.block(length.rounds, observations(batch), everything(batch))
            taken[1, block] = floor.serve(length.rounds, policy)
        ours, bare = (np.percentile(each, QUANTILES) / 1e3 for each in taken[:, WARM_UP:])
        rows += [
            Row(
                f"decision/ranks{RANKS}/batch{batch}/p{quantile}", value, "us", least, value / least
            )
            for quantile, value, least in zip(QUANTILES, ours.tolist(), bare.tolist())
        ]
    return rows


def follow(transport: MpiEnd, comm: Any, length: Length) -> None:
    """Runs the other ranks: an executor in the server's blocks, then the floor's."""
    executor = Executor(transport)
    agent = transport.rank - 1
    nets = local_nets(device_weights(agent))
    for batch in BATCHES:
        floor = Floor(comm, batch)
        for _ in range(length.blocks + WARM_UP):
            # A block of the server's ends with its request for a report.
            kind = None
            while kind != Kind.METER:
                for message in transport.wait(1.0):
                    kind = message.header.kind
                    executor.handle(message)
            floor.follow(length.rounds, agent, nets)


def let_ranks_import_benchmarks() -> None:
    """Puts this folder and the checkout where ranks look for the environments of benchmarks."""
    here = Path(__file__).resolve().parent
    paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)


def mpirun(ranks: int, words: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Runs `python words...` on so many ranks of this machine."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    launcher = shutil.which("mpirun", path=path)
    if launcher is None:
        sys.exit("no mpirun on the path")
    # Open MPI refuses to run as root, and more ranks than cores, unless these variables allow it.
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    env = {**os.environ, **root, "PRTE_MCA_rmaps_default_mapping_policy": ":OVERSUBSCRIBE"}
    command = [launcher, "-np", str(ranks), sys.executable, *words]
    return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, check=False)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", metavar="OUT")
    quick = parser.parse_args(argv).quick  # before mpirun, so that --help starts no ranks
    size = launched_ranks()[1]
    if size == 1:
        return mpirun(RANKS, [str(Path(__file__).resolve()), *argv]).returncode
    if size != RANKS:
        sys.exit(f"benchmarks/decision.py: {size} ranks were started, {RANKS} are measured")
    length = FULL
    if quick:
        length = QUICK
    transport = join()
    from mpi4py import MPI

    comm = MPI.COMM_WORLD.Dup()
    if transport.rank:
        follow(transport, comm, length)
    else:
        report(lead(transport, comm, length), argv)
    transport.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
