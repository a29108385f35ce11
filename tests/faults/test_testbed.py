"""jobs/testbed: namespaces with real links between real ranks, where the machine can have them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest
from emulated import TESTBED, cluster_of, testbed
from launch import ROOT


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_emulator_compiles_without_a_warning(tmp_path: Path) -> None:
    flags = ["-O2", "-Wall", "-Wextra", "-Werror"]
    done = subprocess.run(
        ["cc", *flags, "-o", tmp_path / "netemu", TESTBED / "netemu.c"], capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def test_wrong_words_are_one_line() -> None:
    for words in (
        ["up", "2", "--link", "lan"],
        ["exec", "edge99", "true"],
        ["shape", "edge99", "lte"],
    ):
        done = testbed(*words)
        assert done.code == 2
        assert done.err.startswith("error: ")
        assert done.err.count("\n") == 1


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """Makes two boards that are slow to reach; gives the hostfile."""
    with cluster_of(
        "2", "--link", "ethernet", "delay_us=5000", "--device", "raspberry-pi-5"
    ) as hostfile:
        yield hostfile


@pytest.mark.slow
def test_a_run_on_emulated_hosts_counts_every_byte(cluster: Path, tmp_path: Path) -> None:
    keys = [
        "env.map=3m",
        "placement.assign={}",
        "train.steps=0",
        "train.envs=1",
        "train.slots=1",
        "eval.episodes=2",
    ]
    words = ["mpirun", "--hostfile", str(cluster), "-x", "PYTHONPATH", "-np", "3", sys.executable]
    words += ["-m", "sde_harl.run", "configs/quick.yaml", *keys, f"record.dir={tmp_path}"]
    done = testbed("exec", "server", *words)
    assert done.code == 0, done.out + done.err
    [path] = tmp_path.rglob("run.h5")
    with h5py.File(path) as file:
        assert (
            file["meta"].attrs["emulated"]
            == "links ethernet with delay_us=5000; devices raspberry-pi-5"
        )
        assert [host["host"] for host in json.loads(file["meta"].attrs["hosts"])] == [
            "server",
            "edge1",
            "edge2",
        ]
        assert file["decisions/t_round_trip"][:].min() > 10e6, "5 ms there and 5 back"
    told = subprocess.run(
        [sys.executable, "analysis/resource_consumption.py", path, "--json", "-"],
        cwd=ROOT,
        capture_output=True,
    )
    spans = json.loads(told.stdout)[0]["traffic"]
    assert len(spans) == 6
    assert b"emulated: links ethernet" in told.stderr
    for span in spans:
        claimed = span["frame_bytes"] + 22 * span["messages"] + 66 * span["packets"]
        assert span["counted_bytes"] == pytest.approx(claimed, rel=0.05)
        assert span["messages"] > 50 or span["rank"]


@pytest.mark.slow
def test_doctor_sees_the_hosts_and_names_one_that_is_gone(cluster: Path, tmp_path: Path) -> None:
    ask = ["exec", "server", sys.executable, "-m", "sde_harl", "doctor"]
    done = testbed(*ask, str(cluster), "--", "-x", "PYTHONPATH")
    assert done.code == 0, done.out + done.err
    assert "3 of 3 hosts" in done.out, done.out + done.err
    [board] = [line for line in done.out.splitlines() if line.split()[:1] == ["edge1"]]
    assert "eth0" in board
    more = tmp_path / "hosts"
    more.write_text(cluster.read_text() + "edge3 slots=1\n")
    done = testbed(*ask, str(more), "--timeout", "15", "--", "-x", "PYTHONPATH")
    assert done.code == 2, done.out
    assert "error: edge3: " in done.out, done.out
    assert "3 of 4 hosts" in done.out, done.out


@pytest.mark.slow
def test_links_change_while_hosts_run_and_a_crash_is_cleared_away(cluster: Path) -> None:
    assert testbed("shape", "edge1", "lte").code == 0
    assert "lte" in testbed("status").out
    os.kill(int((cluster.parent / "netemu.pid").read_text()), signal.SIGKILL)
    assert "emulator is not running" in testbed("shape", "edge1", "lte").err
    assert (
        testbed("up", "2", "--link", "ethernet", "delay_us=5000", "--device", "raspberry-pi-5").code
        == 0
    )
