"""Role groups: learnt where the answer is known, taken from elsewhere, written and read back."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from games import draw_by
from kinds import kinds_vector
from launch import launch
from limits import hang_limit_s

from sde_harl.config.arguments import parse
from sde_harl.config.schema import Config, EnvConfig, PolicyConfig, RolesConfig
from sde_harl.envs.base import EnvSpec
from sde_harl.envs.registry import VectorEnv, make
from sde_harl.errors import UserError
from sde_harl.executor.in_process import loopback
from sde_harl.record.writer import RunFile
from sde_harl.roles import identity
from sde_harl.roles.clusters import as_groups, cluster
from sde_harl.roles.examples import make_examples
from sde_harl.roles.experience import play_at_random, random_actions
from sde_harl.roles.grouping import Roles, find_roles
from sde_harl.training.build import build
from sde_harl.training.trainer import Trainer

KINDS = (0, 1, 2) * 4
STEPS = 6400


def learn(env: VectorEnv, seed: int, steps: int = STEPS, count: int = 0) -> Roles:
    return find_roles(
        Config(roles=RolesConfig(source="learnt", steps=steps, count=count), seed=seed), [env]
    )


def points(*places: float, noise: float = 0.01) -> np.ndarray:
    """(N, 2, 2) an agent at each place on a line, its halves `noise` on either side."""
    centres = np.array(places, np.float32)[:, None, None] * np.array([1, 0], np.float32)
    return centres + np.array([[[0, noise], [0, -noise]]], np.float32)


# ---- the identities


def test_kinds_are_found_by_what_their_moves_do() -> None:
    """Observations hold the agents' numbers, sizes differ inside a kind, and nobody tells how many
    kinds there are.
    """
    env = kinds_vector(KINDS, seed=1)
    assert learn(env, seed=1).groups == as_groups(env.spec.unit_types)


def test_agents_of_one_kind_are_one_group() -> None:
    assert len(learn(kinds_vector((1,) * 6, seed=1), seed=1).groups) == 1


@pytest.mark.slow
@pytest.mark.timeout(hang_limit_s(1800.0))
@pytest.mark.parametrize("kinds", [KINDS, (0, 1, 1, 2), (0,) * 12])
def test_kinds_are_found_from_every_seed(kinds: tuple[int, ...]) -> None:
    for seed in range(1, 11):
        assert learn(kinds_vector(kinds, seed), seed).groups == as_groups(kinds), seed


@pytest.mark.slow
@pytest.mark.timeout(hang_limit_s(3600.0))
def test_stalkers_and_zealots_are_told_apart() -> None:
    """On 3s5z of SMAX, at least eight seeds of ten are right.

    That holds with the number of roles given, and with the number that the index chooses.
    """
    given = found = 0
    for seed in range(1, 11):
        env = make(EnvConfig(name="smac", map="3s5z", backend="smax"), num_envs=64, seed=seed)
        want = as_groups(env.spec.unit_types)
        roles = learn(env, seed, steps=RolesConfig().steps)
        assert roles.embedding
        found += roles.groups == want
        given += cluster(roles.embedding.mu, len(want), seed).groups == want
    assert (given >= 8, found >= 8) == (True, True), (given, found)


def test_the_same_seed_gives_the_same_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "UPDATES", 30)
    first, again, other = (
        learn(kinds_vector((0, 1), 3), seed, 320).embedding for seed in (3, 3, 4)
    )
    assert first
    assert again
    assert other
    np.testing.assert_array_equal(first.mu, again.mu)
    assert (first.mu != other.mu).all()


def test_a_feature_that_never_varies_is_hidden_and_not_predicted() -> None:
    experience = play_at_random([kinds_vector((0, 1), 1)], 160, seed=1)
    for each in make_examples(experience):
        assert each.varies.tolist() == [1] * 5 + [0] * 3 + [
            1
        ]  # place and noise; number and constant; the reward
        assert (each.inputs[:, 5:8] == 0).all()
        assert (each.inputs[:, :5].std(0) > 0).all()


# ---- the experience


def test_experience_is_what_the_environments_did() -> None:
    env = kinds_vector((0, 2, 1), seed=2, envs=3)
    played = play_at_random([env, kinds_vector((0, 2, 1), seed=5, envs=2)], 61, seed=0)
    assert played.obs.shape == (13, 5, 3, 9)
    assert played.actions.shape == (
        13,
        5,
        3,
        5,
    )
    assert (played.actions.sum(-1) == 1).all()
    goes_on = np.ones(12, bool)
    goes_on[9] = False  # episodes last 10 steps
    np.testing.assert_array_equal(played.next_obs[:-1][goes_on], played.obs[1:][goes_on])
    assert (played.next_obs[9] != played.obs[10]).any()
    assert not played.active.all()
    assert (played.obs[~played.active] == 0).all()


def test_random_actions_are_what_is_available() -> None:
    spec = EnvSpec("t/t", ("a", "b"), (1, 1), ((3, 2), (2,)), 1, 1, False, ("", ""), False)
    available = np.broadcast_to(spec.choices(), (500, 2, 5)).copy()
    available[:, 0, 1] = False
    actions = random_actions(spec, available, draw_by(np.random.default_rng(0), 2))
    assert sorted(set(map(tuple, actions[:, 0].tolist()))) == [(0, 0), (0, 1), (2, 0), (2, 1)]
    assert sorted(set(map(tuple, actions[:, 1].tolist()))) == [(0, 0), (1, 0)]
    assert abs((actions[:, 0, 0] == 2).mean() - 0.5) < 0.1
    continuous = spec._replace(continuous=True, action_sizes=((2,), (1,)))
    drawn = random_actions(
        continuous,
        np.broadcast_to(continuous.choices(), (500, 2, 2)),
        draw_by(np.random.default_rng(0), 2),
    )
    assert (drawn[:, 1, 1] == 0).all()
    assert np.abs(drawn[:, :, 0].std() - 1) < 0.1


def test_agents_that_never_live_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    played = play_at_random([kinds_vector((0, 1), 1)], 160, seed=1)
    played.active[:, :, 1] = False
    with pytest.raises(UserError, match=r"roles\.steps: too few, agent_1 was alive in 0 steps"):
        identity.embed(played, ("agent_0", "agent_1"), 1)


# ---- the groups


@pytest.mark.parametrize(
    ("places", "groups"),
    [
        ((0, 5, 0.1, 5.1), ((0, 2), (1, 3))),
        (
            (0, 5, 10),
            ((0,), (1,), (2,)),
        ),  # as many as agents, where the index of points alone is undefined
        ((0, 0.004, 0.002), ((0, 1, 2),)),  # closer to each other than to themselves
        ((3,), ((0,),)),
    ],
)
def test_the_index_counts_the_groups(
    places: tuple[float, ...], groups: tuple[tuple[int, ...], ...]
) -> None:
    assert cluster(points(*places), 0, 1).groups == groups


def test_the_index_is_davies_and_bouldins() -> None:
    """Two pairs at 0 and 2, and at 10 and 12: s is 1 in both groups, and d is 10."""
    scores = cluster(points(0, 2, 10, 12, noise=0.0), 2, 1).scores
    assert [score.groups for score in scores] == [2, 3, 4]
    assert scores[0].davies_bouldin == pytest.approx((1 + 1) / 10)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_as_many_groups_as_are_asked_for(count: int) -> None:
    groups = cluster(points(0, 0.001, 9), count, 1).groups
    assert len(groups) == count
    assert sorted(agent for group in groups for agent in group) == [
        0,
        1,
        2,
    ]


# ---- the sources


def source(
    name: str, env: VectorEnv, **policy: tuple[tuple[int, ...], ...]
) -> tuple[tuple[int, ...], ...]:
    return find_roles(
        Config(roles=RolesConfig(source=name), policy=PolicyConfig(**policy)), [env]
    ).groups


def test_groups_without_learning() -> None:
    env = kinds_vector((0, 1, 0), 1)
    assert source("types", env) == ((0, 2), (1,))
    assert source("alone", env) == ((0,), (1,), (2,))
    assert source("one", env) == ((0, 1, 2),)
    assert source("config", env, groups=((2, 1), (0,))) == ((2, 1), (0,))


def test_types_must_be_known_and_counts_fit() -> None:
    env = kinds_vector((0, 1, 0), 1)
    env.spec = env.spec._replace(unit_types=("", "", ""))
    with pytest.raises(UserError, match=r"roles\.source: test/kinds doesn't tell"):
        source("types", env)
    with pytest.raises(UserError, match=r"roles\.count: expected 3"):
        learn(env, 1, count=4)


def write_run(path: Path, **meta: object) -> Path:
    with h5py.File(path, "w") as file:
        group = file.create_group("meta")
        for name, value in meta.items():
            group.attrs[name] = value if isinstance(value, str) else json.dumps(value)
    return path


NAMES = ["agent_0", "agent_1", "agent_2"]
BAD_RUNS = {
    "no groups": {"agents": NAMES},
    "no JSON": {"agents": NAMES, "groups": "[[0"},
    "no list": {"agents": NAMES, "groups": 3},
    "other agents": {"agents": ["a", "b"], "groups": [[0], [1]]},
    "agent missing": {"agents": NAMES, "groups": [[0], [2]]},
    "agent twice": {"agents": NAMES, "groups": [[0, 1], [1, 2]]},
    "no numbers": {"agents": NAMES, "groups": [[0, True], ["2"]]},
    "no lists": {"agents": NAMES, "groups": [0, 1, 2]},
}


def of_run(path: Path) -> tuple[tuple[int, ...], ...]:
    return find_roles(
        Config(roles=RolesConfig(from_=str(path))), [kinds_vector((0, 1, 0), 1)]
    ).groups


def test_groups_of_another_run(tmp_path: Path) -> None:
    assert of_run(write_run(tmp_path / "run.h5", agents=NAMES, groups=[[1], [2, 0]])) == (
        (1,),
        (2, 0),
    )


@pytest.mark.parametrize("name", BAD_RUNS)
def test_another_runs_groups_are_checked(name: str, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.h5", **BAD_RUNS[name])
    with pytest.raises(UserError, match=str(path)):
        of_run(path)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for path in (tmp_path / "text", tmp_path / "missing", write_run(tmp_path / "bare.h5")):
        with pytest.raises(UserError, match=str(path)):
            of_run(path)


# ---- in a run


def test_a_run_learns_its_roles_and_writes_them_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "UPDATES", 60)
    small = [
        "--algo",
        "happo",
        "--env",
        "mpe",
        "env.map=simple_speaker_listener",
        "env.workers=0",
        "train.envs=4",
    ]
    small += ["train.rollout=10", "train.steps=40", "eval.episodes=4", "record.tensorboard=false"]

    def run(folder: str, *words: str) -> Path:
        config = parse([*small, *words, f"record.dir={tmp_path / folder}"]).config
        assert config
        learner = Trainer(build(config, loopback()))
        learner.run()
        assert [net.members for net in learner.learned.policy.groups] == [(0, 1)]
        return learner.logger.folder

    first = run("first", "roles.source=learnt", "roles.steps=400", "roles.count=1")
    with h5py.File(first / "run.h5") as file:
        assert file["meta"].attrs["roles_source"] == "learnt"
        assert json.loads(file["meta"].attrs["groups"]) == [[0, 1]]
        mu = np.stack([file["roles"][f"mu_{k}"][:] for k in range(identity.SIZE)], -1)
        assert mu.shape == (4, identity.SIZE)
        assert file["roles"]["agent"][:].tolist() == [0, 0, 1, 1]
        assert f"mu_{identity.SIZE}" not in file["roles"]
        assert (file["roles"]["sigma_0"][:] > 0).all()
        assert file["role_scores"]["groups"][:].tolist() == [2]
        assert np.isfinite(file["role_scores"]["index"][:]).all()
    assert "roles (learnt): 2 agents in 1 group" in run_log(first)
    assert run_log(run("second", f"roles.from={first}/run.h5")).count("roles (") == 1
    run("third", "roles.source=one")
    by_hand = run("by hand", "policy.groups=[[0, 1]]")
    np.testing.assert_array_equal(
        trained(first), trained(by_hand)
    )  # random play leaves no trace in the games
    learnt = ["roles.source=learnt", "roles.count=1", f"train.load={first}/models/last.pt"]
    monkeypatch.setattr("sde_harl.roles.grouping.play_at_random", None)  # the checkpoint tells
    assert f"roles ({first}/models/last.pt): 2 agents in 1 group" in run_log(run("fourth", *learnt))
    with pytest.raises(
        UserError, match=r"last\.pt is of the role groups \[\[0, 1\]\], not \[\[1, 0\]\]"
    ):
        run("fifth", "policy.groups=[[1, 0]]", f"train.load={first}/models/last.pt")


def test_the_analysis_shows_what_was_learnt(tmp_path: Path) -> None:
    """Three agents at 0, 3 and 4 on a line, halves 0.02 apart; the last two are a group."""
    meta = {
        "env": "t/t",
        "agents": '["a", "b", "c"]',
        "unit_types": '["x", "", ""]',
        "groups": "[[0], [1, 2]]",
    }
    file = RunFile(tmp_path / "run.h5", {**meta, "seed": 5, "roles_source": "learnt"}, "stop")
    mu = np.zeros((6, identity.SIZE), np.float32)
    mu[:, 0], mu[:, 1] = [0, 0, 3, 3, 4, 4], [0.01, -0.01] * 3
    numbers = {f"{name}_{k}": mu[:, k] for name in ("mu", "sigma") for k in range(identity.SIZE)}
    file.add("roles", agent=[0, 0, 1, 1, 2, 2], half=[0, 1] * 3, **numbers)
    file.add("role_scores", groups=[2, 3], index=[0.25, 0.5])
    file.close()
    words = [
        "analysis/roles.py",
        str(tmp_path / "run.h5"),
        "--json",
        "--plot",
        str(tmp_path / "a.png"),
    ]
    done = launch(1, *words)
    [told] = json.loads(done.out)
    places = [
        [each[key] for key in ("to_itself", "to_own_group", "to_next_group")]
        for each in told["agents"]
    ]
    np.testing.assert_allclose(places[0][::2], [0.02, 3.5], rtol=1e-5)
    np.testing.assert_allclose(places[1:], [[0.02, 1, 3], [0.02, 1, 4]], rtol=1e-5)
    assert places[0][1] is None
    assert told["index"] == {"2": 0.25, "3": 0.5}
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    table = launch(1, *words[:2]).out
    assert "seed 5; 2 group(s), learnt" in table
    assert "0.250" in table


def test_the_analysis_takes_runs_whose_groups_were_not_learnt(tmp_path: Path) -> None:
    for name, groups, code in (("good", [[0, 1], [2]], 0), ("bad", [[0], [2]], 2)):
        path = write_run(tmp_path / f"{name}.h5", agents=NAMES, groups=groups, env="t/t")
        words = [
            "analysis/roles.py",
            str(path),
            "--plot",
            str(tmp_path / "a.png"),
        ]
        done = launch(1, *words)
        assert done.code == code, done.err
        [told] = done.err.splitlines()
        assert told.startswith("roles: " if code else "wrote "), told


def trained(folder: Path) -> np.ndarray:
    with h5py.File(folder / "run.h5") as file:
        return np.array(
            [
                file["training"][name][:]
                for name in ("return", "value_loss", "policy_loss", "entropy")
            ]
        )


def run_log(folder: Path) -> str:
    return (folder / "log.txt").read_text()
