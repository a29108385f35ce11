"""`sde-harl envs` lists what can be played here, and says how to install the rest."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from launch import ROOT, environment

from sde_harl.cli import main as cli
from sde_harl.config.schema import EnvConfig
from sde_harl.envs.registry import ENVS, make


def output(capsys: pytest.CaptureFixture[str], *names: str) -> str:
    assert cli.main(["envs", *names]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.usefixtures("compile_cache")
def test_every_backend_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split() for line in output(capsys).splitlines()]
    for name, backends in ENVS.items():
        for key in backends:
            [row] = [line for line in lines if line[:2] == [name, key] and line[2] in ("yes", "no")]
            assert row


def test_sizes_are_the_environments_own(capsys: pytest.CaptureFixture[str]) -> None:
    lines = output(capsys, "mpe").splitlines()
    [row] = [line.split() for line in lines if "simple_speaker_listener " in line and "to" in line]
    spec = make(EnvConfig(name="mpe", map="simple_speaker_listener"), num_envs=1, seed=1).spec
    assert row == ["simple_speaker_listener", "2", "3", "to", "11", "3", "to", "5", "14", "25"]
    assert sorted(spec.obs_sizes) == [3, 11]
    assert (spec.state_size, spec.episode_limit) == (14, 25)


def test_what_is_missing_says_how_to_install_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rware.warehouse", None)
    out = output(capsys, "rware")
    assert "no" in out.split()
    assert "pip install -e '.[rware]'" in out
    assert "tiny-2ag" not in out


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["envs", "mamujok"]) == 2
    assert "NAME: unknown value 'mamujok'; choose one of: mamujoco" in capsys.readouterr().err


def rows(page: str) -> dict[tuple[str, ...], list[str]]:
    """Returns the cells of a page's tables without the figures of speed, by benchmark and map."""
    found: dict[tuple[str, ...], list[str]] = {}
    whose = ["", ""]
    for line in re.findall(r"^\| (.*) \|$", page, re.M):
        cells = re.split(r"(?<!\\) \| ", line)
        if cells[0] in ENVS:
            whose = cells[:2]
        if len(cells) == 5 and cells[0] in ENVS:
            found[tuple(whose)] = cells[:4]
        elif len(cells) == 8:
            found[(*whose, cells[2])] = cells[2:]
    return found


def test_the_page_is_what_the_command_writes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sde_harl.cli.envs.steps_per_s", lambda listed: "1")
    page = rows((ROOT / "docs" / "environments.md").read_text())
    here = rows(output(capsys, "--markdown"))
    played = {key[:2] for key in here if len(key) == 3}
    # The page lists maps of benchmarks that aren't installed everywhere, too.
    assert here == {key: page[key] for key in page if len(key) == 2 or key[:2] in played}
    assert len(here) > 50


def test_speed_is_measured_on_the_presets_map(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sde_harl.cli.envs.MEASURED_S", 0.1)
    out = output(capsys, "lbforaging", "--markdown")
    assert re.search(r"\| MIT \| [\d,]+ \(8x8-2p-2f, 20 at a time\) \|", out)


def test_the_module_is_the_same_command() -> None:
    words = [sys.executable, "-m", "sde_harl.envs", "rware", "mamujok"]
    ended = subprocess.run(words, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 2
    assert "error: NAME: unknown value 'mamujok'" in ended.stderr
