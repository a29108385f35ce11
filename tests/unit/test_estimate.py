"""The estimate: its sums, its parts as measured here, and its error against a run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from analysis_runs import opened_to_change
from split_runs import ROWS, record

from sde_harl.cli.estimate import CostEstimate, Link, against, errors, pick, predict
from sde_harl.cli.main import main
from sde_harl.cli.policy_cost import PolicyCost, count, from_run, measure
from sde_harl.config.schema import CodecConfig, Config, PolicyConfig, TrainConfig
from sde_harl.envs.base import EnvSpec
from sde_harl.errors import UserError
from sde_harl.link.wire import OVERHEAD
from sde_harl.record.reader import open_run

PART = PolicyCost(
    2,
    "entropy",
    rows=4,
    agents=3,
    local_us=30,
    encode_us=10,
    decode_us=5,
    policy_us=50,
    payload_bytes=80,
)
SPEC = EnvSpec("odd/two", ("a", "b"), (6, 9), ((3,), (4,)), 5, 0, False, ("", ""), False)
LINK = ["--rate-mbit", "8", "--rtt-ms", "2"]


def test_the_sums() -> None:
    estimate = predict(PART, Link(rate_mbit=8.0, rtt_ms=2.0), device_factor=4.0)
    assert estimate.device_us == 4 * (30 + 10)
    assert estimate.link_us == 2000 + (80 + 4 * 4 + 2 * OVERHEAD), (
        "8 Mbit/s is a byte a microsecond"
    )
    assert estimate.server_us == 3 * 5 + 50
    assert estimate.latency_us == estimate.device_us + estimate.link_us + estimate.server_us
    assert estimate.up_bytes == 80 / 4
    assert estimate.device_us_per_decision == 40


def test_a_whole_policy_takes_its_devices_time_alone() -> None:
    estimate = predict(PART._replace(codec="none", encode_us=0.0), Link(8.0, 2.0), 4.0)
    assert estimate == CostEstimate(120.0, 0.0, 0.0, 20.0, 4)


def test_a_slow_link_and_a_slow_device_pull_in_opposite_ways() -> None:
    whole = PART._replace(local_blocks=3, codec="none", local_us=100, encode_us=0, payload_bytes=32)
    cut = PART._replace(local_blocks=1, local_us=20)

    def picked(link: Link, factor: float, objective: str) -> PolicyCost:
        return pick({part: predict(part, link, factor) for part in (whole, cut)}, objective)

    assert picked(Link(72.0, 4.0), 1.0, "latency") is whole
    assert picked(Link(1000.0, 0.1), 100.0, "latency") is cut
    assert picked(Link(72.0, 4.0), 1.0, "device") is cut
    assert picked(Link(72.0, 4.0), 1.0, "bytes") is whole


def test_of_equals_the_one_with_less_on_the_device_is_picked() -> None:
    more = PART._replace(local_blocks=3)
    assert (
        pick({part: predict(part, Link(8.0, 2.0), 1.0) for part in (more, PART)}, "latency") is PART
    )


@pytest.mark.parametrize("recurrent", [False, True])
def test_every_split_and_codec_is_measured_here(recurrent: bool) -> None:
    policy = PolicyConfig(blocks=2, local_blocks=1, width=8, latent=4, recurrent=recurrent)
    config = Config(policy=policy, codec=CodecConfig(), train=TrainConfig(envs=6))
    parts = list(measure(config, SPEC))
    assert len(parts) == count(config) == 9
    assert {(part.rows, part.agents) for part in parts} == {(3, 2)}
    sizes = {(part.local_blocks, part.codec): part.payload_bytes for part in parts}
    assert sizes[0, "float32"] == 3 * 4 * 6, "agent 0 sees 6 numbers, sends 4"
    assert sizes[1, "float32"] == 3 * 4 * 4, "agent 0 sees 6 numbers, sends 4"
    assert sizes[0, "int8"] == 3 * (4 + 6)
    assert sizes[1, "float16"] == 3 * 2 * 4
    assert 0 < sizes[1, "entropy"] < sizes[1, "float32"]
    assert all(math.isfinite(part.local_us) and part.local_us > 0 for part in parts)
    assert all((part.encode_us > 0) == (part.codec != "none") for part in parts)
    assert parts[-1].codec == "none", "a choice and its log-probability"
    assert sizes[2, "none"] == 3 * (4 + 4), "a choice and its log-probability"


def test_a_runs_parts_are_its_medians(tmp_path: Path) -> None:
    part, seen = from_run(record(tmp_path / "a", 2))
    assert part == PolicyCost(2, "entropy", ROWS, 2, 20.0, 5.0, 20.0, 80.0, 28.0)
    assert seen == (25.0, 500.0, 525.0, 28.0)
    whole, seen = from_run(record(tmp_path / "b", 3, "none"))
    assert whole == PolicyCost(3, "none", ROWS, 2, 30.0, 0.0, 0.0, 0.0, 28.0)
    assert seen == (30.0, 0.0, 30.0, 28.0)


def test_the_error_is_told_against_a_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path / "a", 2)
    part, seen = from_run(path)
    link = Link(rate_mbit=8.0, rtt_ms=0.2)
    estimate, _ = against(path, {part: predict(part, link, 2.0)})
    on_link = 200 + 28 + 4 * ROWS + 2 * OVERHEAD
    assert errors(estimate, seen) == [
        ("device us", 50.0, 25.0),
        ("link and server us", on_link + 2 * 20 + 80, 500.0),
        ("latency us", 50 + on_link + 120, 525.0),
        ("payload B a decision", 7.0, 7.0),
    ]
    words = ["--measured", str(path), "--rate-mbit", "8", "--rtt-ms", "0.2", "--device-factor", "2"]
    assert main(["estimate", *words, "--against", str(path)]) == 0
    out = capfd.readouterr().out
    assert "ESTIMATE, not a measurement" in out
    assert "<- least latency" in out
    assert "+100%" in out


def test_rows_that_a_killed_writer_left_short_are_left_out(tmp_path: Path) -> None:
    path = record(tmp_path / "a", 2)
    with opened_to_change(path) as file:
        file["decisions/t_policy"].resize((150,))
    assert {len(column) for column in open_run(path).table("decisions").values()} == {150}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "give a configuration"),
        (["configs/quick.yaml", "--measured", "x.h5"], "give a configuration"),
        (["--measured", "/no/such.h5"], "/no/such.h5: no such file"),
        (["--measured", str(Path(__file__).parent)], "unit: there is no run.h5 in it"),
        (["configs/quick.yaml", "policy.widht=3"], "did you mean policy.width?"),
    ],
)
def test_what_is_wrong_is_one_line(
    words: list[str], complaint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", *words, *LINK]) == 2
    error = capfd.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_a_run_that_the_plan_has_nothing_like_is_named(tmp_path: Path) -> None:
    path = record(tmp_path / "a", 2)
    with pytest.raises(
        UserError, match=r"nothing like it .2 local blocks, entropy, 4 decisions a message"
    ):
        against(path, {PART._replace(rows=1): predict(PART, Link(8.0, 2.0), 1.0)})


def test_a_run_without_times_is_named(tmp_path: Path) -> None:
    path = record(tmp_path / "a", 0)  # no block: a local net of no time at all
    with pytest.raises(UserError, match="no times were measured"):
        from_run(path)
