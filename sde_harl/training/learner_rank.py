"""A rank that learns with rank 0: its side of the wire.

LEARN -> the configuration is read, <- LEARN -> LEARN -> nets are made
-> LEARN, state and rollout -> the same update as at rank 0, on this rank's share of the rows
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sde_harl.algorithms.registry import ALGORITHMS
from sde_harl.auxiliary.peers import Team
from sde_harl.buffers.rollout import Rollout
from sde_harl.config.arguments import parse
from sde_harl.config.layers import digest
from sde_harl.config.schema import Config
from sde_harl.envs import specs
from sde_harl.envs.base import EnvSpec
from sde_harl.errors import ExitCode, UserError
from sde_harl.executor.handlers.base import Handler
from sde_harl.link.mpi_end import MpiEnd
from sde_harl.link.mpi_team import MpiTeam
from sde_harl.link.transport import SERVER, Transport
from sde_harl.link.wire import Header, Kind, Message, WireError
from sde_harl.meters.cores import usable_cores
from sde_harl.roles.grouping import Roles
from sde_harl.server.learner_ranks import pack_cores
from sde_harl.training.learned import Learned, build_learned, first_generator, prepare_torch
from sde_harl.training.rollouts import make_rollout
from sde_harl.training.shared_update import UpdateHead, share_update


def make_learner(argv: Sequence[str], transport: Transport, message: Message) -> Handler:
    """Returns the handler of a learner whose command line is `argv`.

    Raises UserError where it can't learn what rank 0 learns.
    """
    config = parse([*argv]).config
    # The configuration never comes from the wire: it may name code of the user's own.
    if config is None or digest(config).encode() != bytes(message.payload):
        raise UserError(
            "learner.ranks: expected the server's configuration, got another one"
            " (this learner's command line and files)"
        )
    transport.reserve(config.learner.ranks - 1)
    if not isinstance(transport, MpiEnd) or transport.rank not in transport.learners:
        raise WireError("kind")
    return LearnerRank(config, transport)


class LearnerRank(Handler):
    """Takes its share of every update of rank 0's."""

    _team: MpiTeam | None = None
    _learned: Learned
    _rollout: Rollout

    def __init__(self, config: Config, transport: MpiEnd) -> None:
        self._config = config
        self._transport = transport
        transport.send(SERVER, Header(kind=Kind.LEARN), pack_cores(usable_cores()))

    def learn(self, message: Message) -> None:
        if self._team is None:
            self._team = self._make_team()
            return
        head = UpdateHead.from_bytes(message.payload)
        share_update(self._team, self._learned, self._rollout, has_latents=head.has_latents)
        self._learned.algorithm.rate_coef = head.rate_coef
        # Rank 0 that is asked to end says so in a sum.
        with contextlib.suppress(KeyboardInterrupt):
            self._learned.update(self._rollout, head.progress)

    def load(self, flat: NDArray[np.float32]) -> None:
        raise WireError("kind")

    def answer(self, message: Message) -> None:
        raise WireError("kind")

    def look(self) -> None:
        """Ends the job where rank 0 has said goodbye in the middle of an update."""
        for message in self._transport.poll():
            if message.header.kind is Kind.BYE:
                # The sum that this rank waits for will never be, and MPI can't be left without it.
                self._transport.abort(ExitCode.DEFECT)

    def fail(self, what: str) -> UserError:
        """Returns the error of a learner that has lost the others."""
        return UserError(what)

    def _make_team(self) -> MpiTeam:
        """Meets the others and makes the same nets. Raises UserError where that can't be."""
        # It is rank 0 that gives up the others.
        team = self._transport.team(self, math.inf)
        about = json.loads(team.share_bytes(b""))
        torch.set_num_threads(about["threads"][team.rank])
        prepare_torch()
        peers = Team(rank=team.rank, size=team.size)
        peers.connect(team)
        self._make_parts(specs.from_json(json.dumps(about["spec"])), about["groups"], peers)
        team.sum(np.zeros(1, np.float32))
        return team

    def _make_parts(self, spec: EnvSpec, groups: list[list[int]], peers: Team) -> None:
        """Makes what rank 0 has made: what learns, and the rollout."""
        config = self._config
        self._learned = build_learned(
            config,
            spec,
            ALGORITHMS[config.algo.name],
            roles=Roles(source="rank 0", groups=tuple(map(tuple, groups))),
            generator=first_generator(config.seed),
            peers=peers,
        )
        self._rollout = make_rollout(
            config,
            spec,
            self._learned.critic_input,
            shape=self._learned.policy.shape,
            envs=config.train.envs,
            replays=self._learned.algorithm.replays,
        )
        self._learned.algorithm.start(self._rollout)
