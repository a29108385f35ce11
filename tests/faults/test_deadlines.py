"""Decisions whose latents are late or missing: ages in closed form, with answers held up."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from clock import Clock
from games import draw_by, learner, new_rollout, see, spec
from held import OBS, Held
from pools import ROWS, send_latents, weights

from sde_harl.config.schema import LinkProfile
from sde_harl.errors import UserError
from sde_harl.link.faults import FLOOD
from sde_harl.link.wire import Header, Kind
from sde_harl.policy.group_net import SubstitutedLatents
from sde_harl.protocol.actions import NO_LATENT, ReceivedLatents
from sde_harl.server import membership
from sde_harl.server.link_emulator import EmulatedLink


def ages_of(latents: ReceivedLatents, agent: int) -> list[int]:
    return [0] * ROWS if latents.ages is None else latents.ages[agent].tolist()


def test_an_agent_that_is_late_acts_on_its_last_latents_until_they_are_too_old(
    clock: Clock,
) -> None:
    held = Held(clock, max_age=3)
    first = held.decide()
    assert first.ages is None
    held.holding = {1}
    for age in (1, 2, 3):
        latents = held.decide(OBS + age)
        assert ages_of(latents, 0) == [0] * ROWS
        assert ages_of(latents, 1) == [age] * ROWS
        assert np.array_equal(latents.values[1], first.values[1])
        assert not np.array_equal(latents.values[0], first.values[0])
    latents = held.decide()
    assert ages_of(latents, 1) == [NO_LATENT] * ROWS
    assert not latents.values[1].any()
    decisions, _ = held.pool.report()
    assert decisions.missed.tolist() == [[0, 0]] + [[0, ROWS]] * 4
    assert decisions.age[:4, 1].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert np.isnan(decisions.age[4, 1])
    assert decisions.idle[:, 1].tolist() == [0, 0, 0, 0, ROWS]
    assert not decisions.idle[:, 0].any()
    assert decisions.answers.tolist() == [[1, 1]] + [[1, 0]] * 4
    assert (decisions.decision_ns[1:] >= 1e6).all()


def test_who_has_left_for_good_is_not_back() -> None:
    question, long_ns = membership.Question(0, 0, 0), 2 * membership.ABSENT_NS
    roll = membership.Membership([1, 2], set(), 10 * membership.ABSENT_NS)
    assert [roll.missed(rank, [question], now_ns=long_ns, since_ns=0) for rank in (1, 2)] == [
        True,
        True,
    ]
    roll.lost.add(1)
    assert [roll.heard(rank, question) for rank in (1, 2)] == [False, True]
    assert roll.absent == {1}


@pytest.mark.parametrize("survives_losses", [True, False])
def test_a_flood_of_wrong_messages_ends_a_run_that_may_not_go_on(
    survives_losses: bool, clock: Clock
) -> None:
    held = Held(clock, survives_losses=survives_losses)
    for _ in range(FLOOD):
        held.far.send(0, Header(kind=Kind.TABLES))
    if survives_losses:
        assert held.decide().ages is None
    else:
        with pytest.raises(
            UserError, match=r"executor 1 \(.*\): 1,000 of its messages were wrong, the last: kind"
        ):
            held.decide()


def test_an_answer_that_comes_late_is_no_fault_and_refreshes_the_last_latents(clock: Clock) -> None:
    held = Held(clock, max_age=9)
    held.holding = {0, 1}
    held.decide(OBS)
    asked = held.decide(OBS + 1)  # of decision 1; its own latents are held
    assert ages_of(asked, 1) == [NO_LATENT] * ROWS
    held.release(2)  # of decision 0
    latents = held.decide(OBS + 2)
    assert ages_of(latents, 1) == [2] * ROWS
    held.release(4)  # of decisions 1 and 2
    latents = held.decide(OBS + 3)
    assert ages_of(latents, 1) == [1] * ROWS
    held.holding = set()
    fresh = held.decide(OBS + 2)
    assert fresh.ages is None
    assert np.array_equal(fresh.values[1], latents.values[1])
    assert not held.pool.faults()
    decisions, _ = held.pool.report()
    assert decisions.late[:, 1].tolist() == [0, 0, 1, 2, 0]
    assert decisions.answers[:, 1].tolist() == [0, 0, 1, 2, 1]
    held.release()  # of decision 3: the answer to 4 has shown that it would never come
    held.decide()
    assert [fault.reason for fault in held.pool.faults()] == ["step", "step"]


def test_a_latent_of_the_previous_episode_is_never_used(clock: Clock) -> None:
    held = Held(clock, max_age=9)
    held.decide()
    held.holding = {1}
    held.pool.forget(0, np.array([1]))  # environment 1 ended with decision 0
    assert ages_of(held.decide(), 1) == [1, NO_LATENT, 1]
    held.release()  # of decision 1, the new episode's first
    assert ages_of(held.decide(), 1) == [1, 1, 1]
    held.pool.forget(0, np.array([0]))
    held.release()  # of decision 2, the old episode's last
    latents = held.decide()
    assert ages_of(latents, 1) == [NO_LATENT, 1, 1]
    assert not latents.values[1, 0].any()
    assert latents.values[1, 1].any()
    held.pool.forget(0)
    assert ages_of(held.decide(), 1) == [NO_LATENT] * ROWS


def test_late_latents_of_an_older_model_are_counted_and_not_used(clock: Clock) -> None:
    held = Held(clock, max_age=9)
    held.holding = {1}
    held.decide()
    held.pool.publish(2, weights(), [])
    held.release()
    assert ages_of(held.decide(), 1) == [NO_LATENT] * ROWS
    assert not held.pool.faults()


def test_a_stopped_executor_is_asked_no_more_until_it_answers_and_then_gets_the_new_model(
    monkeypatch: pytest.MonkeyPatch,
    clock: Clock,
) -> None:
    monkeypatch.setattr(membership, "ABSENT_NS", 2_500_000)
    held = Held(clock)
    held.decide()
    held.stopped = True
    for _ in range(20):
        held.decide()
    assert held.pool.absent == [1]
    pending = len(held.far._inbox)
    held.decide()
    held.pool.publish(2, weights(), [])
    assert len(held.far._inbox) == pending  # nothing more was sent
    decisions, resources = held.pool.report()
    assert not resources
    assert decisions.missed[1:].all()
    held.stopped = False
    held.decide()  # it works off what it was sent, and answers
    assert not held.pool.absent
    assert held.decide().ages is None
    assert [fault.reason for fault in held.pool.faults()] == ["absent", "back"]
    _, resources = held.pool.report()
    assert set(resources) == {1}


def test_a_run_that_may_not_go_on_ends_at_the_failure_timeout(clock: Clock) -> None:
    held = Held(clock, failure_timeout_s=0.01, survives_losses=False)
    held.stopped = True

    def decide_often() -> None:
        for _ in range(1000):
            held.decide()

    with pytest.raises(
        UserError,
        match=r"executor 1 .* sent no latents for step 7 within link.failure_timeout_s = 0.01 s",
    ):
        decide_often()
    assert held.pool.absent == [1]


def test_without_a_deadline_a_decision_waits_for_the_failure_timeout(clock: Clock) -> None:
    held = Held(clock, failure_timeout_s=0.02)
    settings = held.pool._settings._replace(deadline_s=0.0)
    held.pool._parts.questioner._settings = settings
    held.decide()
    held.stopped = True
    assert ages_of(held.decide(), 0) == [1] * ROWS
    assert held.pool.absent == [1]


def test_an_answer_is_taken_once(clock: Clock) -> None:
    held = Held(clock)
    held.holding = {1}
    held.decide()
    held.holding = set()
    held.release()
    send_latents(held.far, agent=1)
    held.decide()
    assert [fault.reason for fault in held.pool.faults()] == ["step"]


def emulated(profile: LinkProfile, deadline_ms: float, max_age: int) -> EmulatedLink:
    return EmulatedLink(
        profile,
        deadline_ms=deadline_ms,
        max_age=max_age,
        sizes=(2, 4, 3),
        seed=0,
        first_environment=0,
    )


def passed(link: EmulatedLink, count: int) -> Iterator[np.ndarray]:
    """Gives ages (N, E) of decisions 0..count-1 of an episode whose latents are their numbers."""
    for number in range(count):
        sent = np.full((2, 4, 3), number, np.float32)
        latents = link.pass_on(ReceivedLatents(sent), number, np.zeros(4, np.int64))
        ages = np.zeros((2, 4), np.int32) if latents.ages is None else latents.ages
        known = ages != NO_LATENT
        assert (latents.values[known] == (number - ages[known])[:, None]).all()
        assert not latents.values[~known].any()
        yield ages


def test_a_delay_within_the_deadline_ages_nothing() -> None:
    assert not any(
        ages.any()
        for ages in passed(
            emulated(LinkProfile(loss=0.0, delay_ms=9.0, jitter_ms=1.0), 10.1, 3), 20
        )
    )


def test_a_delay_of_some_deadlines_is_that_many_steps_of_age() -> None:
    """A decision waits 10 ms and a message takes 25: decision k has what was sent two before it."""
    ages = list(passed(emulated(LinkProfile(loss=0.0, delay_ms=25.0, jitter_ms=0.0), 10.0, 3), 6))
    assert [each[0, 0] for each in ages] == [NO_LATENT, NO_LATENT, 2, 2, 2, 2]
    assert all((each == each[0, 0]).all() for each in ages)
    assert all(
        (each == NO_LATENT).all()
        for each in passed(
            emulated(LinkProfile(loss=0.0, delay_ms=25.0, jitter_ms=0.0), 10.0, 1), 6
        )
    )


def runs_of_misses(loss: float, deadline: float) -> list[int]:
    """Returns how many decisions in a row were late, each time.

    There are 20,000 decisions on each of 8 links of 1 ms.
    """
    runs, run = [], np.zeros((2, 4), int)
    for ages in passed(
        emulated(LinkProfile(loss=loss, delay_ms=1.0, jitter_ms=0.0), deadline, 30), 20_000
    ):
        runs += run[(ages == 0) & (run > 0)].tolist()
        run = np.where(ages == 0, 0, run + 1)
    return runs


@pytest.mark.parametrize(("deadline", "usual"), [(20.0, 1), (2.0, 2)])
def test_a_loss_costs_what_the_next_message_takes_to_tell_of_it(
    deadline: float, usual: int
) -> None:
    """A message lost at 0 comes 3 ms after the next was sent.

    That is at 23, in the second decision, or at 5, in the third (4 to 6).
    """
    runs = runs_of_misses(0.002, deadline)
    assert np.bincount(runs).argmax() == usual
    lost = len(runs) / (20_000 * 8)
    assert 0.001 < lost < 0.003


def test_a_loss_lasts_until_a_message_behind_it_arrives() -> None:
    counts = np.bincount(runs_of_misses(0.5, 20.0), minlength=8)[1:5]
    assert np.allclose(counts[1:] / counts[:-1], 0.5, atol=0.05), (
        "each message behind it is lost half of the time"
    )


def test_an_emulated_link_repeats_with_its_seed() -> None:
    one, other = (
        list(passed(emulated(LinkProfile(loss=0.2, delay_ms=5.0, jitter_ms=5.0), 6.0, 4), 50))
        for _ in range(2)
    )
    assert np.array_equal(one, other)


def test_the_emulated_link_sees_no_message_that_the_real_one_lost() -> None:
    link = emulated(LinkProfile(loss=0.0, delay_ms=0.0, jitter_ms=0.0), 10.0, 3)
    gone = np.zeros((2, 4), np.int32)
    gone[1] = NO_LATENT
    latents = link.pass_on(
        ReceivedLatents(np.ones((2, 4, 3), np.float32), gone), 0, np.zeros(4, np.int64)
    )
    assert latents.ages is not None
    assert latents.ages.tolist() == gone.tolist()


@pytest.mark.parametrize("name", ["happo", "hatrpo"])
@pytest.mark.parametrize("recurrent", [False, True])
def test_learning_is_on_the_latents_that_were_there(name: str, recurrent: bool) -> None:
    """The ratio is 1 before the first step, too, where older latents stood for a row's own.

    Rows that nobody decided are left out.
    """
    game, rng, envs = spec(((4,), (4,)), 3), np.random.default_rng(0), 64
    trainer = learner(game, name, recurrent=recurrent, epochs=1)
    rollout = new_rollout(game, envs)
    if recurrent:
        rollout.memory = np.zeros((2, 1, envs, 16), np.float32)
    see(rollout, rng.normal(size=(2, envs, 3)).astype(np.float32))
    rollout.stale[:] = rng.random((2, 1, envs)) < 0.5
    rollout.decided[:] = ~rollout.stale | (rng.random((2, 1, envs)) < 0.5)
    for net in trainer.policy.groups:
        with torch.no_grad():
            obs = torch.from_numpy(rollout.obs[list(net.members)]).flatten(1, 2)
            rollout.latents[list(net.members), 0] = net.quantise(
                net.encode(net.normalise(obs))
            ).numpy()
    rollout.latents[rollout.stale] = rng.integers(-8, 8, (int(rollout.stale.sum()), 4))
    decision = trainer.policy.acting().act(
        rollout.latents[:, 0], rollout.available_actions[:, 0], draw_by(rng, 2)
    )
    rollout.actions[:, 0], rollout.log_probs[:, 0] = decision.actions, decision.log_probs
    rollout.log_probs[~rollout.decided] = 0.0
    rollout.rewards[:] = rng.normal(size=(1, envs))
    assert trainer.update(rollout, 0.0)["ratio_error"] < 1e-5


def test_no_gradient_reaches_a_local_net_through_what_is_stale() -> None:
    net = learner(spec(((4,),), 3), "happo").policy.groups[0]
    features, stale = torch.randn(1, 8, 3), torch.ones(1, 8, dtype=torch.bool)
    net(
        features, None, SubstitutedLatents(torch.ones(1, 8, 4), stale)
    ).outputs.square().sum().backward()
    assert not net.local_weights[0].grad.any()
    assert net.head_weight.grad.any()
    net(
        features, None, SubstitutedLatents(torch.ones(1, 8, 4), ~stale)
    ).outputs.square().sum().backward()
    assert net.local_weights[0].grad.any()


def test_an_agent_that_does_nothing_takes_the_noop_or_what_is_available_first() -> None:
    game = spec(((5,), (3,)), 2)._replace(noop=4)
    available = np.ones((2, 3, 5), bool)
    available[0, 1, 4] = available[0, 1, 0] = False
    available[1, :, 3:] = False
    assert game.idle(available)[..., 0].tolist() == [[4, 1, 4], [0, 0, 0]]
    assert (
        not game._replace(continuous=True, action_sizes=((2,), (1,))).idle(available[..., :2]).any()
    )
