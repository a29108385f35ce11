"""Learners beside rank 0: how ranks and cores are divided, and what rank 0 believes of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from teams import learn_together

from sde_harl.algorithms.off_policy.requirements import check_off_policy
from sde_harl.auxiliary.peers import Team
from sde_harl.config.arguments import parse
from sde_harl.config.layers import digest
from sde_harl.config.schema import Config
from sde_harl.envs.registry import spec_of
from sde_harl.errors import UserError
from sde_harl.executor.executor import Executor
from sde_harl.link.loopback import Loopback
from sde_harl.link.wire import Header, Kind
from sde_harl.meters.cores import Seat, core_list, threads_line, threads_of_each
from sde_harl.outside import process
from sde_harl.run import share_ranks
from sde_harl.server.learner_ranks import MOST_CORES, LearnerRanks, pack_cores
from sde_harl.training.learner_rank import make_learner
from sde_harl.training.shared_update import UpdateHead

WORDS = ["--env", "mpe", "--algo", "happo", "env.backend=mpe2", "learner.ranks=2"]


class Ranks:
    """A link of which only the number of ranks matters."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.reserved = 0

    def reserve(self, learners: int) -> None:
        self.reserved = learners


def config_of(*words: str) -> Config:
    config = parse([*WORDS, *words]).config
    assert config
    return config


@pytest.mark.parametrize(
    ("ranks", "mode", "learners", "complaint"),
    [
        (
            3,
            "local",
            2,
            "learner.ranks: expected 3, the ranks of this job (placement.mode = local)",
        ),
        (
            1,
            "local",
            2,
            "learner.ranks: expected 1, the ranks of this job (placement.mode = local)",
        ),
        (3, "local", 1, "placement.mode: local is one process, mpirun started 3; use mode agents"),
        (2, "agents", 2, "learner.ranks: expected 1 or less of -np 2 (placement.mode = agents"),
        (4, "envs", 4, "learner.ranks: expected 3 or less of -np 4 (placement.mode = envs"),
        (1, "agents", 2, "learner.ranks: expected 1 or less of -np 1"),
    ],
)
def test_a_job_of_other_ranks_is_refused_by_its_key(
    ranks: int, mode: str, learners: int, complaint: str
) -> None:
    config = config_of(f"placement.mode={mode}", f"learner.ranks={learners}")
    with pytest.raises(UserError) as refused:
        share_ranks(config, Ranks(ranks) if ranks > 1 else None)  # type: ignore[arg-type]
    assert str(refused.value).startswith(complaint)


@pytest.mark.parametrize(("ranks", "mode"), [(2, "local"), (3, "agents"), (9, "envs")])
def test_the_last_ranks_learn(ranks: int, mode: str) -> None:
    link = Ranks(ranks)
    assert share_ranks(config_of(f"placement.mode={mode}"), link) == 1  # type: ignore[arg-type]
    assert link.reserved == 1
    far = Loopback(0, None, None)  # type: ignore[arg-type]
    far.size = ranks
    far.reserve(1)
    assert [*far.executors, *far.learners] == [*range(1, ranks)]
    assert [*far.learners] == [ranks - 1]


def test_what_learners_cannot_share_is_refused() -> None:
    config = config_of("algo.name=hasac")
    with pytest.raises(UserError) as refused:
        check_off_policy(config, spec_of(config.env))
    assert str(refused.value).startswith("learner.ranks: expected 1, got 2 (not built for hasac")
    with pytest.raises(UserError) as refused:
        config_of("train.envs=2", "train.rollout=4", "algo.critic_minibatches=8")
    assert str(refused.value).startswith(
        "learner.ranks: expected 1 (a minibatch's rows or chunks) or less, got 2"
    )


def test_threads_are_divided_among_the_learners_that_share_cores() -> None:
    cores = frozenset(range(8))
    alone = Seat(rank=0, host="a", cores=cores)
    unbound = [alone, Seat(rank=3, host="a", cores=cores), Seat(rank=4, host="b", cores=cores)]
    assert threads_of_each(unbound) == [4, 4, 8]
    # Slurm has bound each rank to cores of its own.
    bound = [Seat(rank=r, host="a", cores=frozenset(range(4 * r, 4 * r + 4))) for r in (0, 1)]
    assert threads_of_each(bound) == [4, 4]
    crowded = [Seat(rank=r, host="a", cores=frozenset({0})) for r in range(3)]
    assert threads_of_each(crowded) == [1, 1, 1]
    assert threads_line(bound, [4, 1]) == (
        "learners: rank 0 with 4 threads on cores 0-3 of a; rank 1 with 1 thread on cores 4-7 of a"
    )
    assert core_list({8, 0, 1, 2, 5, 9}) == "0-2,5,8-9"


def met(make: Callable[..., object]) -> tuple[LearnerRanks, Loopback]:
    """Returns rank 0's view of one learner, whose handler `make` makes, and the learner's end."""
    near, far = Loopback.pair()
    executor = Executor(far, make_learner=make)  # type: ignore[arg-type]

    def step() -> None:
        for message in far.poll():
            executor.handle(message)

    near.attach(step)
    near.reserve(1)
    return LearnerRanks(near, failure_timeout_s=60.0), far


def test_a_learner_of_another_configuration_is_named() -> None:
    ranks, _ = met(partial(make_learner, [*WORDS, "seed=5"]))
    ranks.call(digest(config_of()))
    with pytest.raises(UserError) as refused:
        ranks.await_ready()
    assert str(refused.value).startswith("learner 1 (")
    assert "learner.ranks: expected the server's configuration, got another one" in str(
        refused.value
    )
    assert ranks.transport.absent == {1}, "it is not waited for"


def test_what_a_learner_may_not_say_is_counted_and_not_believed() -> None:
    ranks, far = met(lambda transport, message: None)
    for payload in (b"", b"1", bytes(2 * MOST_CORES + 2)):
        far.send(0, Header(kind=Kind.LEARN), payload)
    far.send(0, Header(kind=Kind.LATENTS), b"latents")
    far.send(0, Header(kind=Kind.LEARN), pack_cores(frozenset({3, 5})))
    far.send(0, Header(kind=Kind.LEARN), pack_cores(frozenset({4})))
    ranks.await_ready()
    ranks.look()
    assert ranks.cores == {1: frozenset({3, 5})}
    faults = [fault.reason for fault in ranks.transport.faults.drain()]
    assert sorted(faults) == ["kind", "kind", "length", "length", "length"]


def test_the_head_of_an_update_keeps_its_numbers() -> None:
    head = UpdateHead(progress=0.3, rate_coef=1e-3, has_latents=True)
    assert UpdateHead.from_bytes(memoryview(head.to_bytes())) == head
    with pytest.raises(ValueError, match="length"):
        UpdateHead.from_bytes(memoryview(b"short"))


def test_learners_stop_in_the_same_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.interruption, "_requested", False)
    monkeypatch.setattr(process.interruption, "_over", False)
    sums = []

    def work(team: Team) -> str:
        for number in range(5):
            if number == 3 and team.rank == 0:
                process.interruption._requested = True
            team.check()
            assert not team.are_interrupted
            each = torch.ones(2) * (team.rank + 1)
            try:
                team.sum([each])
            except KeyboardInterrupt:
                return f"stopped at {number}"
            sums.append(each.tolist())
        return "went on"

    found = learn_together(2, work)
    assert found in (["stopped at 3"] * 2, ["stopped at 2"] * 2)
    np.testing.assert_array_equal(sums, 3.0)
