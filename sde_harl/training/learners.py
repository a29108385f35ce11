"""The other learners of a run, as rank 0 has them take part in its updates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from sde_harl.auxiliary.peers import Team
from sde_harl.buffers.rollout import Rollout
from sde_harl.config.layers import digest
from sde_harl.config.schema import Config
from sde_harl.envs.base import EnvSpec
from sde_harl.envs.specs import to_json
from sde_harl.errors import UserError
from sde_harl.link.mpi_end import MpiEnd
from sde_harl.link.mpi_team import MpiTeam
from sde_harl.link.transport import Transport
from sde_harl.meters.cores import own_seat, threads_line, threads_of_each
from sde_harl.roles.clusters import Groups
from sde_harl.server.executor_pool import ExecutorPool
from sde_harl.server.learner_ranks import LearnerRanks
from sde_harl.training.learned import Learned
from sde_harl.training.shared_update import UpdateHead, share_update


class Learners:
    """Two learners or more, of which rank 0 is the first."""

    _team: MpiTeam

    def __init__(self, config: Config, transport: MpiEnd) -> None:
        """`transport` leads to the learners, behind the executors if there are any."""
        self._config = config
        self._transport = transport
        self._ranks = LearnerRanks(transport, config.link.failure_timeout_s)
        self.peers = Team(rank=0, size=config.learner.ranks)

    def share_link(self, link: Transport, pool: ExecutorPool) -> None:
        """Has messages find their readers where executors use the same link."""
        if link is self._transport:
            self._ranks.others = pool.hear(self._ranks.receive)

    def call(self) -> None:
        """Tells the learners to get ready, which they do while rank 0 goes on."""
        self._ranks.call(digest(self._config))

    def start(self, learned: Learned, spec: EnvSpec, groups: Groups) -> str:
        """Waits for all learners, and has them make the same nets; returns a line about them.

        Raises UserError where one can't.
        """
        ranks = self._ranks
        ranks.await_ready()
        ranks.ask()
        self._learned = learned
        self._team = self._transport.team(ranks, ranks.starting_s)
        seats = [own_seat(), *ranks.seats()]
        threads = threads_of_each(seats)
        if self._config.train.threads:
            threads = [self._config.train.threads] * len(seats)
        torch.set_num_threads(threads[0])
        about = {"spec": json.loads(to_json(spec)), "groups": groups, "threads": threads}
        self._team.share_bytes(json.dumps(about).encode())
        # Done when all of them have made theirs.
        self._team.sum(np.zeros(1, np.float32))
        self._team.timeout_s = ranks.failure_timeout_s
        self.peers.connect(self._team)
        return threads_line(seats, threads)

    @contextmanager
    def update(self, rollout: Rollout, progress: float) -> Iterator[None]:
        """Has the learners take part in the update that is made inside."""
        head = UpdateHead(
            progress=progress,
            rate_coef=self._learned.algorithm.rate_coef,
            has_latents=bool(rollout.stale.any()),
        )
        self._ranks.ask(head.to_bytes())
        try:
            share_update(self._team, self._learned, rollout, has_latents=head.has_latents)
            yield
        except (UserError, KeyboardInterrupt):
            # What is wrong with sums is wrong on all learners, and so is an interruption.
            raise
        except BaseException:
            self._ranks.fail("rank 0 has left an update")
            raise
