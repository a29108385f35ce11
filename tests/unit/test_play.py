"""`sde-harl play`: the games of a run's evaluations once more, and pictures of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from playing import at_random
from small_runs import SMALL, run

from sde_harl.cli import main as cli
from sde_harl.cli.play import find_run
from sde_harl.config.schema import EnvConfig
from sde_harl.drawing.canvas import FOE, ROLE_COLOURS, Canvas, View
from sde_harl.drawing.panel import AgentRow, Panel, with_panel
from sde_harl.drawing.terminal import as_text
from sde_harl.drawing.video import Video
from sde_harl.envs import registry, smax
from sde_harl.envs.base import EnvSpec
from sde_harl.envs.battle_picture import RIM, WIDTH, Battle, draw
from sde_harl.envs.particles_picture import Particle
from sde_harl.envs.particles_picture import draw as draw_particles
from sde_harl.envs.registry import make_watched
from sde_harl.envs.vector.games import Game, Outcome
from sde_harl.envs.vector.watching import watched_game
from sde_harl.errors import UserError

LOADING = "loading the libraries and "
FACTORY = "env.factory=mpe2.simple_spread_v3:parallel_env"
TRAINED = ["--env", "pettingzoo", "--algo", "happo", FACTORY, *SMALL, "train.steps=120"]
TRAINED += ["train.slots=2", "roles.source=one", "codec.target_bytes=30"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of mpe2's spread as an environment of the user's, evaluated in four games."""
    return run(*TRAINED, f"record.dir={tmp_path_factory.mktemp('trained')}")


def play(capsys: pytest.CaptureFixture[str], *words: object) -> list[str]:
    """Returns the lines that the command prints; it must end well."""
    code = cli.main(["play", *map(str, words)])
    out, err = capsys.readouterr()
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith(LOADING)
    return out.splitlines()


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Returns the line of a command that ends with exit code 2, without that of loading."""
    assert cli.main(["play", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return "".join(line for line in err.splitlines(True) if not line.startswith(LOADING))


def recorded(folder: Path) -> list[str]:
    """Returns the evaluation's episodes of a run, as the command prints them."""
    with h5py.File(folder / "run.h5") as file:
        rows = {name: column[:] for name, column in file["episodes"].items()}
    return [
        f"seed {rows['seed'][i]} · return {rows['return'][i]:.2f} · {rows['length'][i]} steps"
        for i in np.flatnonzero(rows["train"] == 0)
    ]


def test_it_plays_the_games_of_the_evaluation(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "spread.gif"
    lines = play(capsys, trained, "--episodes", 4, "--trust")
    for number, (line, wanted) in enumerate(zip(lines, recorded(trained)), start=1):
        assert line.startswith(f"episode {number} of 4 · {wanted} · ")
        assert line.endswith(" bytes/decision")
    filmed = play(capsys, trained, "--episodes", 1, "--video", video, "--trust")
    assert filmed[0].partition(" · ")[2] == lines[0].partition(" · ")[2]
    assert filmed[1] == f"wrote {video} ({video.stat().st_size:,} bytes)"
    with Image.open(video) as picture:
        # 25 steps and the beginning; the repeated last position is one picture that stays longer.
        assert picture.n_frames == 26
        assert picture.size == (730, 480)


def test_a_run_is_found_by_its_folder_its_record_and_its_checkpoints(trained: Path) -> None:
    last = trained / "models" / "last.pt"
    for given in (trained, trained / "run.h5", last):
        assert find_run(given) == (trained, last)


def test_the_latest_run_is_found(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").symlink_to(trained.parent)
    assert find_run(Path("latest")).folder.resolve() == trained.resolve()


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, tmp_path)
    assert line == (
        "error: RUN: expected a run's folder, its run.h5 or a checkpoint in its models/, got"
        f" {tmp_path}: there is no {tmp_path}/config.yaml\n"
    )


def test_code_that_the_file_names_needs_trust(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "env.factory: expected --trust" in refusal(capsys, trained)


def test_a_game_without_recordings_says_so(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, trained, "--trust", "--replays", tmp_path / "replays")
    assert line == "error: --replays: pettingzoo makes none; StarCraft II and football do\n"


def test_a_folder_that_cannot_be_made_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    line = refusal(capsys, trained, "--trust", "--replays", tmp_path / "file" / "replays")
    assert line.startswith("error: --replays: ")
    assert line.endswith("can't be made: Not a directory\n")


@pytest.mark.parametrize("name", ["battle.avi", "battle"])
def test_a_video_of_another_format_is_refused_before_anything_is_played(
    name: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, trained, "--video", name)
    assert line == f"error: --video: expected a name that ends in .gif or .mp4, got {name}\n"


def test_a_video_that_cannot_be_written_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, trained, "--trust", "--video", tmp_path / "missing" / "a.gif")
    assert "can't be written: No such file or directory" in line


def test_live_needs_a_terminal(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--live: expected a terminal" in refusal(capsys, trained, "--live")


def test_an_emulated_link_makes_latents_late(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(
        *["--env", "mpe", "--algo", "happo", *SMALL, "train.steps=120", "env.map=simple_spread"],
        *["link.model={delay_ms: 30}", "link.deadline_ms=20", f"record.dir={tmp_path}"],
    )
    capsys.readouterr()  # of the training
    seen: list[Panel] = []
    monkeypatch.setattr(
        "sde_harl.cli.play.with_panel",
        lambda picture, panel: seen.append(panel) or with_panel(picture, panel),
    )
    play(capsys, folder, "--episodes", 1, "--video", tmp_path / "a.mp4")
    ages = {row.age for panel in seen for row in panel.rows}
    assert "1 late" in ages or "2 late" in ages, ages


class Stairs(Game):
    """One agent climbs three steps. A picture is as bright as the agent is high."""

    spec = EnvSpec(
        name="stairs/three",
        agents=("climber",),
        obs_sizes=(1,),
        action_sizes=((2,),),
        state_size=1,
        episode_limit=3,
        continuous=False,
        unit_types=("",),
        has_win=False,
    )

    def reset(self, seed: int, out: Any) -> None:
        self._height = 0

    def step(self, actions: Any, out: Any) -> Outcome:
        self._height += 1
        return Outcome(reward=1.0, terminated=self._height == 3, truncated=False)

    def picture(self, colours: Any) -> Any:
        return np.full((2, 2, 3), self._height, np.uint8)

    def close(self) -> None:
        pass


def test_the_last_position_is_drawn_and_not_the_next_beginning() -> None:
    watched = watched_game(Stairs(), ROLE_COLOURS, seed=1, first_env=0)
    watched.vector.reset()
    brightness = [watched.artist.picture().max()]  # type: ignore[union-attr]
    for _ in range(3):
        watched.vector.send(np.zeros((1, 1, 1), np.int32))
        step = watched.vector.recv()
        brightness.append(watched.artist.picture().max())  # type: ignore[union-attr]
    assert step.terminated.all()
    assert brightness == [0, 1, 2, 3]


@pytest.mark.usefixtures("compile_cache")
def test_a_compiled_game_is_drawn_as_it_ends() -> None:
    config = EnvConfig(name="mpe", map="simple_spread", backend="jax")
    watched = make_watched(config, ROLE_COLOURS, seed=1, env=7)
    plain = registry.make(config, num_envs=1, seed=1, first_env=7)
    now = watched.vector.reset()
    np.testing.assert_array_equal(plain.reset().obs, now.obs)
    rng = np.random.default_rng(0)
    for _ in range(25):
        actions = at_random(plain, now, rng)
        for vector in (watched.vector, plain):
            vector.send(actions)
            now = vector.recv()
    assert now.truncated.all()
    # The agents' own places are the third and fourth number of what they saw last.
    world = watched.vector.played()  # type: ignore[attr-defined]
    np.testing.assert_allclose(world.agents, now.final_obs[0, :, 2:4], atol=1e-6)
    assert watched.artist.picture() is not None


def test_a_game_without_pictures_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(
        *["--env", "pettingzoo", "--algo", "happo", *SMALL, "train.steps=120"],
        *["env.factory=odd_envs:Torque", f"record.dir={tmp_path}"],
    )
    capsys.readouterr()  # of the training
    assert len(play(capsys, folder, "--episodes", 1, "--trust")) == 1
    line = refusal(capsys, folder, "--trust", "--video", tmp_path / "a.gif")
    assert line == "error: --video, --live: pettingzoo/odd_envs.Torque can't be drawn\n"


COLOURS = ROLE_COLOURS[:2]


def battle(**changes: Any) -> Battle:
    """Returns a battle of two allies, 10 apart, against one opponent near the first."""
    plain = Battle(
        positions=np.array([[8.0, 16.0], [8.0, 26.0], [12.0, 16.0]]),
        alive=np.array([True, True, True]),
        health=np.ones(3),
        types=["marine"] * 3,
        radius=np.full(3, 0.375),
        sight=np.full(3, 9.0),
        target=np.array([2, 1, 2]),
        fired=np.zeros(3, bool),
        allies=2,
        size=(32.0, 32.0),
    )
    return plain._replace(**changes)


def at(picture: Any, x: float, y: float) -> tuple[int, ...]:
    """Returns the picture's colour at a place of the field."""
    scale = WIDTH / (32.0 + 2 * RIM)
    return tuple(picture[round((32.0 + RIM - y) * scale), round((x + RIM) * scale)].tolist())


def near(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return max(abs(a - b) for a, b in zip(one, other)) < 40


def test_a_battle_shows_units_in_their_colours() -> None:
    picture = draw(battle(), COLOURS)
    # Beside the letter in a unit's middle.
    assert near(at(picture, 8.0, 16.32), ROLE_COLOURS[0])
    assert near(at(picture, 8.0, 26.32), ROLE_COLOURS[1])
    assert near(at(picture, 12.0, 16.32), FOE)


def test_a_battle_shows_who_fired() -> None:
    aiming = draw(battle(), COLOURS)
    firing = draw(battle(fired=np.array([True, False, False])), COLOURS)
    assert not near(at(aiming, 10.0, 16.0), ROLE_COLOURS[0])
    assert near(at(firing, 10.0, 16.0), ROLE_COLOURS[0])


def test_an_opponent_that_nobody_sees_is_hollow() -> None:
    away = np.array([[8.0, 16.0], [8.0, 26.0], [28.0, 4.0]])
    picture = draw(battle(positions=away), COLOURS)
    assert not near(at(picture, 28.0, 4.3), FOE)


@pytest.mark.usefixtures("compile_cache")
def test_a_battle_of_jaxmarls_is_drawn() -> None:
    import jax

    rules = smax._make_rules("3m")
    game, _ = rules.begin(jax.random.PRNGKey(1))
    key, battle = jax.tree.map(np.asarray, game)
    picture = rules.picture((key, battle), ROLE_COLOURS[:3])
    for colour in (*ROLE_COLOURS[:3], FOE):
        assert (np.abs(picture.astype(int) - colour).max(-1) < 20).any()
    # Attacks begin at 5. Allies number the opponents from 3 on, and are numbered backwards.
    attacks = np.array([5, 0, 7, 5, 6, 0])
    assert rules._targets(attacks).tolist() == [3, 1, 5, 2, 1, 5]


@pytest.mark.parametrize(
    ("scenario", "shown"),
    [
        ("simple_speaker_listener", [*ROLE_COLOURS[:2]]),
        ("simple_tag", [*ROLE_COLOURS[:3], FOE]),
    ],
)
def test_particles_have_the_colours_of_their_roles(
    scenario: str, shown: list[tuple[int, int, int]]
) -> None:
    config = EnvConfig(name="mpe", map=scenario)
    watched = make_watched(config, ROLE_COLOURS, seed=1, env=0)
    watched.vector.reset()
    picture = watched.artist.picture()
    assert picture is not None
    for colour in shown:
        assert (picture == colour).all(-1).any()
    watched.vector.close()


def test_a_word_is_written_and_a_goal_has_its_colour() -> None:
    silent = Particle(place=(0.0, 0.0), radius=0.2, colour=ROLE_COLOURS[0])
    told = silent._replace(goal=(0, 255, 0))
    assert (draw_particles([], [told]) == (0, 255, 0)).all(-1).any()
    above = draw_particles([], [silent._replace(word="A")])[:200]
    assert above.max() > 150 > draw_particles([], [silent])[:200].max()


def test_the_panel_has_room_for_every_agent() -> None:
    picture = np.zeros((101, 101, 3), np.uint8)
    row = AgentRow(name="a", colour=FOE, alive=True, sent_bytes=8.0, age="now")
    shown = with_panel(picture, Panel(title="t", lines=("l",), rows=[row] * 27))
    height, width = shown.shape[:2]
    assert height % 2 == width % 2 == 0  # for mp4
    red = (shown == FOE).all(-1).any(1)
    assert (np.diff(red.astype(int)) == 1).sum() == 27


def test_a_canvas_has_y_upwards() -> None:
    canvas = Canvas(View(0, 0, 10, 10), width=100)
    canvas.box((0, 8), (2, 10), FOE)
    assert tuple(canvas.picture()[5, 5]) == FOE


def test_a_terminal_shows_a_picture_in_half_letters() -> None:
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:50] = (255, 0, 0)
    lines = as_text(picture, columns=80, lines=40).split("\n")
    assert len(lines) == 20
    assert {line.count("\u2580") for line in lines} == {80}
    assert "38;2;255;0;0;48;2;255;0;0" in lines[0]
    assert "38;2;0;0;0;48;2;0;0;0" in lines[-1]


def test_an_mp4_has_every_picture(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    with Video(tmp_path / "a.mp4", pictures_per_s=5) as video:
        for shade in range(7):
            video.add(np.full((64, 98, 3), 30 * shade, np.uint8))
    assert ffmpeg.count_frames_and_secs(tmp_path / "a.mp4")[0] == 7


def test_another_name_than_a_video_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a name that ends in"):
        Video(tmp_path / "a.webm", pictures_per_s=5)
