"""doctor on real hosts: this one, through a real mpirun, and one that does not exist."""

from __future__ import annotations

from launch import launch, needs_mpirun
from limits import hang_limit_s

from sde_harl.cli.doctor import Unreached, ask
from sde_harl.cli.probe import from_json


@needs_mpirun
def test_localhost() -> None:
    patient = ["--timeout", f"{hang_limit_s():.0f}"]
    done = launch(1, "-m", "sde_harl", "doctor", "hostfiles/localhost", *patient)
    assert done.code == 0, done.out + done.err
    assert "1 of 1 hosts are fit for a run" in done.out
    assert "good" in done.out


@needs_mpirun
def test_a_host_that_does_not_exist() -> None:
    """Two ranks, over ssh to nowhere: the launch fails or hangs, and the host is named."""
    got = ask("localhost", "no-such-host.invalid", ["--prtemca", "plm_ssh_agent", "false"], 20.0)
    assert isinstance(got, Unreached)


@needs_mpirun
def test_two_ranks_ask_each_other() -> None:
    done = launch(2, "-m", "sde_harl.cli.probe")
    assert done.code == 0, done.err
    [line] = [line for line in done.out.splitlines() if line.startswith("sde_harl.cli.probe ")]
    probe = from_json(line.partition(" ")[2])
    assert probe.host._replace(interfaces=[]) == probe.server._replace(interfaces=[])
    assert probe.round_trip_us > 0
    # Both clocks are one, so that half of the shortest round trip is the largest error.
    assert abs(probe.clock_s) <= probe.round_trip_us * 1e-6
    assert probe.host.coder
