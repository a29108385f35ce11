"""record.metrics_port: a run's newest scalars as Prometheus reads them, and what Grafana shows."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from sde_harl.errors import UserError
from sde_harl.record.metrics import Metrics
from sde_harl.record.metrics_port import ODD, PREFIX, MetricsPort, as_text

LINE = re.compile(r'([a-z_][a-z0-9_]*)\{(?:[a-z]+="(?:[^"\\\n]|\\.)*",?)*\} (-?[0-9.e+-]+|inf)')


def get(port: int, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return str(answer.read().decode())


def values(text: str) -> dict[str, float]:
    found = [LINE.fullmatch(line) for line in text.splitlines() if not line.startswith("#")]
    assert all(found), text
    return {match[1]: float(match[2]) for match in found if match}


def test_the_newest_scalars_are_served(tmp_path: Path) -> None:
    port = MetricsPort(0, {"env": "smax/3m", "seed": "1"})
    metrics = Metrics(tmp_path, tensorboard=False, total_steps=200, port=port)
    assert get(port.port) == ""
    metrics.log(100, {"win_rate": 0.25, "link/missed": 0.0, "return": float("nan")})
    metrics.log(100, {"eval/win_rate": 0.5})
    text = get(port.port)
    assert 'sde_harl_win_rate{env="smax/3m",seed="1"} 0.25\n' in text
    found = values(text)
    assert found.pop("sde_harl_time_s") >= 0
    assert found == {
        "sde_harl_step": 100,
        "sde_harl_planned_steps": 200,
        "sde_harl_win_rate": 0.25,
        "sde_harl_link_missed": 0,
        "sde_harl_eval_win_rate": 0.5,
    }
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(port.port, "/etc/passwd")
    with pytest.raises(UserError, match=f"^record.metrics_port: 127.0.0.1:{port.port} can't be"):
        MetricsPort(port.port, {})
    metrics.close()
    with pytest.raises(urllib.error.URLError):
        get(port.port)


def test_names_can_not_break_a_line() -> None:
    text = as_text({"a b\n{": 1.0}, {"env": 'x"} 1\n\\'})
    assert list(values(text)) == ["sde_harl_a_b__"]


def test_grafana_asks_for_what_a_run_tells(trained: Path) -> None:
    header = (trained / "metrics.csv").read_text().partition("\n")[0].split(",")
    told = {PREFIX + ODD.sub("_", name) for name in [*header, "planned_steps"]}
    board = json.loads((Path(__file__).parents[2] / "jobs" / "grafana.json").read_text())
    asked = {target["expr"] for panel in board["panels"] for target in panel["targets"]}
    assert asked <= told
