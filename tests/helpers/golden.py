"""Golden vectors: bytes that every host must make and read alike.

Their processor, Python and numpy must make no difference.

    python tests/helpers/golden.py            # check this host against tests/helpers/golden.json
    python tests/helpers/golden.py --write    # after a change of the wire

A change of the wire raises its protocol number (frames.c).

It needs what an executor needs, so that a board can check its build. Floats are stored as their
bits. The local nets' numbers are small dyadic fractions: every product and sum is exact, in
whatever order a processor takes them.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Dict, List

import numpy as np

from sde_harl.codec.registry import PLAIN, make_codec
from sde_harl.codec.tables import MAX_LENGTH, TOTAL, Tables, from_bytes, to_bytes
from sde_harl.link.wire import Header, Kind, frame_of, unpack
from sde_harl.policy.inference.local_nets import LocalNets
from sde_harl.policy.shapes import LocalShape, local_parameter_shapes
from sde_harl.protocol.resources import Resources, pack_meter, unpack_meter

FILE = Path(__file__).with_suffix(".json")
FLOATS = "<f4"
Vectors = Dict[str, List[Dict[str, Any]]]
"""By part: frames, tables, strings, meters, nets."""


def hex_of(values: np.ndarray) -> str:
    return values.astype(FLOATS).tobytes().hex()


def floats(text: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(text), FLOATS).reshape(shape).astype(np.float32)


# --- one vector of each part, made on this host from its inputs


def frame(asked: dict[str, Any]) -> dict[str, Any]:
    made = frame_of(
        Header(Kind(asked["header"][0]), *asked["header"][1:]), bytes.fromhex(asked["payload"])
    )
    message = unpack(1, memoryview(made), asked["header"][2])
    return {
        "frame": made.hex(),
        "header": [int(field) for field in message.header],
        "payload": message.payload.hex(),
    }


def table(asked: dict[str, Any]) -> dict[str, Any]:
    """Returns the bytes that a device which got these would send on."""
    tables = from_bytes(bytes.fromhex(asked["bytes"]))
    return {
        "bytes": to_bytes(tables).hex(),
        "digest": tables.digest.hex(),
        "lengths": tables.lengths.tolist(),
    }


def string(asked: dict[str, Any]) -> dict[str, Any]:
    rows, latent = asked["shape"]
    tables = from_bytes(bytes.fromhex(asked["tables"])) if asked["tables"] else None
    codec = make_codec(asked["codec"], latent, tables=tables, pack=asked["pack"])
    payload, out = (
        codec.encode(floats(asked["latents"], (rows, latent))),
        np.empty((rows, latent), np.float32),
    )
    codec.decode(payload, out)
    return {"payload": payload.hex(), "decoded": hex_of(out)}


def meter(asked: dict[str, Any]) -> dict[str, Any]:
    payload = pack_meter(Resources(**asked["resources"]), np.array(asked["timings"]))
    resources, timings = unpack_meter(memoryview(payload))
    return {"payload": payload.hex(), "resources": resources._asdict(), "timings": timings.tolist()}


def local_shape_of(obs_sizes: Sequence[int], sizes: Sequence[int]) -> LocalShape:
    """Returns a shape by the sizes of the golden file."""
    obs, width, latent, local_blocks, feature_norm = sizes
    return LocalShape(
        obs_sizes=tuple(obs_sizes),
        obs=obs,
        width=width,
        latent=latent,
        local_blocks=local_blocks,
        feature_norm=bool(feature_norm),
    )


def net(asked: dict[str, Any]) -> dict[str, Any]:
    shape = local_shape_of(asked["obs_sizes"], asked["sizes"])
    obs = floats(asked["obs"], (len(shape.obs_sizes), -1, shape.obs))
    return {"latents": hex_of(LocalNets(shape, floats(asked["weights"], (-1,)))(obs))}


PARTS = {"frames": frame, "tables": table, "strings": string, "meters": meter, "nets": net}


def differences(vectors: Vectors) -> list[str]:
    """Returns names and fields of the vectors that this host makes otherwise, or can't make.

    Raises KeyError where a part is missing.
    """
    return [
        f"{part}[{index}].{text}"
        for part in PARTS
        for index, vector in enumerate(vectors[part])
        for text in _differing(part, vector)
    ]


def _differing(part: str, vector: dict[str, Any]) -> list[str]:
    try:
        return [field for field, value in PARTS[part](vector).items() if value != vector[field]]
    except (TypeError, ValueError) as error:
        return [f"{type(error).__name__}: {error}"]


# --- the inputs


def made() -> Vectors:
    rng = np.random.default_rng(1)
    longest, wide, narrow = (
        some_tables(rng, lengths) for lengths in ((MAX_LENGTH,), (40, 3, 17, 9), (3, 5))
    )
    frames = [
        {"header": [kind, 1, 0x0A0B0C0D, 70000, 1, 32, 9], "payload": bytes(range(kind)).hex()}
        for kind in Kind
    ]
    frames.append(
        {
            "header": [Kind.LATENTS, 65535, 2**32 - 1, 2**32 - 1, 65535, 65535, 2**32 - 1],
            "payload": "",
        }
    )
    used = {name: 2**40 + at for at, name in enumerate(Resources._fields)}
    used.update(cpu_s=1.5, sleep_s=0.25, joules=9.5, gpu_joules=0.0, idle_w=1e-3, gpu_idle_w=4.0)
    asked: Vectors = {
        "frames": frames,
        "tables": [{"bytes": to_bytes(each).hex()} for each in (longest, wide, narrow)],
        "strings": [
            *entropy_strings(rng, wide),
            *entropy_strings(rng, narrow),
            *plain_strings(rng),
        ],
        "meters": [{"resources": used, "timings": [[1, 2, 2**33]]}],
        "nets": [a_net(rng, (5, 5), 2), a_net(rng, (5, 3), 1), a_net(rng, (5, 4, 1), 0)],
    }
    return {
        part: [{**vector, **PARTS[part](vector)} for vector in vectors]
        for part, vectors in asked.items()
    }


def some_tables(rng: np.random.Generator, lengths: tuple[int, ...]) -> Tables:
    """Uneven frequencies, none of them zero, and medians between the integers."""
    cdf = np.zeros((len(lengths), max(lengths)), np.int32)
    for row, length in zip(cdf, lengths):
        row[1 : length - 1] = np.sort(rng.choice(np.arange(1, TOTAL), length - 2, replace=False))
        row[length - 1] = TOTAL
    offsets = -np.array([(length - 2) // 2 for length in lengths], np.int32)
    medians = rng.integers(-31, 32, len(lengths)).astype(np.float32) / np.float32(64)
    return Tables(
        version=3,
        cdf=cdf,
        lengths=np.array(lengths, np.int32),
        offsets=offsets,
        medians=medians,
    )


def entropy_strings(rng: np.random.Generator, tables: Tables) -> list[dict[str, Any]]:
    """Gives latents inside and outside of the tables, halves (rounded to even) and clamped ones.

    They are coded as one string, or as one for every row.
    """
    channels = len(tables.lengths)
    halves = tables.medians + np.arange(-3, 4, dtype=np.float32)[:, None] + np.float32(0.5)
    inside, outside = rng.normal(size=(16, channels)) * 2, rng.normal(size=(5, channels)) * 3000
    extremes = np.array([3e38, -3e38, 1e-42, -0.0, 32767.5, -32768.5, 1e9])[:, None].repeat(
        channels, 1
    )
    text = to_bytes(tables).hex()
    return [
        {
            "codec": "entropy",
            "tables": text,
            "pack": pack,
            "shape": list(z.shape),
            "latents": hex_of(z),
        }
        for z in (inside, outside, halves, extremes, inside[:1])
        for pack in (0, 1)
    ]


def plain_strings(rng: np.random.Generator) -> list[dict[str, Any]]:
    z = np.concatenate([rng.normal(size=(3, 6)), rng.normal(size=(2, 6)) * 1e5, np.zeros((1, 6))])
    return [
        {"codec": name, "tables": "", "pack": 0, "shape": list(z.shape), "latents": hex_of(z)}
        for name in PLAIN
    ]


def a_net(
    rng: np.random.Generator, obs_sizes: tuple[int, ...], local_blocks: int
) -> dict[str, Any]:
    sizes = (
        5,
        8,
        6,
        local_blocks,
        False,
    )  # obs, width, latent, blocks, no normalisation: a square root isn't exact
    count = sum(
        int(np.prod(each)) for each in local_parameter_shapes(local_shape_of(obs_sizes, sizes))
    )
    obs = (
        rng.integers(-32, 33, (len(obs_sizes), 3, 5))
        / 8
        * (np.arange(5) < np.array(obs_sizes)[:, None])[:, None]
    )
    weights = rng.integers(-16, 17, count) / 16
    return {
        "obs_sizes": list(obs_sizes),
        "sizes": list(sizes),
        "obs": hex_of(obs),
        "weights": hex_of(weights),
    }


def main(words: list[str]) -> int:
    if words == ["--write"]:
        FILE.write_text(json.dumps(made(), indent=0) + "\n")
    elif words:
        print(__doc__)
        return 2
    vectors = json.loads(FILE.read_text())
    wrong = differences(vectors)
    versions = f"Python {platform.python_version()}, numpy {np.__version__}"
    host = f"{platform.machine()}, {sys.byteorder}-endian, {versions}"
    count = sum(map(len, vectors.values()))
    result = "all hold"
    if wrong:
        result = "they differ: " + ", ".join(wrong)
    print(f"{count} golden vectors on {host}: {result}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
