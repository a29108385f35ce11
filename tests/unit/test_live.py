"""sde-harl live: how a run stands, in the terminal and as a page, while it is being written."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import browser
import numpy as np
import pytest
from analysis_runs import META, record
from filled import add
from long_run import long_run

from sde_harl.cli.main import main
from sde_harl.config.layers import to_yaml
from sde_harl.config.schema import Config
from sde_harl.errors import UserError
from sde_harl.live.state import planned_steps, read_state
from sde_harl.live.web import Server, state_page
from sde_harl.record.reader import open_run
from sde_harl.record.writer import RunFile

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return long_run(tmp_path_factory.mktemp("long") / "a" / "b", 100_000)


def test_the_last_rows_are_those_of_the_table(long: Path) -> None:
    run = open_run(long)
    for name in ("decisions", "evaluations", "resources", "training"):
        whole = run.table(name)
        for rows in (1, 7, 10**9):
            tail = run.tail(name, rows)
            assert tail.keys() == whole.keys()
            for key, values in tail.items():
                np.testing.assert_array_equal(values, whole[key][-rows:])
    assert run.tail("roles", 5) == {}


def test_the_last_rows_of_a_resumed_run_are_its_last_files(tmp_path: Path) -> None:
    for name, steps, before in (("run.h5", (1, 2, 3), None), ("run-2.h5", (3, 4), {"episodes": 2})):
        file = RunFile(tmp_path / name, META, "stop", rows_before=before)
        add(file, "episodes", step=list(steps), train=True)
        file.close()
    run = open_run(tmp_path / "run.h5")
    assert run.tail("episodes", 1)["step"].tolist() == [4]
    assert run.tail("episodes", 5)["step"].tolist() == [3, 4]


def test_a_run_is_read_while_it_is_written(tmp_path: Path) -> None:
    config = to_yaml(Config()).replace("steps: 5000000", "steps: 16384")
    meta = {**META, "config": config, "groups": "[[0], [1]]"}
    file = RunFile(tmp_path / "run.h5", meta, "stop")
    run = open_run(tmp_path / "run.h5")
    state = read_state(run, planned_steps(run))
    assert (state.steps, state.planned, state.phase) == (0, 16384, "running")
    assert [agent.health for agent in state.agents] == ["unknown", "unknown"]
    for step in (8192, 16384):
        file.add("training", step=step, win_rate=0.25, bytes_per_decision=8.0)
        for k, rank in enumerate((0, 1, 2)):
            add(file, "resources", rank=rank, step=step, time_s=step / 1000 + k, cpu_s=1.0)
        sent = {
            "train": True,
            "environments": 4,
            "payload_bytes": 40,
            "t_local": 10**6,
            "t_round_trip": 10**6,
        }
        add(
            file, "decisions", step=step, agent=0, rank=1, deadline_missed=1, latent_age=0.5, **sent
        )
        add(file, "decisions", step=step, agent=1, rank=2, latent_age=0.0, **sent)
        add(file, "faults", step=step, rank=2, agent=1, kind="absent")
        file.flush()()
        state = read_state(run, planned_steps(run))
        assert state.steps == step
    assert (state.phase, state.share, state.steps_per_s) == ("done", 1.0, 1000.0)
    assert state.results["win rate, training"] == "25.0%"
    assert state.results["bytes a decision"] == "8.0"
    first, second = state.agents
    assert (first.health, first.missed, first.age, first.bytes) == ("late at times", 0.25, 0.5, 10)
    assert (first.milliseconds, first.rank) == (2.0, "1")
    assert second.health == "absent"
    assert state.faults == {"absent": 2}
    file.close()


def test_the_terminal_shows_it(long: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = long.read_bytes()
    assert main(["live", str(long), "--once"]) == 0
    text = capsys.readouterr().out
    assert "smax/3s5z, happo, seed 1" in text
    assert "of 5,005,312 steps (2%)" in text
    assert "ally_7" in text
    assert "faults: size 2, absent 1" in text
    assert max(map(len, text.splitlines())) <= 100
    assert long.read_bytes() == before


def test_one_run_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        record(tmp_path / name)
    assert main(["live", str(tmp_path)]) == 2
    assert "expected one run, got 2" in capsys.readouterr().err


def serving(path: Path, host: str) -> Iterator[Server]:
    run = open_run(path)
    with Server(host, 0, lambda: read_state(run, planned_steps(run))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture
def local(long: Path) -> Iterator[Server]:
    yield from serving(long, "127.0.0.1")


@pytest.fixture
def reachable(long: Path) -> Iterator[Server]:
    yield from serving(long, "0.0.0.0")


def get(url: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_page_is_for_this_machine(local: Server) -> None:
    assert local.token == ""
    status, page = get(local.url)
    assert status == 200
    assert "smax/3s5z, happo, seed 1" in page
    assert 'http-equiv="refresh" content="2"' in page
    assert get(local.url, Host="evil.example")[0] == 403
    assert get(f"{local.url}etc/passwd")[0] == 404
    port = local.server_address[1]
    request = urllib.request.Request(local.url, data=b"x", method="POST")
    with pytest.raises(urllib.error.HTTPError, match="501"):
        urllib.request.urlopen(request)
    with pytest.raises(UserError, match=f"--web: 127.0.0.1:{port}: can't be listened on"):
        Server("127.0.0.1", port, local.read)


def test_elsewhere_a_token_is_needed(reachable: Server) -> None:
    port = reachable.server_address[1]
    base = f"http://127.0.0.1:{port}/"
    assert len(reachable.token) > 20
    assert reachable.url.endswith(f"?token={reachable.token}")
    assert get(base)[0] == 403
    assert get(f"{base}?token=x{reachable.token}")[0] == 403
    assert get(f"{base}?token=%C3%A9")[0] == 403
    assert get(f"{base}?token={reachable.token}")[0] == 200


def test_names_from_a_record_are_text(tmp_path: Path) -> None:
    names = json.dumps([HOSTILE, "\x1b]0;t\x07"])
    state = read_state(open_run(record(tmp_path, env=HOSTILE, algo=HOSTILE, agents=names)), 0)
    page = state_page(state)
    assert "<script" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(long: Path, tmp_path: Path, width: int, scheme: str) -> None:
    page = state_page(read_state(open_run(long), 200_000))
    seen = browser.look(page, tmp_path, width=width, scheme=scheme)
    assert seen["console"] == []
    assert seen["wide"] <= seen["view"], "the page scrolls sideways"
    assert "ally_7" in seen["text"]
    assert browser.is_dark(seen["paper"]) == (scheme == "dark")
    assert seen["paper"] != seen["ink"]
