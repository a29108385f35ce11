"""A pool that is restored from its state goes on as the one that was saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pools import ROWS, SHAPE, session_of, settings_of, weights

from sde_harl.config.schema import LinkProfile
from sde_harl.executor.executor import Executor
from sde_harl.link.loopback import Loopback
from sde_harl.protocol.actions import ReceivedLatents
from sde_harl.server.executor_pool import ExecutorPool
from sde_harl.server.link_emulator import EmulatedLink

PROFILE = LinkProfile(loss=0.2, delay_ms=5.0, jitter_ms=5.0)


def a_link() -> EmulatedLink:
    return EmulatedLink(
        PROFILE, deadline_ms=6.0, max_age=4, sizes=(2, 4, 3), seed=3, first_environment=8
    )


def ages(link: EmulatedLink, first: int, count: int) -> list[list[list[int]]]:
    """Ages of decisions of one long episode, and their latents, which are their numbers."""
    found = []
    for number in range(first, first + count):
        sent = ReceivedLatents(np.full((2, 4, 3), number, np.float32))
        latents = link.pass_on(sent, number, np.zeros(4, np.int64))
        assert latents.ages is not None
        found += [latents.ages.tolist(), latents.values[..., 0].tolist()]
    return found


def test_an_emulated_link_goes_on_with_what_is_on_its_way() -> None:
    link, restored = a_link(), a_link()
    ages(link, 0, 50)
    restored.load_state_dict(link.state_dict())
    kept = link.state_dict()
    assert ages(restored, 50, 50) == ages(link, 50, 50) != ages(a_link(), 50, 50)
    assert kept["now"].max() < link.state_dict()["now"].max(), "a state is a copy"


def a_pool(profile: LinkProfile = PROFILE, **settings: Any) -> ExecutorPool:
    server, far = Loopback.pair()
    executor = Executor(far)

    def step() -> None:
        for message in far.poll():
            executor.handle(message)

    server.attach(step)
    settings = {"rows": ROWS, "max_age": 3, "deadline_s": 6e-3, "profile": profile, **settings}
    pool = ExecutorPool(server, session_of(SHAPE), settings_of(**settings))
    pool.handshake()
    return pool


def play(pool: ExecutorPool, decisions: int, first: int) -> list[Any]:
    """Ages and latents of decisions in both slots; an episode ends on the way."""
    found: list[Any] = []
    for step in range(first, first + decisions):
        obs = np.random.default_rng(step).normal(size=(2, ROWS, 5)).astype(np.float32)
        for slot in (0, 1):
            if step % 4 == slot:
                pool.forget(slot, np.array([1]))
            pool.sense(slot, step, obs)
            latents = pool.latents(slot)
            pool.act(slot, np.zeros((2, ROWS, 1), np.int32), policy_ns=0)
            found += [latents.values.tolist(), latents.ages is None or latents.ages.tolist()]
    return found


def test_a_pool_goes_on_with_its_version_its_latents_and_its_links() -> None:
    pool, restored = a_pool(), a_pool()
    pool.publish(1, weights(), [])
    play(pool, 10, first=0)
    restored.load_state_dict(pool.state_dict())
    assert restored.version == 1
    for each in (pool, restored):
        each.publish(each.version + 1, weights(), [])
    assert play(restored, 10, first=10) == play(pool, 10, first=10)


@pytest.mark.parametrize(
    "other", [{"slots": 1}, {"rows": ROWS + 1}, {"profile": LinkProfile()}, {"max_age": 4}]
)
def test_a_state_of_another_run_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|could not broadcast"):
        a_pool(**other).load_state_dict(a_pool().state_dict())
