"""Lambda over a run: its warm-up, its controller on known sources, and tables that agents share."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from games import act, learner, new_rollout, see, spec
from hypothesis import given
from hypothesis import strategies as st
from latent_models import Z, latents, rate_of, trained_model
from pools import ROWS, SHAPE, session_of, settings_of, weights

from sde_harl.auxiliary.rate_control import BRAKE, GAIN, LEAST_COEF, MOST_COEF, RateControl
from sde_harl.codec.coder import EntropyCoder, least_bytes
from sde_harl.codec.entropy import LatentModel
from sde_harl.codec.registry import make_codec
from sde_harl.codec.tables import Tables, to_bytes
from sde_harl.config.schema import CodecConfig
from sde_harl.executor.executor import Executor
from sde_harl.link.loopback import Loopback
from sde_harl.link.wire import Kind, WireError
from sde_harl.protocol.tables_message import pack_tables, tables_head, unpack_tables
from sde_harl.server.executor_pool import ExecutorPool

# --- lambda


def test_lambda_warms_up_in_proportion_and_stays() -> None:
    control = RateControl(CodecConfig(rate_coef=0.08, rate_warmup=0.5))
    found = [control.next(progress, 99.0) for progress in (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)]
    assert found == pytest.approx([0.0, 0.02, 0.04, 0.08, 0.08, 0.08])
    assert RateControl(CodecConfig(rate_coef=0.08)).next(0.0, 99.0) == 0.08, "no warm-up"


def test_nothing_is_steered_while_lambda_warms_up() -> None:
    control = RateControl(CodecConfig(rate_coef=0.01, rate_warmup=0.5, target_bytes=4.0))
    for progress in np.linspace(0, 0.49, 50):
        control.next(progress, 64.0)
    assert control.next(0.5, 4.0) == pytest.approx(0.01)
    assert control.next(0.6, 8.0) == pytest.approx(0.01 * 2**GAIN)


def test_on_a_source_that_follows_at_once_the_error_shrinks_by_a_known_factor() -> None:
    """bytes = c lambda^-k: log(bytes / target) after t updates is (1 - GAIN k)^t of the first."""
    c, k, target = 2.0, 0.5, 5.0
    control, coef = RateControl(CodecConfig(rate_coef=1e-3, target_bytes=target)), 1e-3
    first = math.log(c * coef**-k / target)
    for t in range(1, 300):
        coef = control.next(1.0, c * coef**-k)
        assert math.log(c * coef**-k / target) == pytest.approx(
            first * (1 - GAIN * k) ** t, abs=1e-9
        )


@pytest.mark.parametrize("start", [1e-5, 0.5])
def test_on_a_sluggish_coded_source_the_bytes_sent_come_to_the_target(start: float) -> None:
    """Each of 12 symbols takes 1 bit for a 0 and 6 for a 1.

    The share of ones moves a tenth of the way to 0.03 lambda^-1/2.
    """
    target, rng, symbols = 4.0, np.random.default_rng(0), 12
    cdf = np.array([[0, 32768, 33792, 65536]] * symbols, np.int32)
    zero = np.zeros(symbols, np.int32)
    coder = EntropyCoder(Tables(1, cdf, zero + 4, zero, zero.astype(np.float32)))
    control, coef, ones, sent = (
        RateControl(CodecConfig(rate_coef=start, target_bytes=target)),
        start,
        0.5,
        [],
    )
    for _ in range(600):
        ones += 0.1 * (min(0.03 * coef**-0.5, 1.0) - ones)
        sent.append(len(coder.encode((rng.random((64, symbols)) < ones).astype(np.float32))) / 64)
        coef = control.next(1.0, sent[-1])
    assert max(abs(np.array(sent[:50]) / target - 1)) > 0.3
    assert np.mean(sent[-100:]) == pytest.approx(
        target, rel=0.01 if start < 0.1 else 0.05
    )  # below, the brake is on
    ideal = (
        least_bytes(64, 0) + symbols * (1 + 5 * 0.03 * coef**-0.5) / 8
    )  # the string's state is paid for too
    assert ideal == pytest.approx(target, rel=0.08)


def test_lambda_keeps_its_bounds_and_leaves_them_at_once() -> None:
    control = RateControl(CodecConfig(rate_coef=1e-2, target_bytes=4.0))
    for sent, bound in ((1e9, MOST_COEF), (1e-9, LEAST_COEF)):
        for _ in range(400):
            coef = control.next(1.0, sent)
        assert coef == bound
    assert control.next(1.0, 8.0) == pytest.approx(LEAST_COEF * 2**GAIN), "nothing was wound up"
    assert control.next(1.0, 0.0) == control.next(1.0, 4.0), (
        "where nothing was sent, nothing is known"
    )


def test_below_the_target_lambda_gives_way_and_is_back_at_once_above() -> None:
    control = RateControl(CodecConfig(rate_coef=1e-2, target_bytes=4.0))
    assert control.next(1.0, 2.0) == pytest.approx(1e-2 * 0.5 ** (GAIN + BRAKE))
    assert control.next(1.0, 4.0) == pytest.approx(1e-2 * 0.5**GAIN)


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
@pytest.mark.parametrize("pack", [0, 1, 3, 64])
def test_symbols_that_cost_nothing_cost_the_least(rows: int, pack: int) -> None:
    """A symbol of probability 65535 / 65536 costs 2e-5 bits."""
    cdf, length, zero = (np.array(each, np.int32) for each in ([[0, 65535, 65536]], [3], [0]))
    likely = Tables(1, cdf, length, zero, np.zeros(1, np.float32))
    payload = make_codec("entropy", 1, tables=likely, pack=pack).encode(
        np.zeros((rows, 1), np.float32)
    )
    assert len(payload) / rows == least_bytes(rows, pack)


@pytest.mark.parametrize("rows", [1, 5, 64])
@pytest.mark.parametrize("scale", [0.1, 1.0, 9.0])
def test_a_string_is_its_bits_in_whole_words_and_its_state(rows: int, scale: float) -> None:
    """A string has 8 + 4 floor(bits / 32) bytes, give or take a word: the state holds 32 bits."""
    coder = EntropyCoder(trained_model().build_tables(1)[0])
    for seed in range(20):
        z = latents(rows, scale, seed)
        payload = coder.encode(z)
        expected = 8 + 4 * (coder.decode(payload, np.empty_like(z)) // 32)
        assert abs(len(payload) - expected) <= 4


@pytest.mark.slow
def test_a_policy_is_steered_to_a_target_and_still_wins() -> None:
    """The game needs 2 bits a decision, so the policy ends below a byte and lambda falls.

    256 decisions share a string.
    """
    rng, game = np.random.default_rng(0), spec(((4,), (4,)), 4)
    algorithm, rollout = learner(game, lr=5e-3, critic_lr=5e-3), new_rollout(game, 256)
    control, rewards, sizes = RateControl(CodecConfig(rate_coef=0.03, target_bytes=1.0)), [], []
    for _ in range(120):
        shown = rng.integers(0, 4, (2, 256))
        see(rollout, np.eye(4, dtype=np.float32)[shown])
        act(algorithm.policy, rollout, rng)
        rollout.rewards[0] = (rollout.actions[:, 0, :, 0] == shown).mean(0)
        rewards.append(rollout.rewards.mean())
        sizes.append(bytes_per_decision(algorithm, rollout))
        algorithm.rate_coef = control.next(1.0, sizes[-1])
        algorithm.update(rollout, 0.0)
    assert sizes[0] > 2.0
    assert 0.5 < np.mean(sizes[-20:]) <= 1.0
    assert algorithm.rate_coef < 0.03
    assert np.mean(rewards[-20:]) > 0.95


def bytes_per_decision(algorithm: object, rollout: object) -> float:
    """Returns the bytes a decision that devices would send for a rollout of one step."""
    sizes = []
    for net, tables in zip(algorithm.policy.groups, algorithm.policy.build_tables(1)):
        with torch.no_grad():
            z = net.encode(net.normalise(torch.from_numpy(rollout.obs[list(net.members), 0])))[
                0
            ].numpy()
        sizes.append(len(EntropyCoder(tables).encode(z)) / len(z))
    return float(np.mean(sizes))


# --- shared tables


def test_a_shared_density_rates_all_agents_as_one() -> None:
    torch.manual_seed(0)
    shared = LatentModel(3, Z, share=True)
    torch.manual_seed(0)
    single = LatentModel(1, Z)
    z = torch.from_numpy(np.stack([latents(20, 2.0, seed) for seed in range(3)]))
    rates = [
        rate_of(model, each, torch.Generator().manual_seed(1)).item()
        for model, each in ((shared, z), (single, z.reshape(1, 60, Z)))
    ]
    assert rates[0] == rates[1]
    assert torch.equal(shared.medians(), single.medians().expand(3, -1))
    assert torch.equal(shared.quantise(z).reshape(1, 60, Z), single.quantise(z.reshape(1, 60, Z)))


def test_agents_that_share_a_density_share_its_tables() -> None:
    torch.manual_seed(0)
    first, *others = LatentModel(3, Z, share=True).build_tables(4)
    assert len(others) == 2
    assert all(tables is first for tables in others)
    apart = trained_model().build_tables(4)
    assert len({to_bytes(tables) for tables in apart}) == len(apart)


@pytest.mark.parametrize("share", [False, True])
def test_an_executor_gets_equal_tables_once_and_codes_with_them_for_all(share: bool) -> None:
    torch.manual_seed(0)
    tables = LatentModel(2, 4, share=share).build_tables(1)
    server, far = Loopback.pair()
    executor, kinds = Executor(far), []

    def step() -> None:
        for message in far.poll():
            kinds.append(message.header.kind)
            executor.handle(message)

    server.attach(step)
    pool = ExecutorPool(server, session_of(SHAPE, codec="entropy"), settings_of(slots=1))
    pool.handshake()
    pool.publish(1, weights(), tables)
    obs = np.random.default_rng(1).normal(size=(2, ROWS, 5)).astype(np.float32)
    pool.sense(0, 1, obs)
    found = pool.latents(0).values
    assert kinds.count(Kind.TABLES) == (1 if share else 2)
    for agent in range(2):
        symbols = found[agent] - tables[agent].medians
        np.testing.assert_allclose(symbols, np.rint(symbols), atol=1e-5)
    assert not pool.faults()


def test_a_tables_payload_names_its_agents() -> None:
    payload = pack_tables([1, 700], b"abc")
    assert payload.hex() == "02000100bc02" + b"abc".hex()
    assert tables_head(2) == 6
    agents, tables = unpack_tables(memoryview(payload))
    assert agents == [1, 700]
    assert tables == b"abc"


@given(st.binary(max_size=8))
def test_a_tables_payload_that_is_cut_short_is_refused(payload: bytes) -> None:
    count = int.from_bytes(payload[:2], "little")
    if len(payload) >= 2 and count and len(payload) >= 2 + 2 * count:
        assert len(unpack_tables(memoryview(payload))[0]) == count
        return
    with pytest.raises(WireError, match="tables"):
        unpack_tables(memoryview(payload))
