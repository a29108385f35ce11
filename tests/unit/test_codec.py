"""The codec: tables, strings, baselines, and that training sees what decoding gives."""

from __future__ import annotations

import struct
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from latent_models import AGENTS, Z, latents, rate_of, trained_model

from sde_harl.codec._rans import Coder
from sde_harl.codec.coder import LIMIT, EntropyCoder
from sde_harl.codec.entropy import LatentModel, quantise_plain
from sde_harl.codec.registry import NAMES, PLAIN, Codec, make_codec
from sde_harl.codec.tables import MAX_LENGTH, MAX_SPAN, Tables, check, from_bytes, to_bytes
from sde_harl.errors import UserError

MODEL = trained_model()
TABLES = MODEL.build_tables(7)


def small_tables(lengths: tuple[int, ...] = (3, 4, 9)) -> Tables:
    """Tables by hand: all frequencies of a row equal but the last."""
    cdf = np.zeros((len(lengths), max(lengths)), np.int32)
    for row, length in zip(cdf, lengths):
        row[:length] = np.linspace(0, 1 << 16, length).astype(np.int32)
    size = len(lengths)
    offsets = -np.arange(size, dtype=np.int32)
    return Tables(
        version=1,
        cdf=cdf,
        lengths=np.array(lengths, np.int32),
        offsets=offsets,
        medians=np.linspace(-0.4, 0.4, size).astype(np.float32),
    )


def symbols_of(tables: Tables, z: np.ndarray) -> np.ndarray:
    """int32 (R, Z), what rans.c quantises latents to."""
    return np.clip(np.rint(z - tables.medians), -LIMIT, LIMIT).astype(np.int32)


def latents_of(tables: Tables, symbols: np.ndarray) -> np.ndarray:
    return symbols.astype(np.float32) + tables.medians


def ideal_bits(tables: Tables, symbols: np.ndarray) -> float:
    """Returns the bits of symbols (R, Z) by the tables.

    They are -log2 of each symbol's share, and the nibbles of escape codes.
    """
    total = 0.0
    for row in symbols:
        for cdf, length, offset, symbol in zip(tables.cdf, tables.lengths, tables.offsets, row):
            value, top = int(symbol - offset), int(length) - 2
            if not 0 <= value < top:
                raw = -2 * value - 1 if value < 0 else 2 * (value - top)
                total += 4 + 4 * -(-raw.bit_length() // 4)
                value = top
            total += 16 - np.log2(cdf[value + 1] - cdf[value])
    return total


def decode(codec: Codec, payload: bytes | memoryview, rows: int, latent: int = Z) -> np.ndarray:
    out = np.full((rows, latent), 77.0, np.float32)
    codec.decode(payload, out)
    return out


def equal(a: Tables, b: Tables) -> bool:
    return a.version == b.version and all(
        np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a[1:], b[1:])
    )


# ---- tables ----


def test_tables_survive_the_wire() -> None:
    for tables in [*TABLES, small_tables(), small_tables((3,)), small_tables((MAX_LENGTH, 3))]:
        assert equal(from_bytes(to_bytes(tables)), tables)
        assert equal(from_bytes(memoryview(to_bytes(tables))), tables)


def test_tables_may_be_cut_to_their_first_channels() -> None:
    """As is done for an agent that sends fewer elements than its group is wide."""
    first = small_tables((4, 3, 5, 9))
    cut = first.first_channels(3)
    sent = from_bytes(to_bytes(cut))
    assert sent.digest == cut.digest
    assert sent.cdf.shape == (3, 5)
    z = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32) * 3
    assert EntropyCoder(sent).encode(z) == EntropyCoder(cut).encode(z)


def test_digest_names_the_contents_and_not_the_version() -> None:
    first = TABLES[0]
    assert first._replace(version=8).digest == first.digest
    assert len({t.digest for t in TABLES}) == AGENTS
    assert first._replace(medians=first.medians + 1).digest != first.digest


def test_wire_bytes_are_what_they_are() -> None:
    """Golden bytes: two hosts of different versions must agree on them."""
    tables = Tables(
        version=5,
        cdf=np.array([[0, 1, 65536]], np.int32),
        lengths=np.array([3], np.int32),
        offsets=np.array([-2], np.int32),
        medians=np.array([0.5], "f4"),
    )
    body = struct.pack("<iifH", 3, -2, 0.5, 1)
    assert to_bytes(tables) == struct.pack("<II", 5, 1) + tables.digest + body
    assert tables.digest.hex() == "4061f29492a0c19b"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_tables_are_refused(data: st.DataObject) -> None:
    whole = bytearray(to_bytes(small_tables()))
    version_bytes = 4  # the digest leaves out the version: the frame's header carries it too
    at = data.draw(st.integers(version_bytes, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match=r"^tables: "):
        from_bytes(whole)
    with pytest.raises(ValueError, match=r"^tables: "):
        from_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ValueError, match=r"^tables: "):
        from_bytes(data.draw(st.binary(max_size=80)))


def test_a_forged_count_allocates_nothing() -> None:
    with pytest.raises(ValueError, match="channels"):
        from_bytes(struct.pack("<II8s", 1, 0xFFFFFFFF, bytes(8)) + bytes(40))
    with pytest.raises(ValueError, match="lengths"):
        from_bytes(struct.pack("<II8s", 1, 1, bytes(8)) + struct.pack("<iif", 1 << 30, 0, 0))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t._replace(version=-1),
        lambda t: t._replace(version=1 << 32),
        lambda t: t._replace(cdf=t.cdf.astype(np.int64)),
        lambda t: t._replace(cdf=t.cdf + 1),
        lambda t: t._replace(cdf=t.cdf[:, ::-1].copy()),
        lambda t: t._replace(cdf=t.cdf[:2]),
        lambda t: t._replace(lengths=t.lengths - 1),
        lambda t: t._replace(offsets=t.offsets + 1),
        lambda t: t._replace(offsets=t.offsets - MAX_SPAN),
        lambda t: t._replace(medians=t.medians * np.float32("nan")),
    ],
)
def test_check_refuses(change) -> None:  # type: ignore[no-untyped-def]
    check(small_tables())
    with pytest.raises(ValueError, match=r"^tables: "):
        check(change(small_tables()))
    with pytest.raises(ValueError, match=r"^tables: "):
        EntropyCoder(change(small_tables()))


# ---- strings ----


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e6], ids=["inside", "some escapes", "clamped"])
@pytest.mark.parametrize("pack", [0, 1, 5])
@pytest.mark.parametrize("rows", [1, 2, 13, 300])
def test_decoding_gives_what_was_coded(rows: int, pack: int, scale: float) -> None:
    coder = EntropyCoder(TABLES[1], pack)
    z = latents(rows, scale)
    symbols = symbols_of(TABLES[1], z)
    out = np.zeros((rows, Z), np.float32)
    bits = coder.decode(memoryview(coder.encode(z)), out)
    assert np.array_equal(out, latents_of(TABLES[1], symbols))
    assert bits == pytest.approx(ideal_bits(TABLES[1], symbols), rel=1e-6)


def test_rows_may_lie_apart() -> None:
    """As an agent's do that sends fewer elements than its group is wide."""
    wide, coder = np.zeros((5, Z + 3), np.float32), EntropyCoder(TABLES[1])
    wide[:, :Z] = latents(5)
    assert coder.encode(wide[:, :Z]) == coder.encode(latents(5))
    out = np.zeros((5, Z + 3), np.float32)
    coder.decode(coder.encode(latents(5)), out[:, :Z])
    assert np.array_equal(out[:, :Z], decode(coder, coder.encode(latents(5)), 5))
    assert not out[:, Z:].any()


def test_what_is_damaged_leaves_the_latents_as_they_were() -> None:
    coder, out = EntropyCoder(TABLES[0]), np.full((3, Z), 5.0, np.float32)
    with pytest.raises(ValueError, match=r"where its symbols do|before its symbols do"):
        coder.decode(coder.encode(latents(3)) + bytes(4), out)
    assert (out == 5.0).all()


def test_the_c_coder_takes_nothing_it_could_stumble_over() -> None:
    table = np.array([[0, 30000, 65536]], np.int32)
    one, zero, median = np.array([3], np.int32), np.zeros(1, np.int32), np.zeros(1, np.float32)
    coder = Coder(table, one, zero, median)
    for wrong in (
        table[:, ::-1].copy(),
        np.array([[0, 70000, 65536]], np.int32),
        np.array([[0, 0, 65536]], np.int32),
    ):
        with pytest.raises(ValueError, match="rise"):
            Coder(wrong, one, zero, median)
    for lengths in (one - 1, one + 1):
        with pytest.raises(ValueError, match="length"):
            Coder(table, lengths, zero, median)
    with pytest.raises(ValueError, match="sizes"):
        Coder(table, one, np.zeros(2, np.int32), median)
    for array in (
        np.zeros((2, 1)),
        np.zeros((2, 1), np.int32),
        np.zeros((2, 2), np.float32)[:, :1].T,
    ):
        with pytest.raises(ValueError, match="shape"):
            coder.encode(array)
    frozen = np.zeros((2, 1), np.float32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match=r"read-only"):
        coder.decode(coder.encode(frozen), frozen)


def test_symbols_at_the_limits_survive() -> None:
    tables = small_tables()
    edge = np.array([[-LIMIT, LIMIT, -LIMIT], [LIMIT, -LIMIT, LIMIT], [0, 1, -1]], np.int32)
    coder, z = EntropyCoder(tables), latents_of(tables, edge)
    assert np.array_equal(decode(coder, coder.encode(z), 3, 3), z)


@pytest.mark.parametrize("scale", [1.0, 40.0], ids=["inside", "escapes"])
def test_a_row_is_bit_identical_to_compressai(scale: float) -> None:
    model = trained_model()
    z = np.stack([latents(40, scale, seed) for seed in range(AGENTS)])  # (n, R, Z)
    coders = [EntropyCoder(t, 1) for t in model.build_tables(1)]
    for coder, agent in zip(coders, range(AGENTS)):
        theirs = compressai_strings(model, agent, z[agent])
        assert [coder.encode(row[None]) for row in z[agent]] == theirs
        assert coder.encode(z[agent]) == np.array(
            [len(s) for s in theirs], "<u4"
        ).tobytes() + b"".join(theirs)


def compressai_strings(model: LatentModel, agent: int, z: np.ndarray) -> list[bytes]:
    """z (R, Z) of one agent, by an EntropyBottleneck of that agent's channels alone."""
    from sde_harl.codec.bottleneck import load_entropy_models

    part = slice(agent * Z, (agent + 1) * Z)
    whole = model.bottleneck
    theirs = load_entropy_models().EntropyBottleneck(
        Z, init_scale=whole.init_scale, tail_mass=whole.tail_mass
    )
    state = {
        k: v[part] if v.shape[:1] == whole.quantiles.shape[:1] else v
        for k, v in whole.state_dict().items()
    }
    theirs.load_state_dict(state)
    theirs.update(force=True)
    strings: list[bytes] = theirs.compress(torch.from_numpy(z))
    return strings


def test_fixed_logits_are_compressais() -> None:
    bottleneck = trained_model().bottleneck
    values = 9 * torch.randn(bottleneck.channels, 1, 7)
    ours = bottleneck.fixed_logits()(values)
    assert torch.equal(ours, bottleneck._logits_cumulative(values, stop_gradient=True))
    assert not ours.requires_grad


def test_packed_rows_cost_their_ideal() -> None:
    coder = EntropyCoder(TABLES[0])
    z = latents(64, 2.0)
    ideal = ideal_bits(TABLES[0], symbols_of(TABLES[0], z)) / 8
    assert ideal <= len(coder.encode(z)) <= 1.002 * ideal + 8


def test_ideal_bits_by_hand() -> None:
    tables = small_tables((5, 5, 5))  # 4 equal symbols of 2 bits; the last is the escape
    coder, out = EntropyCoder(tables), np.zeros((1, 3), np.float32)
    top = np.array([3, 3, 3]) + tables.offsets
    for symbols, bits in (
        (tables.offsets, 6),
        (top, 6 + 3 * 4),  # an escape code of no nibble: 4 bits
        (tables.offsets - 1, 6 + 3 * 8),  # value -1 is code 1: one nibble
        (top + 8, 6 + 3 * 12),  # 8 beyond is code 16: two nibbles
    ):
        assert coder.decode(coder.encode(latents_of(tables, symbols)[None]), out) == bits


def test_latents_that_are_not_finite_or_misshapen_are_refused() -> None:
    for codec in [make_codec(name, Z, tables=TABLES[0]) for name in NAMES]:
        for bad in (np.float32("nan"), np.float32("inf"), -np.float32("inf")):
            z = latents(2)
            z[1, 3] = bad
            with pytest.raises(ValueError, match="finite"):
                codec.encode(z)
        for shape in [(2, Z + 1), (Z,), (0, Z), (1, 2, Z)]:
            with pytest.raises(ValueError, match="shape"):
                codec.encode(np.zeros(shape, np.float32))


@pytest.mark.parametrize("lengths", [(4,), (4, 4)])
def test_latents_of_few_elements(lengths: tuple[int, ...]) -> None:
    """CompressAI's own encoder writes past its buffer here."""
    tables = small_tables(lengths)
    z = np.linspace(-9, 9, 6 * len(lengths), dtype=np.float32).reshape(6, -1)
    coder = EntropyCoder(tables, 1)
    assert np.array_equal(
        decode(coder, coder.encode(z), 6, len(lengths)), latents_of(tables, symbols_of(tables, z))
    )


def test_another_agents_tables_are_noticed() -> None:
    """A string that was coded with other tables does not end where it should, short or long."""
    for rows in (1, 200):
        payload = EntropyCoder(TABLES[0]).encode(latents(rows))
        with pytest.raises(ValueError, match=r"does not end where its symbols do"):
            decode(EntropyCoder(TABLES[2]), payload, rows)
        with pytest.raises(ValueError, match=r"ends before its symbols do"):
            decode(EntropyCoder(TABLES[0]), payload, rows + 1)


class Fuzzed(NamedTuple):
    tables: Tables
    pack: int


FUZZED = [
    Fuzzed(small_tables(lengths), pack) for lengths in ((3, 4, 9), (3, 3, 3)) for pack in (0, 2)
]
FUZZED.append(Fuzzed(TABLES[0], 0))


def decode_safely(case: Fuzzed, payload: bytes, rows: int) -> None:
    try:
        found = decode(EntropyCoder(*case), payload, rows, len(case.tables.lengths))
    except ValueError:
        return
    assert np.abs(found - case.tables.medians).max() <= LIMIT


@settings(max_examples=800, deadline=None)
@given(st.sampled_from(FUZZED), st.binary(max_size=200), st.integers(0, 40))
def test_random_payloads_are_harmless(case: Fuzzed, payload: bytes, rows: int) -> None:
    decode_safely(case, payload, rows)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(FUZZED),
    st.integers(1, 40),
    st.integers(0, 99),
    st.sampled_from([0.5, 5.0, 1e4]),
    st.data(),
)
def test_damaged_payloads_are_harmless(
    case: Fuzzed, rows: int, seed: int, scale: float, data: st.DataObject
) -> None:
    shape = (rows, len(case.tables.lengths))
    z = np.random.default_rng(seed).normal(size=shape).astype(np.float32) * np.float32(scale)
    payload = bytearray(EntropyCoder(*case).encode(z))
    decode_safely(case, bytes(payload[: data.draw(st.integers(0, len(payload)))]), rows)
    decode_safely(case, bytes(payload), rows + data.draw(st.integers(1, 30)))
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at] ^= data.draw(st.integers(1, 255))
    decode_safely(case, bytes(payload), rows)


@pytest.mark.parametrize("rows", [1, 400])
@pytest.mark.parametrize("fill", [b"\xff", b"\x00", b"\x0f\x00\x00\x00", b"\xff\xff\xff\x7f"])
def test_a_string_of_endless_escape_codes_is_harmless(fill: bytes, rows: int) -> None:
    """Fifteens all through: each names a longer escape code."""
    case = Fuzzed(small_tables((3, 3, 3)), 0)
    for size in (8, 16, 8 + 4 * rows, 8 + 12 * rows):
        decode_safely(case, (fill * size)[: size - size % 4], rows)


def test_forged_string_lengths_are_refused() -> None:
    coder = EntropyCoder(TABLES[0], pack=1)
    payload = coder.encode(latents(3))
    for lengths in [(0xFFFFFFFF, 1, 0), (0, 0, 0), (len(payload), 0, 0)]:
        with pytest.raises(ValueError, match=r"does not hold 3 strings"):
            decode(coder, struct.pack("<III", *lengths) + payload[12:], 3)
    with pytest.raises(ValueError, match=r"does not hold 3 strings"):
        decode(coder, payload[:8], 3)


# ---- baselines ----


@pytest.mark.parametrize("name", list(PLAIN))
def test_plain_codecs(name: str) -> None:
    codec = make_codec(name, Z)
    z = latents(9)
    z[0] = 0
    z[1] *= 1e-40
    z[2] *= 1e30
    payload = codec.encode(z)
    assert len(payload) == 9 * {"float32": 4 * Z, "float16": 2 * Z, "int8": 4 + Z}[name]
    decoded = np.zeros((9, Z), np.float32)
    assert codec.decode(memoryview(payload), decoded) < 0  # no model, no ideal size
    worst = {"float32": 0, "float16": 1e-3, "int8": 1 / 250}[name] * np.abs(z).max(
        axis=1, keepdims=True
    )
    assert (np.abs(decoded - z) <= worst)[3:].all()
    assert not decoded[0].any()
    torch_z = torch.from_numpy(z).requires_grad_()
    ours = quantise_plain(name, torch_z)
    assert ours.detach().numpy().tobytes() == decoded.tobytes()
    ours.sum().backward()
    assert torch_z.grad is not None
    assert (torch_z.grad == 1).all()
    for wrong in (payload[:-1], payload + b"\0", b""):
        with pytest.raises(ValueError, match=r"^payload of"):
            decode(codec, wrong, 9)


@pytest.mark.parametrize("name", list(PLAIN))
def test_plain_payloads_that_hold_no_numbers_are_refused(name: str) -> None:
    codec = make_codec(name, 4)
    with pytest.raises(ValueError, match="finite"):
        decode(codec, b"\xff" * len(codec.encode(np.ones((2, 4), np.float32))), 2, 4)


def test_unknown_codec() -> None:
    with pytest.raises(ValueError, match="zip"):
        make_codec("zip", Z)
    with pytest.raises(ValueError, match="tables of 13"):
        make_codec("entropy", 13, tables=TABLES[0])


# ---- training ----


def test_training_sees_what_decoding_gives() -> None:
    z = torch.from_numpy(np.stack([latents(50, 20.0, s) for s in range(AGENTS)])).requires_grad_()
    ours = MODEL.quantise(z)
    for agent, tables in enumerate(TABLES):
        coder = EntropyCoder(tables)
        z_agent = z[agent].detach().numpy()
        assert (
            ours[agent].detach().numpy().tobytes()
            == decode(coder, coder.encode(z_agent), 50).tobytes()
        )
    (ours * 2).sum().backward()
    assert z.grad is not None
    assert (z.grad == 2).all()


def test_rate_trains_latents_and_densities_and_repeats() -> None:
    model = trained_model()
    z = torch.from_numpy(np.stack([latents(64)] * AGENTS)).requires_grad_()
    rate = rate_of(model, z, torch.Generator().manual_seed(3))
    assert rate.item() == rate_of(model, z, torch.Generator().manual_seed(3)).item()
    rate.backward()
    assert z.grad is not None
    assert z.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.density_parameters())
    assert model.bottleneck.quantiles.grad is None
    trained = [id(p) for p in model.density_parameters()]
    assert sorted([*trained, id(model.bottleneck.quantiles)]) == sorted(
        id(p) for p in model.parameters()
    )


def test_training_the_rate_reaches_the_gaussian_entropy() -> None:
    torch.manual_seed(0)
    model = LatentModel(1, 4)
    density = torch.optim.Adam(model.density_parameters(), lr=2e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        z = 2.0 * torch.randn((1, 256, 4), generator=generator)
        density.zero_grad()
        rate_of(model, z, generator).backward()
        density.step()
    model.settle()
    assert model.medians().abs().max() < 0.3, "of what was coded"
    entropy = np.log2(
        2.0 * np.sqrt(2 * np.pi * np.e)
    )  # of a Gaussian of std 2 at unit steps: 3.05 bits
    coder = EntropyCoder(model.build_tables(1)[0])
    z = (2.0 * torch.randn((512, 4), generator=generator)).numpy()
    assert entropy - 0.1 < coder.decode(coder.encode(z), np.empty_like(z)) / z.size < entropy + 0.1


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_untrained_model_fits_latents_of_its_scale(scale: float) -> None:
    """The rate is at most 1.2 bits above the entropy of a Gaussian under uniform noise.

    That entropy is about log2 of the deviation, plus 2.
    """
    torch.manual_seed(0)
    model = LatentModel(2, 8, scale=scale)
    assert model.medians().abs().max() < 0.01
    for std in (scale / 2, scale):
        entropy = np.log2(np.sqrt(std**2 + 1 / 12) * np.sqrt(2 * np.pi * np.e))
        z = std * torch.randn((2, 500, 8), generator=torch.Generator().manual_seed(0))
        assert rate_of(model, z, torch.Generator().manual_seed(1)).item() < entropy + 1.2


def test_tables_equal_what_update_makes() -> None:
    from sde_harl.codec.bottleneck import load_entropy_models

    theirs = load_entropy_models().EntropyBottleneck(
        AGENTS * Z, tail_mass=MODEL.bottleneck.tail_mass
    )
    theirs.load_state_dict(MODEL.bottleneck.state_dict())
    theirs.update(force=True)
    for agent, tables in enumerate(TABLES):
        check(tables)
        part = slice(agent * Z, (agent + 1) * Z)
        width = tables.cdf.shape[1]
        assert np.array_equal(tables.cdf, theirs._quantized_cdf[part, :width])
        assert not theirs._quantized_cdf[part, width:].any()
        assert np.array_equal(tables.lengths, theirs._cdf_length[part])
        assert np.array_equal(tables.offsets, theirs._offset[part])
        assert np.array_equal(tables.medians, theirs.quantiles[part, 0, 1].detach())


def test_building_tables_leaves_no_trace_in_the_checkpoint() -> None:
    model = trained_model()
    before = {k: v.shape for k, v in model.state_dict().items()}
    model.build_tables(1)
    assert {k: v.shape for k, v in model.state_dict().items()} == before


def test_settled_quantiles_are_where_the_densities_have_them() -> None:
    model = trained_model()
    bottleneck = model.bottleneck
    bottleneck._update_quantiles()  # CompressAI's own search
    theirs = bottleneck.quantiles.detach().clone()
    with torch.no_grad():
        bottleneck.quantiles.normal_()
    model.settle()
    torch.testing.assert_close(bottleneck.quantiles.detach(), theirs, atol=1 / 128, rtol=1e-3)
    with torch.no_grad():
        bottleneck.quantiles[:, 0, 1] += 1.0
    model.settle(0.25)
    torch.testing.assert_close(
        bottleneck.quantiles[:, 0, 1], theirs[:, 0, 1] + 0.75, atol=1 / 128, rtol=1e-3
    )
    torch.testing.assert_close(
        bottleneck.quantiles[:, 0, ::2], theirs[:, 0, ::2], atol=1 / 128, rtol=1e-3
    )
    model.settle()
    with torch.no_grad():
        half = torch.sigmoid(
            bottleneck._logits_cumulative(bottleneck.quantiles[:, :, 1:2], stop_gradient=True)
        )
    assert (half - 0.5).abs().max() < 1e-2


@pytest.mark.parametrize("quantiles", [(-1e9, 0, 1e9), (0, 0, 0), (0.2, 0, -0.2), (3, 0, 5)])
def test_tables_of_quantiles_that_no_density_has(quantiles: tuple[float, float, float]) -> None:
    """As a stranger's checkpoint may hold."""
    model = trained_model()
    with torch.no_grad():
        model.bottleneck.quantiles[Z + 2, 0] = torch.tensor(quantiles)
    tables = model.build_tables(1)[1]
    coder, z = EntropyCoder(tables), latents(5, 30.0)
    assert np.array_equal(
        decode(coder, coder.encode(z), 5), latents_of(tables, symbols_of(tables, z))
    )
    assert tables.cdf.shape[1] <= MAX_LENGTH


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_quantiles_that_are_no_numbers_are_reported(value: float) -> None:
    model = trained_model()
    with torch.no_grad():
        model.bottleneck.quantiles[Z + 2, 0, 1] = value
    with pytest.raises(UserError, match="quantile"):
        model.build_tables(1)


def test_densities_that_broke_down_are_reported() -> None:
    model = trained_model()
    with torch.no_grad():
        model.bottleneck.biases[2][5] = float("nan")
    with pytest.raises(UserError, match="densities"):
        model.build_tables(1)


# ---- imports ----


def test_a_device_imports_no_torch() -> None:
    script = (
        "import sys, numpy as np; from sde_harl.codec.registry import make_codec; "
        "from sde_harl.codec.tables import Tables;"
        "cdf = np.array([[0, 30000, 65536]] * 3, np.int32); i = np.zeros(3, np.int32);"
        "codec = make_codec('entropy', 3, tables=Tables(1, cdf, i + 3, i, i.astype(np.float32)));"
        "z = np.zeros((1, 3), np.float32); codec.decode(codec.encode(z), z);"
        "print(sorted({'torch', 'compressai', 'scipy', 'jax', 'h5py'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
