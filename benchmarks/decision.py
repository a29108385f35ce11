"""Latency of one decision of 8 agents on 9 ranks of this machine, against a floor measured in the same run.

`decision/ranks9/batchB/p50`: from handing observations of B rows an agent to the fleet until the actions are sent;
real fleet, executors, entropy codec and acting policy, in the shapes of configs/smac.yaml on 3s5z. The floor moves the
same bytes (observations down, coded latents up, actions down) by bare nonblocking MPI calls on buffers made beforehand,
waits by the same waiting policy, and computes the same nets in between; it codes, heads, checks and notes nothing.
Blocks of decisions and of floor rounds alternate, so that a slow moment of the machine hits both.

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

AGENTS, OBS, WIDTH, LATENT, ACTIONS = 8, 205, 64, 32, 13
LOCAL_BLOCKS, SERVER_BLOCKS = 2, 2
SHAPE = LocalShape((OBS,) * AGENTS, OBS, WIDTH, LATENT, LOCAL_BLOCKS, True)
ALONE = SHAPE._replace(obs_sizes=(OBS,))
RANKS = AGENTS + 1
BATCHES = (1, 32)
WARM_UP = 1  # blocks
QUANTILES = (50, 95, 99)
SAMPLE = 512  # rows that the latents are measured on
SPREAD = np.linspace(0.2, 1.2, LATENT).astype(np.float32)
"""Standard deviations of the latents, in quantisation steps: 1.5 bits an element, as with a trained rate."""


class Length(NamedTuple):
    blocks: int
    rounds: int
    """Of one block."""


FULL, QUICK = Length(40, 50), Length(3, 10)


@cache
def device_weights(agent: int) -> list[np.ndarray]:
    """One agent's local net in wire order; its latents have the deviations of SPREAD."""
    generator = np.random.default_rng(agent)
    shapes = [each[1:] for each in local_parameter_shapes(ALONE)]
    arrays = [generator.normal(0, each[0] ** -0.5, each).astype(np.float32) for each in shapes]
    arrays[-2] *= SPREAD / local_nets(arrays)(observations(SAMPLE)[agent : agent + 1])[0].std(0)
    return arrays


def local_nets(arrays: list[np.ndarray]) -> LocalNets:
    return LocalNets(ALONE, np.concatenate([each.ravel() for each in arrays]))


def latents_of(agent: int, rows: int) -> np.ndarray:
    """(E, Z) of one agent's observations."""
    latents: np.ndarray = local_nets(device_weights(agent))(observations(rows)[agent : agent + 1])[
        0
    ]
    return latents


@cache
def observations(rows: int) -> np.ndarray:
    """(N, E, O) as the collector hands them over: the environments' (E, N, O), seen the other way round."""
    obs = np.random.default_rng(rows).normal(size=(rows, AGENTS, OBS)).astype(np.float32)
    return obs.swapaxes(0, 1)


@cache
def tables_of(agent: int) -> Tables:
    """Integer tables that fit the agent's latents: Gaussians, cut where less than a millionth is left."""
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
        version=1,
        cdf=cdf,
        lengths=lengths.astype(np.int32),
        offsets=-reach,
        medians=medians,
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


class Server:
    """Rank 0 of the real thing."""

    def __init__(self, transport: MpiEnd, policy: ActingPolicy) -> None:
        self.pool = ExecutorPool(transport, session(), settings())
        self._policy = policy
        self._agents = np.arange(AGENTS, dtype=np.int32)
        self._step = 0
        self.pool.handshake()
        agents = range(AGENTS)
        self.pool.publish(
            1, [device_weights(agent) for agent in agents], [tables_of(agent) for agent in agents]
        )

    def block(self, rounds: int, obs: np.ndarray, available: np.ndarray) -> list[int]:
        """ns of each decision."""
        taken = []
        for _ in range(rounds):
            self._step += 1
            started = now_ns()
            self.pool.sense(0, self._step, obs)
            latents = self.pool.latents(0).values
            draw = Draw(0, Purpose.ACTING, self._step, 0, self._agents)
            decision = self._policy.act(latents, available, draw)
            self.pool.act(0, decision.actions, policy_ns=0)
            taken.append(now_ns() - started)
        self.pool.report()
        return taken


class Floor:
    """One rank's end of the floor, for blocks of one batch."""

    def __init__(self, comm: Any, rows: int) -> None:
        from mpi4py import MPI  # only now: the transport says how MPI is started

        self._comm, self._test_all = comm, MPI.Request.Testall
        self._waiter = Waiter()
        payloads = [
            len(EntropyCoder(tables_of(agent)).encode(latents_of(agent, rows)))
            for agent in range(AGENTS)
        ]
        self._features = [bytearray(size) for size in payloads]
        self._sensors = [np.ascontiguousarray(each) for each in observations(rows)]
        self._latents = np.zeros((AGENTS, rows, LATENT), np.float32)
        self._available = everything(rows)

    def serve(self, rounds: int, policy: ActingPolicy) -> list[int]:
        """Rank 0: ns of each round."""
        comm, generator, taken = self._comm, np.random.default_rng(0), []
        for _ in range(rounds):
            started = now_ns()
            coming = [comm.Irecv(each, rank) for rank, each in enumerate(self._features, start=1)]
            going = [comm.Isend(each, rank) for rank, each in enumerate(self._sensors, start=1)]
            self._wait(coming)
            actions = policy.act(self._latents, self._available, generator).actions
            going += [comm.Isend(each, rank) for rank, each in enumerate(actions, start=1)]
            taken.append(now_ns() - started)
            self._wait(going)
        return taken

    def follow(self, rounds: int, agent: int, nets: LocalNets) -> None:
        """Any other rank."""
        comm, feature, sensor = self._comm, self._features[agent], self._sensors[agent]
        actions = np.empty((len(sensor), 1), np.int32)
        for _ in range(rounds):
            sensed, told = comm.Irecv(sensor, 0), comm.Irecv(actions, 0)
            self._wait([sensed])
            nets(sensor[None])
            going = comm.Isend(feature, 0)
            self._wait([told, going])

    def _wait(self, requests: list[Any]) -> None:
        while not self._test_all(requests):
            self._waiter.pause(math.inf)
        self._waiter.reset()


def everything(rows: int) -> np.ndarray:
    """(N, E, A): every action is available."""
    return np.ones((AGENTS, rows, ACTIONS), bool)


def lead(transport: MpiEnd, comm: Any, length: Length) -> list[Row]:
    """Rank 0: all blocks of both kinds, and what they tell."""
    policy = acting_policy()
    server, rows = Server(transport, policy), []
    for batch in BATCHES:
        floor, taken = Floor(comm, batch), np.empty((2, length.blocks + WARM_UP, length.rounds))
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
    """The other ranks: executor in the server's blocks, which end with its request to report; then the floor's."""
    executor, agent = Executor(transport), transport.rank - 1
    nets = local_nets(device_weights(agent))
    for batch in BATCHES:
        floor = Floor(comm, batch)
        for _ in range(length.blocks + WARM_UP):
            kind = None
            while kind != Kind.METER:
                for message in transport.wait(1.0):
                    kind = message.header.kind
                    executor.handle(message)
            floor.follow(length.rounds, agent, nets)


def mpirun(ranks: int, words: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Run `python words...` on so many ranks of this machine, as root too and with fewer cores than ranks."""
    launcher = shutil.which(
        "mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    if launcher is None:
        sys.exit("no mpirun on the path")
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
    length = QUICK if quick else FULL
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
