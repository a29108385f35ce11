"""Every algorithm, environment, codec and split in a registry runs a few updates."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from small_runs import made, play
from states import differing

from sde_harl.algorithms.registry import ALGORITHMS, OFF_POLICY, ON_POLICY
from sde_harl.auxiliary.rate_control import GAIN
from sde_harl.codec.registry import NAMES
from sde_harl.envs.registry import ENVS
from sde_harl.errors import UserError
from sde_harl.record.checkpoint import load, save
from sde_harl.training.checkpoint import as_arrays

PLAYED = {
    "smac": ["env.map=3m"],
    "mpe": [
        "env.map=simple_reference",
        "env.map=simple_speaker_listener",
        "env.workers=1",
        "env.backend=jax",
    ],
    "mamujoco": ["env.map=HalfCheetah-2x3", "env.map=Ant-4x2"],
    "pettingzoo": ["env.factory=mpe2.simple_speaker_listener_v4:parallel_env"],
    "smacv2": [],  # only where StarCraft II is: test_starcraft.py and test_starcraft_clients.py
    # Of packages that not everyone has: their own tests play them.
    "football": [],
    "lbforaging": [],
    "rware": [],
    "devices": [],  # which nothing is learnt from: test_sensors.py
}
WIDEST = 5  # dimensions of the listener's continuous actions; the speaker's are padded to as many
CONTINUOUS = {"mamujoco"}
REPLAYING = {
    False: [],
    True: ["algo.warmup_steps=0", "algo.batch_size=32", "algo.updates=0.1", "train.rollout=30"],
}
"""What a small run of an off-policy algorithm needs besides."""


EVERYWHERE = [(algo, env, word) for algo in ON_POLICY for env in ENVS for word in PLAYED[env]]
# The others of the family differ from hasac in their losses alone.
EVERYWHERE += [("hasac", env, word) for env in ENVS for word in PLAYED[env][:1]]


@pytest.mark.parametrize(("algo", "env", "word"), EVERYWHERE)
def test_every_algorithm_plays_every_environment(
    algo: str, env: str, word: str, tmp_path: Path
) -> None:
    words = ["--algo", algo, "--env", env, word, *REPLAYING[algo in OFF_POLICY]]
    if env in CONTINUOUS and not ALGORITHMS[algo].continuous:
        with pytest.raises(UserError, match=r"algo.name"):
            play(tmp_path, *words)
        return
    assert len(play(tmp_path, *words)["step"]) == 2


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_algorithm_acts_in_the_action_spaces_that_it_says(
    algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "--algo",
        algo,
        "--env",
        "mpe",
        "env.map=simple_speaker_listener",
        "env.continuous_actions=true",
    ]
    words += REPLAYING[algo in OFF_POLICY]
    if ALGORITHMS[algo].continuous:
        assert len(play(tmp_path, *words)["step"]) == 2
    monkeypatch.setattr(ALGORITHMS[algo], "continuous", False)
    with pytest.raises(UserError, match=r"algo.name"):
        play(tmp_path, *words)


@pytest.mark.parametrize("algo", OFF_POLICY)
def test_an_algorithm_of_numbers_makes_no_choices(algo: str, tmp_path: Path) -> None:
    words = ["--algo", algo, "--env", "mpe", *REPLAYING[True]]
    if ALGORITHMS[algo].discrete:
        assert len(play(tmp_path, *words, "env.state_type=FP")["step"]) == 2
        return
    with pytest.raises(UserError, match=r"algo.name: \w+ can't act by the choices of mpe"):
        play(tmp_path, *words)


@pytest.mark.parametrize("algo", ON_POLICY)
def test_every_algorithm_has_recurrent_policies(algo: str, tmp_path: Path) -> None:
    """Episodes of 25 steps end inside chunks of 10; the second rollout goes on after the first."""
    words = [
        "--algo",
        algo,
        "--env",
        "mpe",
        "policy.recurrent=true",
        "algo.chunk=10",
        "env.state_type=FP",
    ]
    assert len(play(tmp_path, *words, "policy.local_blocks=0")["step"]) == 2


@pytest.mark.parametrize("algo", ON_POLICY)
def test_every_algorithm_has_critics_of_agents_own_states(algo: str, tmp_path: Path) -> None:
    words = ["--algo", algo, "--env", "mpe", "env.map=simple_speaker_listener", "env.state_type=FP"]
    assert len(play(tmp_path, *words, "policy.groups=[[1],[0]]")["step"]) == 2


@pytest.mark.parametrize("local_blocks", [0, 1, 3])
@pytest.mark.parametrize("codec", NAMES)
def test_every_codec_carries_every_split(codec: str, local_blocks: int, tmp_path: Path) -> None:
    words = [
        "--algo",
        "happo",
        "--env",
        "mpe",
        "env.map=simple_speaker_listener",
        "policy.blocks=4",
    ]
    tables = play(tmp_path, *words, f"codec.name={codec}", f"policy.local_blocks={local_blocks}")
    bytes_per_decision, elements = tables["bytes_per_decision"], 8 if local_blocks else (3 + 11) / 2
    if codec != "entropy":
        size = {"float32": 4, "float16": 2, "int8": 1}[codec]
        scale = 4 if codec == "int8" else 0  # a float32 a row
        np.testing.assert_allclose(bytes_per_decision, size * elements + scale)


def test_a_role_group_shares_its_trunk(tmp_path: Path) -> None:
    tables = play(tmp_path, "--algo", "happo", "--env", "mpe", "policy.groups=[[0,2],[1]]")
    assert len(tables["step"]) == 2


@pytest.mark.parametrize(
    "words",
    [
        ["policy.groups=[[0,2],[1]]", "policy.recurrent=true", "algo.chunk=10"],
        ["algo.share_param=true", "env.continuous_actions=true", "diversity.beta1=0.6"],
        ["policy.groups=[[0,1,2]]", "policy.local_blocks=3", "codec.name=none"],
    ],
    ids=["recurrent", "continuous", "whole"],
)
def test_a_diverse_group_reports_what_it_earns(words: list[str], tmp_path: Path) -> None:
    tables = play(tmp_path, "--algo", "happo", "--env", "mpe", "diversity.coef=0.1", *words)
    parts = tables["diversity.policy_kl"] + tables["diversity.predictor"]
    np.testing.assert_allclose(tables["diversity.reward"], 0.1 * parts, rtol=1e-4, atol=1e-7)
    assert (parts != 0).all()


def test_diversity_needs_a_group(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"diversity.coef"):
        play(tmp_path, "--algo", "happo", "--env", "mpe", "diversity.coef=0.1")


def test_groups_must_hold_every_agent_of_the_environment(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"policy.groups"):
        play(tmp_path, "--algo", "happo", "--env", "mpe", "policy.groups=[[0],[1]]")


@pytest.mark.parametrize("continuous", ["false", "true"])
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_algorithm_runs_whole_policies_on_the_devices(
    algo: str, continuous: str, tmp_path: Path
) -> None:
    words = [
        "--algo",
        algo,
        "--env",
        "mpe",
        "env.map=simple_speaker_listener",
        f"env.continuous_actions={continuous}",
    ]
    if ALGORITHMS[algo].continuous < (continuous == "true"):
        pytest.skip("it makes choices alone")
    if ALGORITHMS[algo].discrete < (continuous == "false"):
        pytest.skip("it has numbers alone")
    words += REPLAYING[algo in OFF_POLICY]
    tables = play(tmp_path, *words, "policy.blocks=2", "policy.local_blocks=2", "codec.name=none")
    numbers = WIDEST if continuous == "true" else 1
    assert (
        tables["bytes_per_decision"] == 8 * numbers
    ).all()  # an action's and its log-probability's


def test_a_checkpoint_plays_as_the_run_that_wrote_it(tmp_path: Path) -> None:
    words = ["--algo", "happo", "--env", "mpe", "policy.groups=[[0,2],[1]]"]
    play(tmp_path / "first", *words)
    (folder,) = (path.parent for path in (tmp_path / "first").rglob("run.h5"))
    load = f"train.load={folder}/models/last.pt"
    assert not play(tmp_path / "again", *words, load, "train.steps=0")
    (again,) = (tmp_path / "again").rglob("run.h5")
    with h5py.File(folder / "run.h5") as wrote, h5py.File(again) as read:
        for name in ("return_mean", "return_std", "bytes_per_decision", "bits_per_element"):
            assert read["evaluations"][name][:].tolist() == wrote["evaluations"][name][-1:].tolist()
        assert not read["decisions"]["train"][:].any()
    play(tmp_path / "plain", *words, load, "train.steps=0", "codec.name=float32")
    with pytest.raises(UserError, match=r"policy.nets"):
        play(tmp_path / "other", *words, load, "policy.width=8")


RICH = [
    "--env",
    "mpe",
    "policy.groups=[[0,2],[1]]",
    "policy.recurrent=true",
    "algo.chunk=10",
    "policy.fallback_head=true",
    "diversity.coef=0.1",
]
"""A run that has every kind of stateful part."""


def brought_back(state: dict[str, Any]) -> dict[str, Any]:
    """Returns what is loaded at once; the rest is brought back by a reset, or when it is made."""
    return {
        name: part
        for name, part in state.items()
        if name not in ("environments", "record", "slots")
    }


@pytest.mark.parametrize("algo", ON_POLICY)
def test_every_part_of_every_algorithm_comes_back_from_a_checkpoint(
    algo: str, tmp_path: Path
) -> None:
    trained = made(tmp_path, "--algo", algo, *RICH)
    trained.run()
    fresh = made(tmp_path, "--algo", algo, *RICH, "seed=7")
    wanted = trained.checkpoints.state()
    assert differing(wanted, fresh.checkpoints.state()), "there is nothing to bring back"
    checkpoint = load(trained.logger.folder / "models" / "last.pt")
    for name, part in fresh.checkpoints.parts().items():
        state = checkpoint.take(name, wanted[name])
        if name == "environments":
            state = as_arrays(state)  # as a run does that goes on
        part.load_state_dict(state)
    assert not differing(brought_back(wanted), brought_back(fresh.checkpoints.state()))
    assert fresh.counters.steps == 240
    fresh.logger.close()


SMALL_REPLAY = [*REPLAYING[True], "--env", "mpe", "policy.groups=[[0,2],[1]]"]


@pytest.mark.parametrize("algo", OFF_POLICY)
def test_off_policy_parts_come_back_but_for_the_replay(algo: str, tmp_path: Path) -> None:
    continuous = "true" if ALGORITHMS[algo].continuous else "false"
    words = ["--algo", algo, f"env.continuous_actions={continuous}", *SMALL_REPLAY]
    trained = made(tmp_path, *words)
    trained.run()
    fresh = made(tmp_path, *words, "seed=7")
    wanted = trained.checkpoints.state()
    path = trained.logger.folder / "models" / "last.pt"
    checkpoint = load(path)
    for name, part in fresh.checkpoints.parts().items():
        state = checkpoint.take(name, wanted[name])
        if name == "environments":
            state = as_arrays(state)  # as a run does that goes on
        part.load_state_dict(state)
    assert not differing(brought_back(wanted), brought_back(fresh.checkpoints.state()))
    # A run that starts from it acts by its policies at once, and learns again.
    later = made(tmp_path, *words, f"train.load={path}", "algo.warmup_steps=1000", "seed=8")
    assert (later.learned.policy.exploration.chances[..., 0] < 1).all()
    later.run()
    for each in (fresh, later):
        each.logger.close()


def test_a_checkpoint_of_other_nets_changes_nothing(tmp_path: Path) -> None:
    """The critic is the first part that doesn't fit, after the policy that does."""
    trained = made(tmp_path, "--algo", "happo", *RICH)
    trained.run()
    path = trained.logger.folder / "models" / "last.pt"
    other = made(tmp_path, "--algo", "happo", *RICH, "policy.critic_width=8", "seed=7")
    before = copy.deepcopy(other.checkpoints.state())
    with pytest.raises(
        UserError, match=r"last.pt: algorithm/critic_trainer/critic/\S+ is float32 \("
    ):
        other.checkpoints.start_from(path, learns=True)
    values = load(path).values
    save(tmp_path / "cut.pt", {k: v for k, v in values.items() if "value_norm" not in k})
    save(tmp_path / "foreign.pt", {"net": {"weight": torch.zeros(3)}})
    save(tmp_path / "regrouped.pt", {**values, "run/groups": "[[0, 1], [2]]"})
    same = made(tmp_path, "--algo", "happo", *RICH, "seed=7")
    lines = {
        "cut": "cut.pt: algorithm/critic_trainer/value_norm/moments is missing",
        "foreign": r"foreign.pt: policy/\S+ is missing",
        "regrouped": r"train.load: .*regrouped.pt is of the role groups .*, not \[\[0, 2\]",
    }
    for name, line in lines.items():
        with pytest.raises(UserError, match=line):
            same.checkpoints.start_from(tmp_path / f"{name}.pt", learns=True)
    assert not differing(brought_back(before), brought_back(other.checkpoints.state()))
    for each in (other, same):
        each.logger.close()


def test_lambda_is_steered_by_the_bytes_that_were_sent(tmp_path: Path) -> None:
    words = [
        "--algo",
        "happo",
        "--env",
        "mpe",
        "policy.groups=[[0,2],[1]]",
        "codec.share_tables=true",
    ]
    tables = play(tmp_path, *words, "codec.rate_coef=0.01", "codec.target_bytes=5")
    factors = (tables["bytes_per_decision"] / 5) ** GAIN
    assert tables["rate_coef"] == pytest.approx(0.01 * np.cumprod(factors))
    assert (factors > 1).all()
    assert (tables["rate"] > 0).all()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["policy.recurrent=true", "algo.chunk=10"],
            r"policy.recurrent: expected false, got true \(hasac",
        ),
        (["policy.fallback_head=true"], r"policy.fallback_head: expected false, got true"),
        (["diversity.coef=0.1"], r"diversity.coef: expected 0, got 0.1"),
        (["algo.buffer_size=200"], r"algo.buffer_size: expected 240 or more .*, got 200"),
        (["algo.buffer_size=1e9"], r"algo.buffer_size: expected less, for a replay of 1,000,"),
    ],
)
def test_what_off_policy_algorithms_cant_do_is_refused_by_name(
    words: list[str], line: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=line):
        made(tmp_path, "--algo", "hasac", "--env", "mpe", *REPLAYING[True], *words)
    assert not list(tmp_path.iterdir()), "a run that can't start leaves no folder behind"


def test_one_choice_is_what_values_are_of(tmp_path: Path) -> None:
    words = ["--algo", "had3qn", "--env", "pettingzoo", *REPLAYING[True]]
    with pytest.raises(UserError, match=r"algo.name: had3qn makes one choice at a time"):
        made(tmp_path, *words, "env.factory=odd_envs:Corridor")
