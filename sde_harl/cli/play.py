"""Plays the policies of a finished run, prints each episode and writes a video of them.

    sde-harl play RUN [--episodes 3] [--video battle.gif|battle.mp4] [--live] [--replays FOLDER]

RUN is a run's folder, its run.h5, one of its checkpoints (models/NAME.pt), or `latest`, the newest
run; a folder plays models/last.pt. The policies act greedily, in this one process, in the games of
the run's evaluations: episode k is the first one of evaluation environment k, and its seed is
printed. An emulated link (link.model) is emulated here too. Nothing is learnt or recorded.

Beside each picture stand every agent's bytes for the last decision, the age of the latent that it
was decided on, and the colour of its role group. --live shows the pictures in the terminal.
--replays keeps the game's own recordings: StarCraft II's replays, football's dumps.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.config.arguments import parse
from sde_harl.config.schema import Config
from sde_harl.drawing.canvas import DIM, Picture
from sde_harl.drawing.panel import AgentRow, Panel, with_panel
from sde_harl.drawing.terminal import HOME, as_text
from sde_harl.drawing.video import Video, check_name
from sde_harl.errors import ExitCode, UserError
from sde_harl.executor.in_process import loopback
from sde_harl.link.mpi import launched_ranks
from sde_harl.outside.process import on_stop
from sde_harl.record.finding import run_files
from sde_harl.run import dismiss, find_code, keep_freed_memory
from sde_harl.training.player import Moment, Player

LAST = "last.pt"
OUTCOMES = {1: "won", 0: "lost", -1: ""}
LAST_PICTURE_S = 1.5
"""Time for which the last position of an episode is shown."""


class PlayedRun(NamedTuple):
    """The run whose policies play."""

    folder: Path
    checkpoint: Path


def find_run(given: Path) -> PlayedRun:
    """Returns the folder and the checkpoint that a path means.

    Raises UserError where it is no run's folder, run.h5 or checkpoint.
    """
    # `latest`, or a pattern that names one run. What names none is told below.
    if not given.exists():
        files = run_files(given)
        if len(files) == 1:
            given = files[0]
    folder = given
    checkpoint = given / "models" / LAST
    if given.suffix == ".h5":
        folder = given.parent
        checkpoint = folder / "models" / LAST
    elif given.suffix == ".pt":
        folder = given.parent.parent
        checkpoint = given
    for needed in (folder / "config.yaml", checkpoint):
        if not needed.is_file():
            raise UserError(
                f"RUN: expected a run's folder, its run.h5 or a checkpoint in its models/, got"
                f" {given}: there is no {needed}"
            )
    return PlayedRun(folder=folder, checkpoint=checkpoint)


def play_config(run: PlayedRun, *, trust: bool) -> Config:
    """Returns the run's configuration, changed to play one game at a time in this process.

    Raises UserError where it is no configuration, or names code that isn't trusted.
    """
    words = [
        f"train.load={run.checkpoint}",
        "train.steps=0",
        "train.envs=1",
        "train.slots=1",
        "algo.minibatches=1",
        "algo.critic_minibatches=0",
        "codec.target_bytes=0",
        "diversity.coef=0",
        "env.workers=0",
        "placement.mode=local",
        # The checkpoint's groups, whatever they came from: nothing is learnt anew for it.
        "roles.source=learnt",
        "roles.from=none",
        "policy.groups=[]",
    ]
    config = parse([str(run.folder / "config.yaml"), *words, *["--trust"] * trust]).config
    assert config is not None  # no word asks for a text alone
    if config.env.name == "devices":
        raise UserError("RUN: expected a game, got env.name = devices: its world is not played")
    return config


class Shows:
    """Shows the moments of an episode where the user asked for it."""

    def __init__(self, player: Player, video: Path | None, *, live: bool) -> None:
        self._player = player
        self._path = video
        self._live = live
        self._video: Video | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Shows:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def wanted(self) -> bool:
        """True where the user asked for pictures."""
        return self._live or self._path is not None

    def show(self, moment: Moment, title: str) -> None:
        """Shows one moment. Raises UserError where the game can't be drawn."""
        if not self.wanted:
            return
        if moment.picture is None:
            raise UserError(f"--video, --live: {self._player.spec.name} can't be drawn")
        picture = with_panel(moment.picture, panel_of(moment, self._player, title))
        if self._path:
            self._write(picture, self._path, times=self._times(moment))
        if self._live:
            size = shutil.get_terminal_size()
            print(HOME + as_text(picture, columns=size.columns, lines=size.lines - 1), flush=True)
            time.sleep(self._times(moment) / self._player.pictures_per_s)

    def _times(self, moment: Moment) -> int:
        if moment.ended is None:
            return 1
        return round(LAST_PICTURE_S * self._player.pictures_per_s)

    def _write(self, picture: Picture, path: Path, *, times: int) -> None:
        if self._video is None:
            # Not before the first picture: only a game that was made tells its speed.
            video = Video(path, pictures_per_s=self._player.pictures_per_s)
            self._video = self._stack.enter_context(video)
        for _ in range(times):
            self._video.add(picture)


def panel_of(moment: Moment, player: Player, title: str) -> Panel:
    """Returns what stands beside the picture of a moment."""
    state = f"step {moment.steps} · return {moment.total_reward:.2f}"
    if moment.ended is not None and len(moment.ended.won):
        state += f" · {OUTCOMES[int(moment.ended.won[0])]}".rstrip(" ·")
    sent = sent_bytes(moment, len(player.spec.agents))
    mean = f"{sent.mean():.1f} bytes a decision" if moment.decisions else ""
    rows = [
        AgentRow(
            name=_name(agent, unit_type),
            colour=colour if moment.active[i] else DIM,
            alive=bool(moment.active[i]),
            sent_bytes=float(sent[i]),
            age=_age(moment, i),
        )
        for i, (agent, unit_type, colour) in enumerate(
            zip(player.spec.agents, player.spec.unit_types, player.colours)
        )
    ]
    # A name is the benchmark's and the map's: "smax/3m".
    _, played = player.spec.name.split("/", 1)
    return Panel(title=title, lines=(played, state, mean), rows=rows)


def sent_bytes(moment: Moment, agents: int) -> NDArray[np.float64]:
    """Returns (N,) bytes of the payloads of the moment's decision."""
    if moment.decisions is None or not len(moment.decisions.payload_bytes):
        return np.zeros(agents)
    sent: NDArray[np.float64] = moment.decisions.payload_bytes[-1].astype(np.float64)
    return sent


def _name(agent: str, unit_type: str) -> str:
    if unit_type and unit_type not in agent:
        return f"{agent} {unit_type}"
    return agent


def _age(moment: Moment, agent: int) -> str:
    """Returns the age of the latent that an agent's action was decided on, as a word."""
    decisions = moment.decisions
    if decisions is None or not len(decisions.age):
        return ""
    if decisions.fallback[-1, agent]:
        return "fallback"
    age = float(decisions.age[-1, agent])
    if np.isnan(age):
        return "idle"
    if age == 0:
        return "now"
    return f"{age:.0f} late"


def _play(player: Player, episode: int, shows: Shows, replays: Path | None) -> str:
    """Plays an episode; returns the line that is printed of it."""
    total = 0.0
    title = f"{player.spec.name.split('/')[0]}, episode {episode + 1}"
    for moment in player.play(episode, drawn=shows.wanted, replays=replays):
        total += sent_bytes(moment, len(player.spec.agents)).sum()
        shows.show(moment, title)
    return line_of(moment, total / (max(moment.steps, 1) * len(player.spec.agents)))


def line_of(last: Moment, mean_bytes: float) -> str:
    """Returns the line of an episode, from its last moment."""
    if last.void:
        return f"seed {last.seed} · void after {last.steps} steps: its game failed"
    assert last.ended is not None
    parts = [
        f"seed {last.seed}",
        f"return {last.ended.returns[0]:.2f}",
        OUTCOMES[int(last.ended.won[0])],
        f"{last.ended.length[0]} steps",
        f"{mean_bytes:.1f} bytes/decision",
    ]
    return " · ".join(filter(None, parts))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sde-harl play",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "run", metavar="RUN", type=Path, help="a run's folder, run.h5 or checkpoint, or latest"
    )
    parser.add_argument("--episodes", type=_count, default=3, metavar="N", help="games to play (3)")
    parser.add_argument("--video", type=Path, metavar="FILE", help="write a .gif or .mp4")
    parser.add_argument("--live", action="store_true", help="show the games in this terminal")
    parser.add_argument(
        "--replays",
        type=Path,
        metavar="FOLDER",
        help="keep the game's own recordings, if it has any",
    )
    parser.add_argument(
        "--trust", action="store_true", help="the run's config.yaml may name code: env.factory"
    )
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _make_folder(path: Path) -> None:
    """Raises UserError where there can't be such a folder."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--replays: {path}: can't be made: {error.strerror}") from error


def main(argv: list[str]) -> int:
    """Plays, and prints a line for each episode. Returns the exit code."""
    on_stop(signal.default_int_handler)
    options = _parser().parse_args(argv)
    if launched_ranks()[1] > 1:
        raise UserError("sde-harl play is started without mpirun: it plays in one process")
    if options.video:
        check_name(options.video)
    if options.live and not sys.stdout.isatty():
        raise UserError("--live: expected a terminal, got a file or a pipe")
    if options.replays:
        _make_folder(options.replays)
    keep_freed_memory()
    run = find_run(options.run)
    config = play_config(run, trust=options.trust)
    find_code(config, is_one_process=True)
    # Busy cores can take minutes for it.
    print(f"loading the libraries and {config.env.name}", file=sys.stderr, flush=True)
    with _player(config) as player, Shows(player, options.video, live=options.live) as shows:
        for episode in range(options.episodes):
            line = _play(player, episode, shows, options.replays)
            print(f"episode {episode + 1} of {options.episodes} · {line}", flush=True)
    if options.replays:
        print(f"the game's own recordings are in {options.replays}")
    if options.video:
        print(f"wrote {options.video} ({options.video.stat().st_size:,} bytes)")
    return ExitCode.DONE


@contextlib.contextmanager
def _player(config: Config) -> Iterator[Player]:
    """Gives a player to a `with` block, and frees it."""
    link = loopback()
    player = None
    try:
        player = Player(config, link)
        yield player
    finally:
        if player:
            player.close()
        dismiss(link, "")
