"""The replay beside a run's checkpoints: exact, incremental, and safe to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import made
from states import differing
from test_replay import GAME, random_streams, rollout_of, sampled

from sde_harl.buffers import replay_file
from sde_harl.buffers.replay import Replay
from sde_harl.buffers.replay_file import ReplayFile
from sde_harl.errors import UserError

WORDS = ["--algo", "hasac", "--env", "mpe", "algo.warmup_steps=200", "algo.batch_size=32"]
WORDS += ["algo.updates=0.1", "algo.n_step=3", "train.rollout=30", "algo.buffer_size=400"]


def test_a_run_goes_on_exactly_with_its_replay(tmp_path: Path) -> None:
    """The ring of 100 entries for each of four environments is written over meanwhile."""
    whole = made(tmp_path / "whole", *WORDS, "train.steps=720")
    whole.run()
    first = made(tmp_path / "parts", *WORDS, "train.steps=480")
    first.run()
    folder = first.logger.folder
    second = made(tmp_path / "parts", "--resume", str(folder), "train.steps=720", *WORDS[4:])
    again, before = (each.learned.algorithm.experience.replay for each in (second, first))
    assert len(again) == len(before) > 300
    second.run()
    ours, theirs = (each.checkpoints.state() for each in (second, whole))
    for name in ("policy", "algorithm"):
        assert not differing(ours[name], theirs[name])
    replays = [each.learned.algorithm.experience.replay.state_dict() for each in (second, whole)]
    assert not differing(*replays)


def filled(folder: Path, *, rollouts: int) -> tuple[Replay, ReplayFile]:
    """A replay that is stored after each rollout."""
    replay = Replay(GAME, capacity=40, envs=2)
    file = ReplayFile(replay, GAME)
    rng = np.random.default_rng(0)
    for k in range(rollouts):
        replay.add(rollout_of(random_streams(rng, 2, 6, first=1 + 6 * k)))
        file.store(folder)
    return replay, file


def restored(folder: Path, like: Replay, *, before: bool = False) -> Replay:
    replay = Replay(GAME, capacity=40, envs=2)
    place = like.place
    replay.place = place._replace(after=place.before) if before else place
    ReplayFile(replay, GAME).restore(folder)
    return replay


@pytest.mark.parametrize("rollouts", [1, 2, 7])
def test_what_is_stored_bit_by_bit_comes_back(rollouts: int, tmp_path: Path) -> None:
    replay, _ = filled(tmp_path, rollouts=rollouts)
    back = restored(tmp_path, replay)
    for one, other in zip(sampled(replay, 3), sampled(back, 3)):
        np.testing.assert_array_equal(one, other)
    # An update that was interrupted had added one rollout more than the checkpoint knows of.
    earlier = restored(tmp_path, replay, before=True)
    assert earlier.place.after.tolist() == replay.place.before.tolist()


def test_streams_that_were_broken_off_come_back_so(tmp_path: Path) -> None:
    replay, file = filled(tmp_path, rollouts=2)
    later = rollout_of(random_streams(np.random.default_rng(5), 2, 6, first=50))
    later.anew[:] = True
    replay.add(later)
    file.store(tmp_path)
    for one, other in zip(sampled(replay, 3), sampled(restored(tmp_path, replay), 3)):
        np.testing.assert_array_equal(one, other)


def test_files_of_another_moment_or_damaged_are_refused(tmp_path: Path) -> None:
    replay, _ = filled(tmp_path, rollouts=4)

    def refused(text: str) -> None:
        with pytest.raises(UserError, match=text) as caught:
            restored(tmp_path, replay)
        assert "\n" not in str(caught.value)

    about = tmp_path / "about.json"
    good = about.read_text()
    for change, text in (
        ({"before": [0, 0], "after": [1, 1]}, "another moment"),
        ({"layout": "other"}, "other sizes or types"),
        ({"more": 1}, "other keys"),
    ):
        about.write_text(json.dumps({**json.loads(good), **change}))
        refused(text)
    about.write_text("{")
    refused("not the replay of this run")
    about.write_text(good)
    for name in ("rewards", "learnable", "entries"):
        path = tmp_path / name
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        refused(f"{name} is of another size")
        path.write_bytes(b"\xff" * len(content))
        refused("holds a number that it can't")
        path.write_bytes(content)
    restored(tmp_path, replay)
    about.unlink()
    refused("about.json|can't read")


@pytest.mark.parametrize(("stored", "more"), [(1, 1), (5, 1), (5, 3)])
def test_files_half_written_are_never_taken_for_whole_ones(
    stored: int, more: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two arrays; one rollout is played again, more would be lost unseen."""
    replay, file = filled(tmp_path, rollouts=stored)
    place = replay.place
    rng = np.random.default_rng(1)
    rollouts = [rollout_of(random_streams(rng, 2, 6, first=1)) for _ in range(more)]
    for each in rollouts:
        replay.add(each)
    write = replay_file._write

    def killed(path: Path, array: Any, spans: Any) -> None:
        if path.name == "rewards":
            raise KeyboardInterrupt
        write(path, array, spans)

    monkeypatch.setattr(replay_file, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        file.store(tmp_path)
    back = Replay(GAME, capacity=40, envs=2)
    back.place = place
    if more > 1:
        with pytest.raises(UserError, match="can't read the replay"):
            ReplayFile(back, GAME).restore(tmp_path)
        return
    ReplayFile(back, GAME).restore(tmp_path)
    back.add(rollouts[0])
    for one, other in zip(sampled(replay, 3), sampled(back, 3)):
        np.testing.assert_array_equal(one, other)


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    replay, file = filled(tmp_path / "replay", rollouts=1)
    (tmp_path / "plain").write_text("")
    with pytest.raises(UserError, match="can't store the replay"):
        file.store(tmp_path / "plain")
    assert len(replay)
