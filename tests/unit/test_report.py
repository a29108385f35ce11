"""sde-harl report: what stands in the page, what may not, and how it looks in a browser."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest
from analysis_runs import opened_to_change, record
from long_run import long_run

from sde_harl.analysis.figures import COLOURS
from sde_harl.analysis.uncertainty import improvement, iqm, profile
from sde_harl.cli.main import main
from sde_harl.record.finding import run_files
from sde_harl.record.reader import open_run
from sde_harl.report.build import build
from sde_harl.report.lines import Line, find_lines
from sde_harl.report.symbols import sent_symbols

SECTIONS = ["learning", "latency", "bytes", "usage", "faults", "roles", "runs", "settings"]
HOSTILE = '</text><script>alert(1)</script><img src=x onerror="alert(1)">&amp;]]>'


class Tags(HTMLParser):
    """Collects the tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs
        self.ids += [str(value) for name, value in attrs if name == "id"]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes two seeds of one method and one of another, each with decisions and faults."""
    base = tmp_path_factory.mktemp("runs")
    for algo, seed in (("happo", 1), ("happo", 2), ("mappo", 1)):
        long_run(base / algo / "main" / f"seed-{seed}", 100_000, algo=algo, seed=seed)
    return base


@pytest.fixture(scope="module")
def page(runs: Path) -> str:
    assert main(["report", str(runs), "--out", str(runs / "report.html")]) == 0
    return (runs / "report.html").read_text()


def test_all_sections_are_there(page: str) -> None:
    seen = Tags(page)
    assert [name for name in seen.ids if name in SECTIONS] == SECTIONS
    assert "comparison" in seen.ids
    assert "A  smax/3s5z, happo/main" in seen.text
    assert "seeds 1, 2; 100,000 steps" in seen.text
    assert "times less than float32" in seen.text
    assert "happo/main over mappo/main" in seen.text
    assert "not measurable here: no sensor" in seen.text
    assert seen.text.count("edge7") >= 3
    assert "absent" in seen.text
    for label in ("environment steps", "win rate", "ms", "bytes for a decision", "MB", "cores"):
        assert label in seen.text


def test_an_id_stands_once_and_nothing_is_loaded(page: str) -> None:
    seen = Tags(page)
    assert len(seen.ids) == len(set(seen.ids))
    assert {"script", "link", "img", "iframe"}.isdisjoint(seen.names)
    outside = [value for name, value in seen.attributes if name in ("src", "href", "xlink:href")]
    assert all(str(value).startswith("#") for value in outside)
    assert not re.search(r"#(?:0072b2|222222|cccccc)\b", page.partition("</style>")[2])


def test_names_from_a_record_are_text(tmp_path: Path) -> None:
    path = record(
        tmp_path / "<b>exp" / "seed",
        env=f"x/{HOSTILE}",
        algo=HOSTILE,
        placement=HOSTILE,
        emulated=HOSTILE,
        hosts=json.dumps([{"host": HOSTILE, "energy": HOSTILE}] * 3),
        agents=json.dumps([HOSTILE, "\x1b]0;b"]),
        groups="[[0, 1]]",
        unit_types=json.dumps(["", HOSTILE]),
        config=json.dumps({"policy": {HOSTILE: HOSTILE}}),
        versions=json.dumps({HOSTILE: HOSTILE}),
        git_revision=HOSTILE,
    )
    text = build([open_run(path)])
    seen = Tags(text)
    assert {"script", "img", "b>exp"}.isdisjoint(seen.names)
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert HOSTILE in seen.text
    assert "\x1b" not in text


def test_unlike_runs_are_lines_of_their_own(tmp_path: Path) -> None:
    metas = [{"git_revision": "a"}, {"git_revision": "a", "seed": 4}, {"git_revision": "b"}]
    paths = [record(tmp_path / "exp" / f"{k}", **meta) for k, meta in enumerate(metas)]
    lines = find_lines([open_run(path) for path in paths])
    assert [(line.letter, line.method, len(line.runs)) for line in lines] == [
        ("A", "happo/exp, code a", 2),
        ("B", "happo/exp, code b", 1),
    ]


def test_no_two_of_many_lines_look_alike() -> None:
    lines = [
        Line(number=number, env="e", method="m", runs=[], curves=[])
        for number in range(2 * len(COLOURS) + 1)
    ]
    assert len({(line.colour, line.style) for line in lines}) == len(lines)


def test_methods_are_compared_where_all_have_been(tmp_path: Path) -> None:
    for env, gain in (("smax/a", 0.0), ("smax/b", 0.2)):
        for algo, seed, won in (("p", 1, 0.1), ("p", 2, 0.2), ("q", 1, 0.6), ("q", 2, 0.15)):
            folder = tmp_path / env / algo / "exp" / f"seed-{seed}"
            record(folder, env=env, algo=algo, seed=seed, win_rate=won + gain)
    longer = tmp_path / "smax" / "a" / "p" / "exp" / "seed-1" / "run.h5"
    with opened_to_change(longer) as file:
        file["evaluations/step"][-1] = 300
    seen = Tags(build([open_run(path) for path in run_files(tmp_path)])).text
    assert "Win rate, 2 tasks, at 200 and 200 steps" in seen
    assert "smax/a, at 200 steps" in seen
    # p wins one pair of four: 0.2 against 0.15. At step 200 its first seed is at 0.075.
    assert "p/exp over q/exp0.25" in seen


def test_bytes_of_evaluations_are_told_without_decisions(tmp_path: Path) -> None:
    path = record(tmp_path / "a" / "b", groups="[[0], [1]]")
    with opened_to_change(path) as file:
        del file["decisions"]
    seen = Tags(build([open_run(path)])).text
    assert "5.0 bytes a decision, 12.8 times less than float32" in seen
    assert "No single decisions were recorded" in seen


def test_symbols_stand_beside_the_model(page: str) -> None:
    seen = Tags(page)
    assert "A, seed 1: symbols, step 100,000" in seen.text
    for label in ("symbol: steps from the median", "share of symbols, %", "expected by the model"):
        assert label in seen.text
    # 5/25 + 2 (4 + 3 + 2 + 1)/25 = 1 expected, and 25/25 of 1,000 symbols for each of 8 agents.
    assert "The 8,000 symbols of the last evaluation" in seen.text
    assert "0.0% of the symbols would have to be others" in seen.text


def test_an_evaluation_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = long_run(tmp_path / "a" / "b", 100_000)
    with opened_to_change(path) as file:
        sent = file["symbols/sent"]
        sent.resize((len(sent) - 10,))
        # The last whole agent of the last evaluation sends what nobody expects.
        sent[len(sent) - 23 - 33 + 16] = 10**6
    found = sent_symbols(open_run(path))
    assert found is not None
    assert (found.step, found.total) == (100_000, 7 * 1000 - 200 + 10**6)
    assert found.sent[16] > 0.99 > 0.2 == pytest.approx(found.expected[16])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"codec": "none"}, "because its devices run whole policies"),
        ({"codec": "int8"}, "because its codec, int8, has no entropy model"),
        ({}, "because its record was written by a version that didn't count symbols"),
        ({"rows": False}, "because they are counted in evaluations, and it has none yet"),
    ],
)
def test_a_run_without_symbols_is_told_why(
    tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    path = record(tmp_path / "a" / "b", groups="[[0], [1]]", **change)
    text = Tags(build([open_run(path)])).text
    assert f"A, seed 3: no histogram of symbols, {sentence}" in text


def test_a_run_that_has_just_begun_is_told_in_sentences(tmp_path: Path) -> None:
    seen = Tags(build([open_run(record(tmp_path / "a" / "b", rows=False, groups="[[0], [1]]"))]))
    assert "no result yet" in seen.text
    assert "No evaluations and no training values" in seen.text
    assert "no decisions were recorded" in seen.text
    assert "No message was refused" in seen.text
    assert "svg" not in seen.names


def test_what_can_not_be_reported_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: there is no run.h5")
    path = record(tmp_path / "a" / "b")
    assert main(["report", str(path), "--out", str(tmp_path / "no" / "r.html")]) == 2
    assert capsys.readouterr().err.startswith("error: --out: ")


def test_statistics_of_known_scores() -> None:
    eight = np.array([0.0, 0, 1, 2, 3, 4, 100, 100])
    assert iqm([eight]).value == 2.5
    alone = iqm([np.array([3.0])])
    assert (alone.value, np.isnan(alone.low)) == (3.0, True)
    sure = improvement([np.array([2.0, 3.0])], [np.array([0.0, 1.0])])
    assert (sure.value, sure.low, sure.high) == (1, 1, 1)
    half = improvement([np.array([1.0, 1.0]), np.ones(3)], [np.array([1.0, 1.0]), np.ones(2)])
    assert half.value == 0.5
    shares = profile([np.array([0.1, 0.9]), np.array([0.6, 0.7])], np.array([0.0, 0.5, 0.95]))
    assert shares.value.tolist() == [1.0, 0.75, 0.0]
    spread = iqm([np.linspace(0, 1, 10)])
    assert 0.1 < float(spread.low) < 0.5 < float(spread.high) < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(page: str, tmp_path: Path, width: int, scheme: str) -> None:
    seen = browser.look(page, tmp_path, width=width, scheme=scheme)
    assert seen["console"] == []
    assert seen["scripts"] == 0
    assert seen["wide"] <= seen["view"], "the page scrolls sideways"
    assert len(seen["panels"]) >= 10
    assert min(seen["panels"]) > 150
    assert "What was learnt" in seen["text"]
    assert browser.is_dark(seen["paper"]) == (scheme == "dark")
    assert seen["paper"] != seen["ink"]


@pytest.mark.slow
def test_a_long_run_is_a_small_page(tmp_path: Path) -> None:
    text = build([open_run(long_run(tmp_path / "a" / "b"))])
    assert len(text.encode()) < 5_000_000
