"""The time limits of the tests themselves."""

from __future__ import annotations

import os

import limits
import pytest
from limits import SLOWNESS, hang_limit_s, slowness, wait_until


@pytest.mark.parametrize(("start_s", "factor"), [(0.01, 1.0), (6.0, 50.0)])
def test_limits_grow_with_the_time_that_a_start_takes(
    start_s: float, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SLOWNESS)
    monkeypatch.setattr(limits, "time_start", lambda: start_s)
    assert slowness() == factor
    assert hang_limit_s(7.0) == 7.0 * factor


def test_a_session_measures_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "time_start", lambda: pytest.fail("measured again"))
    assert slowness() == float(os.environ[SLOWNESS]) >= 1.0


def test_the_limit_of_a_test_is_in_effect(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("timeout") is None:
        assert pytestconfig._env_timeout == float(os.environ["PYTEST_TIMEOUT"])  # type: ignore[attr-defined]


def test_a_wait_ends_with_what_it_waits_for_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([False, False, True])
    wait_until(lambda: next(looks), "the third look")
    with pytest.raises(pytest.fail.Exception, match="ended without: a sign"):
        wait_until(lambda: False, "a sign", is_alive=lambda: False)
    monkeypatch.setattr(limits, "hang_limit_s", lambda: 0.0)
    with pytest.raises(pytest.fail.Exception, match="in vain for: a sign"):
        wait_until(lambda: False, "a sign")
