"""doctor: hostfiles, its conclusions from the answers of hosts, its table and its exit code."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from limits import hang_limit_s
from rich.console import Console

from sde_harl.cli import doctor, sweep
from sde_harl.cli.doctor import Unreached, ask, diagnose, examine
from sde_harl.cli.hostfile import check_launcher, read_hosts
from sde_harl.cli.main import main
from sde_harl.cli.probe import Host, Probe, from_json, to_json
from sde_harl.codec import golden
from sde_harl.codec.bottleneck import load_entropy_models
from sde_harl.errors import UserError

SERVER = Host(
    host="server",
    arch="x86_64",
    python="3.11.2",
    numpy="1.26.4",
    package="0.1.0",
    mpi="Open MPI v5.0.11",
    cores=16,
    memory_bytes=64 * 10**9,
    interfaces=["eth0"],
    bridges=[],
    chosen=False,
    coder=True,
    energy="RAPL counters",
    gpu_energy="no GPU",
)
BOARD = SERVER._replace(
    host="edge1", cores=4, memory_bytes=8 * 10**9, energy="not measurable here: no meter"
)
FIRST = Probe(SERVER, SERVER._replace(interfaces=[]), 0.0, 0.0)


def answer(**of_the_board: object) -> Probe:
    return Probe(SERVER, BOARD._replace(**of_the_board), 812.4, 0.0021)  # type: ignore[arg-type]


def diagnosed(answers: dict[str, Probe | Unreached]) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=170)
    code = diagnose([*answers], answers.__getitem__, console)
    assert isinstance(console.file, io.StringIO)
    return code, console.file.getvalue()


def test_hosts_in_good_health() -> None:
    code, text = diagnosed({"server": FIRST, "edge1": answer()})
    assert code == 0
    lines = {line.split()[0]: line for line in text.splitlines() if line.split()}
    assert "eth0" in lines["server"]
    assert "812" in lines["edge1"]
    assert "+2.1" in lines["edge1"]
    assert "server: energy: RAPL counters" in text
    assert "edge1: energy: not measurable here: no meter" in text
    assert "server, edge1: GPU's energy: no GPU" in text
    assert "8.0 GB" in lines["edge1"]
    assert "5.0.11" in lines["edge1"]
    assert "2 of 2 hosts are fit for a run" in text
    assert "error" not in text
    assert "warning" not in text


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({"package": "0.0.9"}, "error", "sde_harl is 0.0.9, on server 0.1.0"),
        ({"mpi": "Open MPI v4.1.2"}, "error", "Open MPI is Open MPI v4.1.2"),
        ({"coder": False}, "error", "rANS coder makes other bytes"),
        ({"arch": "aarch64"}, "warning", "--pmixmca gds hash"),
        ({"bridges": ["docker0"]}, "warning", "MPI may take docker0"),
    ],
)
def test_a_fault_is_named_with_its_host(change: dict[str, object], level: str, words: str) -> None:
    [finding] = examine({"server": FIRST, "edge1": answer(**change)})
    assert (finding.level, finding.host) == (level, "edge1")
    assert words in finding.text
    code, text = diagnosed({"server": FIRST, "edge1": answer(**change)})
    assert code == (2 if level == "error" else 0)
    assert f"{level}: edge1: " in text


def test_a_bridge_is_fine_where_the_interface_was_chosen() -> None:
    assert examine({"server": FIRST, "edge1": answer(bridges=["docker0"], chosen=True)}) == []


def test_a_wrong_clock_is_a_warning() -> None:
    [finding] = examine({"server": FIRST, "edge1": answer()._replace(clock_s=-90.0)})
    assert finding.level == "warning"
    assert "-90.0 s" in finding.text


def test_silent_hosts_are_named() -> None:
    code, text = diagnosed(
        {"server": FIRST, "edge1": Unreached("no answer in 30 s"), "edge2": answer()}
    )
    assert code == 2
    assert "error: edge1: no answer in 30 s" in text
    assert "2 of 3 hosts" in text
    code, text = diagnosed({"server": Unreached("a"), "edge1": Unreached("b")})
    assert code == 2
    assert "0 of 2 hosts" in text


def test_an_answer_survives_json_and_nothing_else_does() -> None:
    probe = answer()
    assert from_json(to_json(probe)) == probe
    fields = json.loads(to_json(probe))
    for wrong in (
        {**fields, "clock_s": "0"},
        {**fields, "more": 1},
        {**fields, "host": []},
        {**fields, "host": {**fields["host"], "cores": True}},
        {**fields, "host": {**fields["host"], "bridges": [1]}},
        {**fields, "host": {key: value for key, value in fields["host"].items() if key != "coder"}},
    ):
        with pytest.raises(ValueError, match=r"not a probe|not a host|of a host is"):
            from_json(json.dumps(wrong))


def test_hostfiles(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text(
        "# boards\nserver slots=1\nedge1 slots = 1 max_slots=2  # the first\n\nedge1\n10.0.0.3\n"
    )
    assert read_hosts(file) == ["server", "edge1", "10.0.0.3"]
    for text, words in (
        ("server\nedge1 slot=1\n", "hosts:2: expected NAME slots=N"),
        ("# none\n", "no hosts"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=words):
            read_hosts(file)
    assert main(["doctor", str(tmp_path / "missing")]) == 2


def test_a_launcher_that_hangs_or_fails_is_a_host_not_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "mpirun"
    monkeypatch.setattr(doctor, "find_mpirun", lambda: str(script))
    for body, reason in (
        ("sleep 60", "no answer in 0.3 s"),
        ("echo ------ >&2; echo ssh: connect to host edge1 port 22: No route to host >&2; exit 255",
         "mpirun ended with 255: ssh: connect to host edge1 port 22: No route to host"),
        ("echo 'sde_harl.cli.probe {}'", "mpirun ended with 0: and said nothing"),
    ):  # fmt: skip
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
        got = ask("server", "edge1", [], 0.3 if "sleep" in body else hang_limit_s())
        assert isinstance(got, Unreached)
        assert got.reason.startswith(reason)


def test_the_golden_bytes_are_compressais() -> None:
    """CompressAI's own coder makes the same bytes over the same integer tables."""
    load_entropy_models()  # a light package, in which the coder is found
    from compressai import ans

    tables = golden.TABLES
    symbols = np.rint(golden.LATENTS - tables.medians).astype(int).ravel().tolist()
    indexes = [0, 1] * len(golden.LATENTS)
    rows = [row[:length].tolist() for row, length in zip(tables.cdf, tables.lengths)]
    theirs = ans.RansEncoder().encode_with_indexes(
        symbols, indexes, rows, tables.lengths.tolist(), tables.offsets.tolist()
    )
    assert theirs == golden.PAYLOAD
    assert golden.coder_agrees()


def test_another_coder_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "PAYLOAD", golden.PAYLOAD[:-1] + b"\0")
    assert not golden.coder_agrees()


# ---- names that ssh would take for options


@pytest.mark.parametrize("name", ["-oProxyCommand=touch${IFS}/tmp/x", "--", "-1 slots=1"])
def test_a_host_can_not_begin_with_a_dash(name: str, tmp_path: Path) -> None:
    """ssh would take it for an option, and some of those run programs."""
    file = tmp_path / "hosts"
    file.write_text(f"server slots=1\n\n  {name}  # a comment\n")
    with pytest.raises(UserError, match=rf"^{file}:3: expected NAME slots=N, got '-"):
        read_hosts(file)
    for option in ("--hostfile", "-hostfile", "--machinefile", "--default-hostfile"):
        with pytest.raises(UserError, match=rf"^{file}:3: expected the name of a host, got '-"):
            check_launcher(["mpirun", "-np", "3", option, str(file)], "--mpirun")


@pytest.mark.parametrize("option", ["--host", "-host", "-H"])
def test_the_options_of_an_mpirun_name_hosts_too(option: str) -> None:
    check_launcher(["mpirun", option, "a:1,b-c:2", "--mca", "btl", "tcp,self"], "--mpirun")
    with pytest.raises(UserError, match=r"^--mpirun: expected the name of a host, got '-oX'"):
        check_launcher(["mpirun", option, "a,-oX"], "--mpirun")


def test_a_hostfile_of_other_words_is_left_to_mpirun(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("server slots=2 max_slots=4 username=me\n# -x\nuser@edge1\n+n1\n")
    check_launcher(["mpirun", "--hostfile", str(file)], "--mpirun")


@pytest.mark.usefixtures("kept_signals")
def test_a_sweep_looks_at_its_hostfile_before_it_starts_a_run(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("-oProxyCommand=x\n")
    words = ["quick", "seed=1,2", f"record.dir={tmp_path}"]
    with pytest.raises(UserError, match=rf"^{file}:1: "):
        sweep.main([*words, "--mpirun", f"mpirun -np 3 --hostfile {file}"])


def test_the_emulated_cluster_has_no_such_host(tmp_path: Path) -> None:
    onhost = Path(__file__).parents[2] / "jobs" / "testbed" / "onhost"
    ended = subprocess.run([onhost, "-x", "true"], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == "onhost: expected the name of a host, got '-x'\n"


def test_without_a_hostfile_this_host_is_asked(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def answer(server: str, host: str, options: list[str], timeout_s: float) -> Probe:
        asked.append((server, host))
        return FIRST

    monkeypatch.setattr(doctor, "ask", answer)
    assert main(["doctor"]) == 0
    assert asked == [("localhost", "localhost")]
    assert "1 of 1 hosts are fit for a run" in capfd.readouterr().out
