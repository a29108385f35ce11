"""analysis/prototype.py, and bytes claimed against bytes counted, on files with known figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from analysis_runs import META, record, run
from filled import add

from sde_harl.record.writer import RunFile

SPLIT = "policy: {blocks: 3, local_blocks: 1}"


def measured(folder: Path, config: str = SPLIT, codec: str = "entropy", **meta: str) -> Path:
    """Writes a run of 10 decisions of one agent on edge1.

    A decision takes 1 ms at the device, 9 ms until the action, and 20 bytes of payload.
    """
    folder.mkdir(parents=True)
    hosts = json.dumps([{"host": "server", "energy": "none"}, {"host": "edge1", "energy": "none"}])
    file = RunFile(
        folder / "run.h5",
        {**META, "config": config, "codec": codec, "hosts": hosts, **meta},
        "stop",
    )
    times = {
        "t_local": 1_000_000,
        "t_encode": 10_000,
        "t_round_trip": 8_990_000,
        "t_decode": 1000,
        "t_policy": 5000,
    }
    other = {
        "agent": 0,
        "rank": 1,
        "environments": 1,
        "payload_bytes": 20,
        "wire_bytes": 52,
        "ideal_bits": 100.0,
        "version": 1,
        "train": False,
        "t_decision": 9_000_000,
        **dict.fromkeys(("deadline_missed", "late", "idle", "latent_age"), 0),
    }
    columns = {name: np.full(10, value) for name, value in {**times, **other}.items()}
    add(file, "decisions", step=np.arange(10), **columns)
    unknown = dict.fromkeys(("joules", "gpu_joules", "idle_w", "gpu_idle_w"), np.nan)
    for k in range(2):
        add(
            file,
            "resources",
            rank=[0, 1],
            step=[k, k],
            time_s=[k, k],
            cpu_s=[9.0 * k, 0.5 + 0.001 * k],
            rss_bytes=[1, 1],
            peak_rss_bytes=[1, 1],
            **{key: [v, v] for key, v in unknown.items()},
        )
        for rank, packets in ((0, 18), (1, 20)):
            claimed = 520 + 22 * 10 + 66 * packets
            add(
                file,
                "traffic",
                rank=rank,
                step=k,
                sent=5 + 10 * k,
                received=0,
                sent_bytes=100 + 520 * k,
                received_bytes=0,
                carried_sent_bytes=7 + (claimed + 41) * k,
                carried_received_bytes=-1,
                carried_sent_packets=3 + packets * k,
                carried_received_packets=-1,
            )
    file.close()
    assert file.failed is None
    return folder / "run.h5"


def test_bytes_claimed_are_held_against_the_interfaces(tmp_path: Path) -> None:
    path = measured(tmp_path / "a", emulated="links lte")
    spans = json.loads(run("resource_consumption.py", path, "--json", "-").stdout)[0]["traffic"]
    assert [(span["rank"], span["way"]) for span in spans] == [(0, "sent"), (1, "sent")], (
        "received is unknown"
    )
    figures = {"messages": 10, "frame_bytes": 520, "packets": 20, "counted_bytes": 2101}
    assert spans[1] == {"rank": 1, "way": "sent", **figures}
    result = run("resource_consumption.py", path)
    assert "2,060        2,101    +2.0%" in result.stdout
    assert "with MPI/TCP headers: 210.1 bytes" in result.stdout
    assert "emulated: links lte" in result.stdout
    assert f"{path}: emulated: links lte" in result.stderr


def test_the_split_is_held_against_what_it_replaces(tmp_path: Path) -> None:
    paths = [
        measured(tmp_path / "server", "policy: {blocks: 3, local_blocks: 0}", "float32"),
        measured(tmp_path / "one"),
        measured(tmp_path / "two"),
        measured(tmp_path / "device", "policy: {blocks: 3, local_blocks: 3}", "none"),
        measured(tmp_path / "latents", SPLIT, "float32"),
    ]
    setups = json.loads(run("prototype.py", *paths, "--json", "--plot", tmp_path / "p.png").stdout)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    names = ["split, coded", "split, float32", "all on the server", "all on the devices"]
    assert [setup["name"] for setup in setups] == names
    assert [setup["runs"] for setup in setups] == [2, 1, 1, 1]
    assert setups[0]["decisions"] == 20
    assert [setup["latency"]["p50"] for setup in setups] == pytest.approx(
        [10_000, 10_000, 10_000, 1000]
    )
    assert setups[0]["network"] == 210.1
    assert setups[0]["frame"] == 52
    assert setups[0]["payload"] == 20
    assert setups[0]["device_cpu_us"] == pytest.approx(100)
    assert setups[0]["device_mj"] is None
    assert setups[0]["excess"] == pytest.approx(41 / (520 + 220 + 66 * 18))
    assert setups[3]["against_coded"]["latency p50"] == pytest.approx(0.1)
    text = run("prototype.py", *paths).stdout
    assert "real links" in text
    assert "within 2.1% of those claimed" in text


def test_runs_that_are_not_alike_are_not_compared(tmp_path: Path) -> None:
    coded, other = measured(tmp_path / "a"), measured(tmp_path / "b", emulated="links lte")
    assert f"{other}: smax/3m on links lte" in run("prototype.py", coded, other, code=2).stderr
    plain = measured(tmp_path / "c", SPLIT, "float32")
    assert "none of the runs is of a coded split" in run("prototype.py", plain, code=2).stderr
    assert (
        "1 local blocks with int8"
        in run("prototype.py", measured(tmp_path / "d", SPLIT, "int8"), code=2).stderr
    )
    assert (
        "tell policy.local_blocks"
        in run("prototype.py", measured(tmp_path / "e", "seed: 1"), code=2).stderr
    )
    assert "no decisions" in run("prototype.py", record(tmp_path / "f", rows=False), code=2).stderr
    wider = measured(tmp_path / "g", "policy: {blocks: 3, local_blocks: 2}")
    refused = run("prototype.py", coded, wider, code=2).stderr
    told = f"{wider}: policy.local_blocks 2, but {coded}: policy.local_blocks 1; the runs of one"
    assert told in refused
