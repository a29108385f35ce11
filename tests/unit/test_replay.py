"""The replay against a list of all that was played."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from games import spec
from hypothesis import given, settings
from hypothesis import strategies as st

from sde_harl.buffers import _returns
from sde_harl.buffers.replay import Replay, Sample
from sde_harl.buffers.rollout import Rollout
from sde_harl.envs.base import EnvSpec
from sde_harl.errors import UserError
from sde_harl.policy.critic_input import make_critic_input

GAME = spec(((3,), (2,)), 2)
GAMMA = 0.9


class Step(NamedTuple):
    """One step of one environment, whose observations are a number that names the step."""

    name: float
    reward: float
    alive: bool
    ended: str  # "", "terminated", "truncated"
    final: float
    void: bool


def rollout_of(streams: list[list[Step]], kind: str = "EP", game: EnvSpec = GAME) -> Rollout:
    """A rollout of E streams of T steps."""
    made = Rollout(
        game,
        steps=len(streams[0]),
        envs=len(streams),
        latent_size=2,
        critic_input=make_critic_input(kind, game),
        keeps_final_obs=True,
    )
    made.available_actions[:] = game.choices()[:, None, None]
    made.active_masks[:] = True
    for e, stream in enumerate(streams):
        for t, step in enumerate(stream):
            made.obs[:, t, e] = step.name
            made.latents[:, t, e] = step.name
            made.critic_inputs[:, t, e] = step.name
            made.rewards[t, e] = step.reward
            made.active_masks[:, t, e] = step.alive
            made.terminated[t, e] = step.ended == "terminated"
            made.truncated[t, e] = step.ended == "truncated"
            made.void[t, e] = step.void
            made.actions[0, t, e] = int(step.name) % 3
            if step.ended == "truncated":
                made.final_obs[:, t, e] = step.final
                made.final_critic_inputs[:, t, e] = step.final
    return made


def random_streams(rng: np.random.Generator, envs: int, steps: int, first: int) -> Any:
    streams = []
    for e in range(envs):
        ends = rng.choice(["", "", "", "terminated", "truncated"], steps)
        streams.append(
            [
                Step(
                    name=first + 1000.0 * e + t,
                    reward=float(rng.normal()),
                    alive=bool(rng.random() < 0.7),
                    ended=str(ends[t]),
                    final=-(first + 1000.0 * e + t),
                    void=False,
                )
                for t in range(steps)
            ]
        )
    return streams


class Expected(NamedTuple):
    returns: float
    discount: float
    after: float


def expected(stream: list[Step], t: int, n: int) -> Expected:
    """The row of step t by a loop; the newest step has no successor, unless it was cut."""
    returns = 0.0
    newest = len(stream) - 1
    for k in range(n):
        step = stream[t + k]
        returns += GAMMA**k * step.reward
        if step.ended == "terminated":
            return Expected(returns, 0.0, np.nan)
        if step.ended == "truncated":
            return Expected(returns, GAMMA ** (k + 1), step.final)
        last = t + k + 1 == newest and stream[newest].ended != "truncated"
        if last or k + 1 == n:
            return Expected(returns, GAMMA ** (k + 1), stream[t + k + 1].name)
    raise AssertionError


def sampled(replay: Replay, n: int, batch: int = 300, seed: int = 0) -> Sample:
    sample = replay.sample(batch, torch.Generator().manual_seed(seed), steps=n, gamma=GAMMA)
    assert sample is not None
    return sample


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 6),
    envs=st.integers(1, 3),
    rollouts=st.integers(1, 6),
    capacity=st.sampled_from([16, 60, 500]),
)
def test_every_row_is_what_was_played(
    seed: int, n: int, envs: int, rollouts: int, capacity: int
) -> None:
    """Over rings that are written over, n-step returns across ends, and discounts of their own."""
    rng = np.random.default_rng(seed)
    replay = Replay(GAME, capacity=max(capacity, 16 * envs), envs=envs, latent_size=2)
    streams: list[list[Step]] = [[] for _ in range(envs)]
    for k in range(rollouts):
        parts = random_streams(rng, envs, 5, first=1 + 5 * k)
        replay.add(rollout_of(parts))
        for stream, part in zip(streams, parts):
            stream += part
    sample = sampled(replay, n)
    seen = set()
    for b in range(300):
        name = sample.obs[0, b, 0]
        e, t = int(name) // 1000, int(name) % 1000 - 1
        assert t < len(streams[e]) - 1 or streams[e][t].ended == "truncated"
        row = expected(streams[e], t, n)
        assert sample.returns[b] == pytest.approx(row.returns, abs=1e-5)
        assert sample.discounts[b] == pytest.approx(row.discount)
        assert (sample.active[:, b] == streams[e][t].alive).all()
        assert (sample.state[b] == name).all()
        assert (sample.latents[:, b] == name).all()
        assert (sample.actions[0, b] == int(name) % 3).all()
        if row.discount:
            assert (sample.obs[:, 300 + b] == row.after).all()
            assert (sample.state[300 + b] == row.after).all()
            assert (sample.sent[:, 300 + b] == (row.after > 0)).all()
        seen.add(name)
    kept = sum(len(stream) - (stream[-1].ended != "truncated") for stream in streams)
    if capacity == 500 and kept < 30:
        assert len(seen) == kept, "every row comes up"


def test_rows_come_up_equally_often() -> None:
    replay = Replay(GAME, capacity=40, envs=2)
    replay.add(rollout_of(random_streams(np.random.default_rng(3), 2, 9, first=1)))
    sample = sampled(replay, 1, batch=16_000)
    _, counts = np.unique(sample.obs[0, :16_000, 0], return_counts=True)
    assert len(counts) == 16
    assert abs(counts / 1000 - 1).max() < 0.15


def step(name: float, *, void: bool = False, ended: str = "") -> Step:
    return Step(name=name, reward=1.0, alive=True, ended=ended, final=-1.0, void=void)


def test_nothing_of_a_void_episode_is_learnt_from() -> None:
    """It began in the rollout before the one that it ended in, behind another episode."""
    replay = Replay(GAME, capacity=100, envs=1)
    replay.add(rollout_of([[step(1), step(2, ended="truncated"), step(3), step(4)]]))
    ends = [step(5, void=True), step(6, void=True, ended="terminated"), step(7), step(8)]
    replay.add(rollout_of([ends]))
    names = np.unique(sampled(replay, 2).obs[0, :300, 0])
    assert names.tolist() == [1, 2, 7]


def test_rewards_are_those_of_all_that_is_kept() -> None:
    """Not of closing entries, nor of void episodes, nor of what was overwritten or forgotten."""

    def step(reward: float, ended: str = "", void: bool = False) -> Step:
        return Step(name=0, reward=reward, alive=True, ended=ended, final=-1.0, void=void)

    replay = Replay(GAME, capacity=12, envs=2)
    assert len(replay.rewards()) == 0
    cut = [step(1), step(2, "truncated"), step(3)]
    void = [step(97, void=True), step(98, "terminated", void=True), step(4)]
    replay.add(rollout_of([cut, void]))
    assert sorted(replay.rewards()) == [1, 2, 3, 4]
    # The first ring now has 1 to 3, a closing entry, and two of these; then it begins again.
    replay.add(rollout_of([[step(5), step(6), step(7)], [step(8), step(9), step(10)]]))
    assert sorted(replay.rewards()) == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    replay.clear()
    assert len(replay.rewards()) == 0


def test_what_follows_a_break_is_not_of_the_same_episode() -> None:
    """A run that goes on where its games can't: they begin anew, in the middle of their streams."""
    replay = Replay(GAME, capacity=200, envs=4, latent_size=2)
    replay.add(
        rollout_of(
            [
                [step(1), step(2), step(3)],
                [step(11), step(12), step(13, ended="terminated")],
                [step(21), step(22), step(23, ended="truncated")],
                [step(31), step(32, ended="terminated"), step(33)],
            ]
        )
    )
    later = rollout_of([[step(100 + 10 * e), step(101 + 10 * e)] for e in range(4)])
    later.anew[:] = True
    replay.add(later)
    sample = sampled(replay, 3)
    rows = {
        int(sample.obs[0, b, 0]): (
            round(float(sample.returns[b]), 3),
            round(float(sample.discounts[b]), 3),
            int(sample.obs[0, 300 + b, 0]),
        )
        for b in range(300)
    }
    assert {name: row for name, row in rows.items() if row[1]} == {
        1: (1.9, 0.81, 3),
        2: (1.0, 0.9, 3),
        21: (2.71, 0.729, -1),
        22: (1.9, 0.81, -1),
        23: (1.0, 0.9, -1),
        **{100 + 10 * e: (1.0, 0.9, 101 + 10 * e) for e in range(4)},
    }
    ended = {name for name, row in rows.items() if not row[1]}
    assert ended == {11, 12, 13, 31, 32}


def test_streams_of_no_and_of_one_entry_are_broken_off() -> None:
    replay = Replay(GAME, capacity=100, envs=1)
    for names in ([1], [5, 6]):
        later = rollout_of([[step(name) for name in names]])
        later.anew[:] = True
        replay.add(later)
    assert np.unique(sampled(replay, 2).obs[0, :300, 0]).tolist() == [5]


def test_an_empty_replay_gives_nothing() -> None:
    replay = Replay(GAME, capacity=100, envs=2)
    generator = torch.Generator()
    assert replay.sample(4, generator, steps=1, gamma=0.9) is None
    void = [[step(1, void=True), step(2, void=True, ended="terminated")]] * 2
    replay.add(rollout_of(void))
    assert replay.sample(4, generator, steps=1, gamma=0.9) is None


def test_a_rollout_must_fit_twice() -> None:
    replay = Replay(GAME, capacity=7, envs=1)
    with pytest.raises(ValueError, match="rings of 7"):
        replay.add(rollout_of(random_streams(np.random.default_rng(0), 1, 4, first=1)))


def test_states_of_critics_that_see_each_agents_observation() -> None:
    replay = Replay(GAME, capacity=100, envs=1)
    made = rollout_of(random_streams(np.random.default_rng(0), 1, 5, first=1), kind="FP")
    made.critic_inputs[..., 2:] = -7  # the observation, which is kept once
    replay.add(made)
    sample = sampled(replay, 1)
    assert sample.state.shape == (600, 2)
    assert (sample.state != -7).all()


def test_it_comes_back_from_its_state_and_repeats() -> None:
    rng = np.random.default_rng(0)
    first, second = (Replay(GAME, capacity=40, envs=2) for _ in range(2))
    for k in range(4):
        first.add(rollout_of(random_streams(rng, 2, 6, first=1 + 6 * k)))
    second.load_state_dict(first.state_dict())
    assert len(second) == len(first) == 40
    for one, other in zip(sampled(first, 3), sampled(second, 3)):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="obs"):
        Replay(GAME, capacity=80, envs=2).load_state_dict(first.state_dict())


def test_half_precision_and_bytes() -> None:
    half = Replay(GAME, capacity=100, envs=1, obs_dtype="float16")
    full = Replay(GAME, capacity=100, envs=1)
    made = rollout_of(random_streams(np.random.default_rng(0), 1, 5, first=1))
    for replay in (half, full):
        replay.add(made)
    assert half.nbytes < full.nbytes
    assert sampled(half, 1).obs.dtype == np.float32
    np.testing.assert_array_equal(sampled(half, 1).obs, sampled(full, 1).obs)
    images = GAME._replace(
        obs_images=((1, 2, 1),) * 2, obs_dtype="uint8", state_dtype="uint8", state_image=(1, 2, 1)
    )
    replay = Replay(images, capacity=100, envs=1, obs_dtype="float16")
    streams = random_streams(np.random.default_rng(0), 1, 5, first=1)
    replay.add(rollout_of([[each._replace(final=200.0) for each in streams[0]]], game=images))
    assert sampled(replay, 1).obs.dtype == sampled(replay, 1).state.dtype == np.uint8


@pytest.mark.parametrize("array", ["obs", "critic_inputs", "final_obs", "final_critic_inputs"])
def test_half_precision_refuses_numbers_that_it_cannot_hold(array: str) -> None:
    made = rollout_of(random_streams(np.random.default_rng(0), 1, 5, first=1))
    made.truncated[:] = True
    getattr(made, array)[:] = 65504.0
    Replay(GAME, capacity=100, envs=1, obs_dtype="float16").add(made)
    getattr(made, array)[:] = 65600.0
    with pytest.raises(UserError, match=r"algo.buffer_dtype=float16: an observation or a state"):
        Replay(GAME, capacity=100, envs=1, obs_dtype="float16").add(made)


def test_a_file_instead_of_memory(tmp_path: Path) -> None:
    filed = Replay(GAME, capacity=100, envs=1, folder=tmp_path)
    plain = Replay(GAME, capacity=100, envs=1)
    made = rollout_of(random_streams(np.random.default_rng(0), 1, 20, first=1))
    for replay in (filed, plain):
        replay.add(made)
    for one, other in zip(sampled(filed, 2), sampled(plain, 2)):
        np.testing.assert_array_equal(one, other)
    assert not list(tmp_path.iterdir()), "the file has no name"
    for folder, capacity in ((tmp_path / "none", 100), (tmp_path, 10**15)):
        with pytest.raises(UserError, match=r"algo.buffer_folder: .* can't hold a replay of"):
            Replay(GAME, capacity=capacity, envs=1, folder=folder)


def test_a_replay_that_the_system_has_no_memory_for() -> None:
    with pytest.raises(UserError, match=r"algo.buffer_size: no memory for a replay of"):
        Replay(GAME, capacity=10**15, envs=1)


def test_memory_without_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel may refuse them, and other systems don't know them."""
    parts = random_streams(np.random.default_rng(0), 2, 9, first=1)
    samples = []
    for advice in (mmap.MADV_HUGEPAGE, -1, None):
        if advice is None:
            monkeypatch.delattr(mmap, "MADV_HUGEPAGE")
        else:
            monkeypatch.setattr(mmap, "MADV_HUGEPAGE", advice)
        replay = Replay(GAME, capacity=100, envs=2, latent_size=2)
        replay.add(rollout_of(parts))
        samples.append(sampled(replay, 2))
    for other in samples[1:]:
        for one, another in zip(samples[0], other):
            np.testing.assert_array_equal(one, another)


@pytest.mark.parametrize(("start", "most"), [(-1, 1), (8, 1), (0, 0), (0, 4)])
def test_nothing_outside_the_replay_is_read(start: int, most: int) -> None:
    entries = np.zeros(8, np.float32)
    with pytest.raises(ValueError, match="outside the replay"):
        _returns.gather(
            np.array([start]),
            np.array([most]),
            entries > 0,
            entries,
            np.ones(4, np.float32),
            np.zeros(1, np.int64),
            np.zeros(1, np.float32),
            4,
        )


@pytest.mark.parametrize("row", [-1, 8, 1 << 60])
def test_no_entry_outside_the_replay_is_copied(row: int) -> None:
    entries = np.arange(40, dtype=np.uint8).reshape(8, 5)
    copies = np.zeros((2, 5), np.uint8)
    _returns.take(entries, np.array([7, 0]), copies)
    np.testing.assert_array_equal(copies, entries[[7, 0]])
    with pytest.raises(ValueError, match="outside the replay"):
        _returns.take(entries, np.array([0, row]), copies)
    with pytest.raises(ValueError, match="don't fit"):
        _returns.take(entries, np.array([0, 1, 2]), copies)
