"""Golden vectors on this host, against others' code, and on an emulated ARM host."""

from __future__ import annotations

import json
import platform
import shutil
import struct
import sys
import zlib
from pathlib import Path

import golden
import h5py
import numpy as np
import pytest
from launch import MPIRUN, ROOT, environment, launch_command
from limits import hang_limit_s

from sde_harl.codec.bottleneck import load_entropy_models
from sde_harl.codec.coder import LIMIT
from sde_harl.codec.tables import Tables, from_bytes
from sde_harl.link.wire import Kind

VECTORS: golden.Vectors = json.loads(golden.FILE.read_text())
ARM_TOOLS = ("qemu-aarch64-static", "aarch64-linux-gnu-gcc", "apt-get", "dpkg")
ARM_TOOLS += ("/usr/share/keyrings/debian-archive-keyring.gpg",)


def test_all_hold_here() -> None:
    assert golden.differences(VECTORS) == []
    assert {vector["header"][0] for vector in VECTORS["frames"]} == set(Kind)


@pytest.mark.parametrize(
    ("part", "field"), [("strings", "payload"), ("nets", "latents"), ("meters", "payload")]
)
def test_one_that_differs_is_named(part: str, field: str) -> None:
    vectors: golden.Vectors = json.loads(golden.FILE.read_text())
    text = vectors[part][0][field]
    vectors[part][0][field] = text[:-1] + ("0" if text[-1] != "0" else "1")
    assert golden.differences(vectors) == [f"{part}[0].{field}"]


def test_one_that_cant_be_made_is_named() -> None:
    vectors: golden.Vectors = json.loads(golden.FILE.read_text())
    vectors["tables"][1]["bytes"] = "00" + vectors["tables"][1]["bytes"][2:-2]
    assert [each.partition(":")[0] for each in golden.differences(vectors)] == [
        "tables[1].ValueError"
    ]


def test_frames_are_what_the_layout_says() -> None:
    for vector in VECTORS["frames"]:
        payload = bytes.fromhex(vector["payload"])
        head = struct.pack("<4sBBHIIHHII", b"SDEH", 7, *vector["header"], len(payload))
        assert (
            vector["frame"]
            == (head + payload + struct.pack("<I", zlib.crc32(head + payload))).hex()
        )


def test_strings_are_compressais() -> None:
    """One string for all rows, by CompressAI's own coder, of integers that numpy has rounded."""
    load_entropy_models()  # compressai's package itself may fail to import
    from compressai import ans

    whole = [each for each in VECTORS["strings"] if each["codec"] == "entropy" and not each["pack"]]
    for vector in whole:
        tables = from_bytes(bytes.fromhex(vector["tables"]))
        symbols = symbols_of(tables, golden.floats(vector["latents"], vector["shape"]))
        channels = [*range(len(tables.lengths))] * len(symbols)
        code = [each.tolist() for each in (tables.cdf, tables.lengths, tables.offsets)]
        theirs = ans.RansEncoder().encode_with_indexes(symbols.ravel().tolist(), channels, *code)
        assert vector["payload"] == theirs.hex()
        assert vector["decoded"] == golden.hex_of(symbols.astype(np.float32) + tables.medians)
    assert len(whole) == 10


def symbols_of(tables: Tables, z: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(z - tables.medians), -LIMIT, LIMIT).astype(np.int32)


def test_nets_are_exact() -> None:
    """Computed in integers, where no rounding can hide."""
    vector = VECTORS["nets"][0]
    obs = np.rint(golden.floats(vector["obs"], (2, 3, 5)) * 8).astype(int)
    flat = np.rint(golden.floats(vector["weights"], (-1,)) * 16).astype(int)
    parts = np.split(flat, np.cumsum([2 * 5 * 8, 2 * 8, 2 * 8 * 6]))
    w1, b1, w2, b2 = (
        part.reshape(each)
        for part, each in zip(parts, [(2, 5, 8), (2, 1, 8), (2, 8, 6), (2, 1, 6)])
    )
    latents = np.maximum(obs @ w1 + 8 * b1, 0) @ w2 + 8 * 16 * b2  # in units of 1 / (8 * 16 * 16)
    assert np.array_equal(golden.floats(vector["latents"], (2, 3, 6)) * 2048, latents)


@pytest.mark.slow
@pytest.mark.timeout(hang_limit_s(1800.0))
@pytest.mark.skipif(platform.machine() != "x86_64", reason="this host is no x86-64")
def test_an_arm_host_agrees_and_plays(tmp_path: Path) -> None:
    missing = [
        tool for tool in ARM_TOOLS if shutil.which(tool) is None and not Path(tool).is_file()
    ]
    missing += ["mpirun"] * (MPIRUN is None)
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    words = ["env.name=mpe", "env.map=simple_spread", f"record.dir={tmp_path}/results"]
    env = {**environment(), "PATH": f"{Path(sys.executable).parent}:{environment()['PATH']}"}
    script = [str(ROOT / "jobs/aarch64.sh"), str(tmp_path / "arm"), *words]
    done = launch_command(script, env=env, base_s=1500.0)
    assert done.code == 0, done.out + done.err
    assert "golden vectors on aarch64" in done.out
    assert "all hold" in done.out
    with h5py.File(next((tmp_path / "results").rglob("run.h5"))) as run:
        assert [host["arch"] for host in json.loads(run["meta"].attrs["hosts"])] == [
            "x86_64",
            "aarch64",
        ]
        assert run["decisions/environments"][:].sum() >= 1000
        assert len(run["faults/rank"]) == 0
