"""The profiles of links and devices in jobs/testbed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from emulated import TESTBED

sys.path.insert(0, str(TESTBED))
import profiles
from profiles import Device, ProfileError, Way

TEXT = """
[link.radio]
medium = 3
delay_us = 100
rate_mbit = 10
[link.radio.down]
rate_mbit = 20.5
[link.wire]
[link.bad]
delay_us = "soon"
[link.typo]
dealy_us = 1
[link.wide]
medium = 64
[device.board]
cores = 0.25
[device.none]
[device.brick]
cores = 0
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "profiles.toml"
    path.write_text(TEXT)
    return path


def test_a_link_and_its_directions(file: Path) -> None:
    link = profiles.link("radio", file=file)
    assert link == ("radio", 3, Way(100, rate_mbit=10), Way(100, rate_mbit=20.5))
    assert link.down.line() == "100 0 0 20500000 0"
    assert profiles.link("wire", file=file) == ("wire", -1, Way(), Way())


def test_figures_in_the_place_of_a_profiles(file: Path) -> None:
    link = profiles.link("radio", ["delay_us=5", "up.loss_percent=2.5"], file)
    assert link.name == "radio with delay_us=5 up.loss_percent=2.5"
    assert link.up == Way(5, 0, 2.5, 10)
    assert link.down == Way(5, 0, 0, 20.5)


def test_devices(file: Path) -> None:
    assert profiles.device("board", file) == Device("board", 0.25)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lan"], "lan: no such link; there are radio, wire"),
        (["bad"], "bad: up.delay_us: expected a number, got 'soon'"),
        (["typo"], "typo: dealy_us: no such figure; there are delay_us"),
        (["wide"], "medium: expected -1 to 63, got 64"),
        (["radio", "loss_percent=101"], "up.loss_percent: expected 0 to 100, got 101"),
        (["radio", "delay_us=-1"], "expected 0 to 6e"),
        (["radio", "delay_us=nan"], "expected a number, got 'nan'"),
        (["radio", "delay_us"], "expected a number, got ''"),
        (["radio", "across.delay_us=1"], "expected up or down before the dot"),
        (["radio", "medium=1"], "medium: no such figure"),
    ],
)
def test_a_wrong_link_is_named(file: Path, words: list[str], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        profiles.link(words[0], words[1:], file)


@pytest.mark.parametrize(
    ("name", "message"), [("none", "expected a number"), ("brick", "0.01 to"), ("x", "no such")]
)
def test_a_wrong_device_is_named(file: Path, name: str, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        profiles.device(name, file)


def test_every_shipped_profile_can_be_emulated() -> None:
    for name in ("ethernet", "wifi5-20mhz", "wifi6", "lte"):
        assert profiles.link(name).name == name
    for name in ("raspberry-pi-5", "jetson-nano"):
        assert 0 < profiles.device(name).cores < 1
