"""The symbols that were sent are counted beside what the tables expect of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from latent_models import AGENTS, Z, latents, trained_model
from small_runs import made

from sde_harl.codec.coder import EntropyCoder
from sde_harl.codec.symbols import BINS, EDGE, SYMBOLS, SymbolCounts
from sde_harl.codec.tables import TOTAL, Tables
from sde_harl.record.reader import open_run

HALF = TOTAL // 2
QUARTER = TOTAL // 4


def two_elements() -> Tables:
    """Symbols 0 and 1 at a half and a quarter, then -20 at a half; the rest is escaped."""
    return Tables(
        version=1,
        cdf=np.array([[0, HALF, HALF + QUARTER, TOTAL], [0, HALF, TOTAL, 0]], np.int32),
        lengths=np.array([4, 3], np.int32),
        offsets=np.array([0, -20], np.int32),
        medians=np.array([0.25, -0.5], np.float32),
    )


def test_tables_expect_the_mean_of_their_elements() -> None:
    expected = dict(zip(SYMBOLS.tolist(), SymbolCounts([two_elements()]).expected[0], strict=True))
    # The escape codes, a quarter and a half, lie beyond both ends alike.
    escaped = (0.25 + 0.5) / 2 / 2
    wanted = {0: 0.25, 1: 0.125, -EDGE: 0.25 + escaped, EDGE: escaped}
    assert {symbol: share for symbol, share in expected.items() if share} == wanted


def test_symbols_are_counted_by_agent() -> None:
    one = two_elements().first_channels(1)
    counts = SymbolCounts([two_elements(), one])
    latents = np.zeros((2, 3, 2), np.float32)
    latents[0] = np.array([[0.25, -0.5], [2.25, 19.5], [-99.75, 1e6]])
    latents[1, :, 0] = 0.25 + np.array([-1, -1, 7])
    latents[1, :, 1] = 5.0  # this agent doesn't send it
    counts.add(latents, None)
    counts.add(latents, np.array([[0, 1, 2], [0, 0, -1]], np.int32))
    found = [dict(zip(SYMBOLS.tolist(), row, strict=True)) for row in counts.sent.tolist()]
    # What is older than its decision was sent, and counted, before.
    assert {k: n for k, n in found[0].items() if n} == {0: 4, 2: 1, EDGE: 2, -EDGE: 1}
    assert {k: n for k, n in found[1].items() if n} == {-1: 4, 7: 1}


def test_what_is_expected_is_what_the_coder_pays() -> None:
    """Of one element, the counts and the probabilities give the bits of the decoder."""
    tables = trained_model().build_tables(1)[0].first_channels(1)
    counts = SymbolCounts([tables])
    assert counts.expected.sum() == pytest.approx(1)
    coder = EntropyCoder(tables)
    sent = tables.medians + np.clip(latents(300)[:, :1], -10, 10)
    decoded = np.zeros_like(sent)
    bits = coder.decode(coder.encode(sent), decoded)
    counts.add(decoded[None], None)
    assert counts.sent.sum() == 300
    used = counts.sent > 0
    assert -(counts.sent[used] * np.log2(counts.expected[used])).sum() == pytest.approx(bits, 1e-6)


def test_all_agents_of_a_trained_model() -> None:
    counts = SymbolCounts(trained_model().build_tables(1))
    assert counts.expected.shape == counts.sent.shape == (AGENTS, BINS)
    np.testing.assert_allclose(counts.expected.sum(1), 1)
    counts.add(np.stack([latents(50)] * AGENTS), None)
    assert counts.sent.sum(1).tolist() == [50 * Z] * AGENTS


def test_an_evaluation_records_its_symbols(tmp_path: Path) -> None:
    learner = made(tmp_path, "--env", "mpe", "eval.interval=120")
    learner.run()
    run = open_run(learner.logger.folder)
    table = run.table("symbols")
    agents = 3
    assert table["step"].tolist() == [120] * agents * BINS + [240] * agents * BINS
    assert table["agent"].tolist() == np.arange(agents).repeat(BINS).tolist() * 2
    assert table["symbol"].tolist() == SYMBOLS.tolist() * agents * 2
    decisions = run.table("decisions")
    evaluated = ~decisions["train"]
    assert table["sent"].sum() == 8 * decisions["environments"][evaluated].sum()
    assert table["probability"].reshape(-1, BINS).sum(1) == pytest.approx(1, 1e-5)


def test_codecs_without_a_model_have_no_symbols(tmp_path: Path) -> None:
    learner = made(tmp_path, "--env", "mpe", "codec.name=int8")
    learner.run()
    assert not open_run(learner.logger.folder).table("symbols")
