"""Random draws that depend on their counter alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sde_harl.draws import _philox
from sde_harl.draws.counters import Draw, Purpose, derived_seed, generator


def draw(
    *, step: int = 5, first: int = 0, agents: tuple[int, ...] = (0, 1, 2), seed: int = 3
) -> Draw:
    return Draw(seed, Purpose.ACTING, step, first, np.array(agents, np.int32))


def test_the_words_are_those_of_numpys_philox() -> None:
    numbers = draw(step=123, first=32, agents=(4, 2**31 - 1), seed=2**63 + 7).uniform(3, 13)
    for n, agent in enumerate((4, 2**31 - 1)):
        for e in range(3):
            counter = np.array([0, 123, 32 + e, agent], np.uint64)
            key = np.array([2**63 + 7, Purpose.ACTING], np.uint64)
            words = np.random.Philox(counter=counter, key=key).random_raw(7).view("<u4")[:13]
            expected = ((words >> 9) + 0.5) * 2.0**-23
            assert np.array_equal(numbers[n, e].astype(np.float64), expected)


@pytest.mark.parametrize("law", ["uniform", "standard_exponential", "standard_normal"])
def test_numbers_do_not_depend_on_who_draws_them_and_how_many_at_a_time(law: str) -> None:
    together = getattr(draw(), law)(6, 5)
    assert np.array_equal(getattr(draw(agents=(1,)), law)(6, 5)[0], together[1])
    assert np.array_equal(getattr(draw(first=4), law)(2, 5), together[:, 4:])
    assert np.array_equal(getattr(draw(), law)(6, 3), together[:, :, :3])


def test_every_part_of_the_counter_and_the_key_matters() -> None:
    others = [draw(step=6), draw(first=1), draw(agents=(1, 2, 3)), draw(seed=4)]
    others.append(draw()._replace(purpose=Purpose.LINK))
    drawn = [each.uniform(1, 4).ravel().tolist() for each in [draw(), *others]]
    assert len({tuple(numbers) for numbers in drawn}) == len(drawn)
    first = draw().uniform(1, 4)[1], draw(agents=(1,)).uniform(1, 4)[0]
    assert np.array_equal(*first)


@pytest.mark.parametrize(
    ("law", "distribution"),
    [
        ("uniform", stats.uniform),
        ("standard_exponential", stats.expon),
        ("standard_normal", stats.norm),
    ],
)
def test_numbers_follow_their_law(law: str, distribution: stats.rv_continuous) -> None:
    numbers = getattr(draw(agents=(0,)), law)(20_000, 5).ravel()
    assert stats.kstest(numbers, distribution.cdf).pvalue > 0.01


def test_laws_are_the_quantiles_of_the_uniform_numbers() -> None:
    uniform = draw().uniform(5000, 8).astype(np.float64)
    np.testing.assert_allclose(
        draw().standard_exponential(5000, 8), -np.log(uniform), rtol=2e-7, atol=1e-7
    )
    np.testing.assert_allclose(
        draw().standard_normal(5000, 8), stats.norm.ppf(uniform), rtol=2e-6, atol=1e-6
    )


def test_numbers_are_the_same_on_every_machine() -> None:
    """Golden bytes: an executor on ARM has to draw what the server would."""
    exponential = draw().standard_exponential(1, 2)[1, 0]
    normal = draw().standard_normal(1, 2)[1, 0]
    assert (
        exponential.tobytes().hex() + normal.tobytes().hex() == "3bd2863fb2c8703fddf5c6be79778ebe"
    )


def test_generators_of_steps_are_their_own() -> None:
    drawn = [generator(1, Purpose.LEARNING, step).random() for step in (0, 1)]
    drawn.append(generator(1, Purpose.DISTILLATION, 0).random())
    drawn.append(generator(2, Purpose.LEARNING, 0).random())
    assert len(set(drawn)) == 4
    assert drawn[0] == generator(1, Purpose.LEARNING, 0).random()
    assert 0 <= derived_seed(1, Purpose.LEARNING, 7) < 2**31


@pytest.mark.parametrize(
    ("agents", "out"),
    [
        (np.zeros(2, np.int64), np.zeros((2, 1, 1), np.float32)),
        (np.zeros(3, np.int32), np.zeros((2, 1, 1), np.float32)),
        (np.zeros(2, np.int32), np.zeros((2, 1), np.float32)),
        (np.zeros(2, np.int32), np.zeros((2, 1, 1))),
    ],
    ids=["int64 agents", "other agents", "two dimensions", "float64"],
)
def test_wrong_arrays_are_refused(agents: np.ndarray, out: np.ndarray) -> None:
    with pytest.raises(ValueError, match="fill takes"):
        _philox.fill(_philox.UNIFORM, 0, 1, 2, 3, agents, out)
