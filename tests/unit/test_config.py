"""The configuration: its layers, spellings and files; no input gives more than one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sde_harl.algorithms.registry import ALGORITHMS, OFF_POLICY
from sde_harl.config import arguments
from sde_harl.config.arguments import (
    HARL_KEYS,
    PRESETS,
    help_text,
    parse,
    shipped_experiments,
)
from sde_harl.config.field_types import LARGEST, LEAST
from sde_harl.config.keys import KEYS, Key
from sde_harl.config.layers import Value, build, from_yaml, layer_of, to_yaml
from sde_harl.config.schema import Config, LinkProfile
from sde_harl.config.wording import MEANT
from sde_harl.envs.registry import ENVS
from sde_harl.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
SMAC = str(CONFIGS / "smac.yaml")
EXPERIMENTS = sorted(CONFIGS.glob("*.yaml"))


def parsed(*argv: str) -> Config:
    config = parse(list(argv)).config
    assert config is not None
    return config


def complaint(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(list(argv))
    return one_line(caught.value)


def file_complaint(text: str) -> str:
    with pytest.raises(UserError) as caught:
        from_yaml(text, "mine.yaml")
    return one_line(caught.value)


def one_line(error: UserError) -> str:
    assert str(error).isprintable()
    assert str(error)
    return str(error)


def get(config: Config, key: str) -> Any:
    section, field, _ = KEYS[key]
    return getattr(getattr(config, section) if section else config, field)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes defaults for one algorithm and one environment, and an experiment that names both."""
    monkeypatch.setattr(arguments, "PRESETS", tmp_path)
    write(
        tmp_path / "algorithms" / "alpha.yaml",
        "algo: {name: alpha, lr: 0.1, gamma: 0.1, epochs: 11, minibatches: 11}",
    )
    write(
        tmp_path / "environments" / "eden.yaml",
        "env: {name: eden}\nalgo: {gamma: 0.2, epochs: 12, minibatches: 12}",
    )
    write(
        tmp_path / "mine.yaml",
        "env: {name: eden}\nalgo: {name: alpha, epochs: 13, minibatches: 13}",
    )
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


# ---- the files that ship


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_parses_and_names_an_algorithm_and_an_environment(path: Path) -> None:
    layer = layer_of(path.read_text(), str(path))
    config = parsed(str(path))
    assert (layer["algo.name"].value, layer["env.name"].value) == (
        config.algo.name,
        config.env.name,
    )
    assert config.algo.name in ALGORITHMS
    assert config.env.name in ENVS


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_whatever_keys_an_experiment_suggests_can_be_typed(path: Path) -> None:
    """Keys that follow each other in its comments are meant to be used together."""
    told = " ".join(
        line.strip("# \\") for line in path.read_text().splitlines() if line.startswith("#")
    )
    for keys in re.findall(r"(?:[a-z]+\.[a-z_0-9]+=[\w.-]*\w ?)+", told):
        parsed(str(path), *keys.split())


def test_every_registry_entry_has_its_defaults_and_every_file_its_entry() -> None:
    assert {path.stem for path in (PRESETS / "algorithms").iterdir()} == set(ALGORITHMS)
    assert {path.stem for path in (PRESETS / "environments").iterdir()} == set(ENVS)


TRUST_REGION = {"kl_threshold", "ls_step", "accept_ratio", "backtrack_coeff"}
ROLLOUTS = {"epochs", "minibatches", "critic_epochs", "critic_minibatches", "clip_coef", "chunk"}
ROLLOUTS |= {"action_aggregation", "entropy_coef", "gae_lambda", "clip_value_loss", "max_grad_norm"}
REPLAYS = {"buffer_size", "buffer_dtype", "batch_size", "warmup_steps", "updates", "n_step"}
REPLAYS |= {"polyak", "replay", "buffer_folder", "precision"}
SOFT = {"alpha", "auto_alpha", "alpha_lr", "share_alpha", "target_entropy"}
TWIN_DELAYED = {"policy_noise", "noise_clip", "policy_freq"}
OWN = {
    "hatrpo": TRUST_REGION,
    "hasac": SOFT,
    "haddpg": {"expl_noise"},
    "maddpg": {"expl_noise"},
    "hatd3": {"expl_noise", *TWIN_DELAYED},
    "matd3": {"expl_noise", *TWIN_DELAYED},
    "had3qn": {"epsilon", "epsilon_steps"},
}
"""Keys that are for some algorithms of a family alone."""


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithms_defaults_set_every_key_that_it_reads(name: str) -> None:
    layer = layer_of((PRESETS / "algorithms" / f"{name}.yaml").read_text(), name)
    others = set().union(*OWN.values()) | ROLLOUTS | REPLAYS
    read = {key.removeprefix("algo.") for key in KEYS if key.startswith("algo.")} - others
    read |= OWN.get(name, set()) | (REPLAYS if name in OFF_POLICY else ROLLOUTS)
    read -= {"lr"} if name == "hatrpo" else set()
    pace = {"train.rollout"} if name in OFF_POLICY else set()
    assert set(layer) == {f"algo.{key}" for key in read} | pace
    assert parsed("--algo", name, "--env", "smac").algo.name == name


def test_an_off_policy_algorithm_brings_its_own_pace() -> None:
    """An environment's file is written for rollouts; a file or the command line still wins."""
    assert parsed("--algo", "hasac", "--env", "mpe").train.rollout == 50
    assert parsed("--algo", "happo", "--env", "mpe").train.rollout == 200
    assert parsed("--algo", "hasac", "--env", "mpe", "train.rollout=7").train.rollout == 7
    assert parsed("mpe_spread_continuous", "algo.name=hatd3").train.rollout == 50
    assert parsed("--algo", "happo", "--env", "smac").algo.lr_decay
    assert not parsed("smac", "algo.name=hasac").algo.lr_decay
    assert parsed("smac", "algo.name=hasac", "algo.lr_decay=true").algo.lr_decay
    assert parsed("smac", "algo.name=hasac").algo.target_entropy == 0.1


@pytest.mark.parametrize("name", ["mpe", "smac", "smacv2", "mamujoco"])
def test_no_environment_says_where_alpha_begins(name: str) -> None:
    """It is measured."""
    assert parsed("--algo", "hasac", "--env", name).algo.alpha == 0


NEEDED = {"devices": ["executor.sensor=robots:Arm", "env.spec=spec.json", "train.load=last.pt"]}


@pytest.mark.parametrize("name", ENVS)
def test_an_environments_defaults_are_found(name: str) -> None:
    assert parsed("--env", name, *NEEDED.get(name, ())).env.name == name


def test_a_shipped_experiment_goes_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert set(shipped_experiments()) == {path.stem for path in EXPERIMENTS}
    for path in EXPERIMENTS:
        assert parsed(path.stem) == parsed(str(path))
    (tmp_path / "smac").mkdir()
    assert parsed("smac") == parsed(SMAC), "a folder is no experiment"


def test_a_file_wins_over_a_shipped_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "smac", "env: {name: mpe}")
    assert parsed("smac").env.name == "mpe"


@pytest.mark.parametrize("word", ["smc", "smac.yml", "", "train.steps", "x" * 5000])
def test_an_unknown_experiment_is_told_which_there_are(word: str) -> None:
    text = complaint(word)
    assert text.startswith(f"{word or repr(word)}: neither a file nor a shipped experiment")
    assert ", ".join(shipped_experiments()) in text
    assert ("did you mean smac?" in text) == (word in ("smc", "smac.yml"))


@pytest.mark.parametrize("word", ["./smac", "smac.yaml", "smac.json", "no/smac"])
def test_a_path_is_never_a_shipped_experiment(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "can't read the configuration" in complaint(word)


# ---- help


def test_help_lists_every_key_with_type_default_and_meaning() -> None:
    text = help_text()
    rows = {
        line.split()[0]: line.split(maxsplit=3)
        for line in text.splitlines()
        if line.startswith("  ")
    }
    for name, key in KEYS.items():
        _, kind, default, meaning = rows[name]
        assert kind == key.kind.__name__
        assert yaml.safe_load(default) is not None
        assert meaning.endswith(".")
        assert len(meaning) > 5
    assert all(f"--{flag}" in text for flag in HARL_KEYS)


@pytest.mark.parametrize("argv", [["--help"], ["-h"], [SMAC, "no.such=1", "--help"]])
def test_help_is_a_text_and_no_run(argv: list[str]) -> None:
    assert parse(argv) == (None, help_text())


# ---- layers and spellings


def test_later_layers_win(folder: Path) -> None:
    algo = parsed(str(folder / "mine.yaml"), "algo.minibatches=14").algo
    assert (algo.lr, algo.gamma, algo.epochs, algo.minibatches) == (0.1, 0.2, 13, 14)
    assert algo.clip_coef == Config().algo.clip_coef


def test_the_command_line_may_name_the_algorithm_whose_defaults_are_read(folder: Path) -> None:
    write(folder / "algorithms" / "beta.yaml", "algo: {name: beta, lr: 0.7}")
    assert parsed(str(folder / "mine.yaml"), "--algo", "beta").algo.lr == 0.7


def test_the_last_of_two_words_wins() -> None:
    assert parsed(SMAC, "seed=2", "--seed", "3").seed == 3


@pytest.mark.parametrize(
    "argv", [["algo.lr=3e-4"], ["--algo.lr", "3e-4"], ["--algo.lr=3e-4"], ["--lr", "3e-4"]]
)
def test_a_key_has_four_spellings_and_3e_4_is_a_number(argv: list[str]) -> None:
    assert parsed(SMAC, *argv).algo.lr == 3e-4


def test_3e_4_is_a_number_in_a_file() -> None:
    assert from_yaml("algo: {lr: 3e-4}\ntrain: {steps: 1e6}", "mine.yaml").algo.lr == 3e-4


def test_harls_first_command() -> None:
    config = parsed("--algo", "happo", "--env", "smac", "--exp_name", "test", "--seed", "2")
    assert (config.algo.name, config.env.name, config.record.exp, config.seed) == (
        "happo",
        "smac",
        "test",
        2,
    )


def test_every_harl_flag_sets_the_key_it_stands_for() -> None:
    assert set(HARL_KEYS.values()) <= set(KEYS)
    names = {
        "algo.name": "happo",
        "env.name": "mpe",
        "algo.action_aggregation": "mean",
        "env.state_type": "FP",
    }
    for flag, key in HARL_KEYS.items():
        value = names.get(key) or {int: 2, float: 0.75, bool: False, str: "word"}[KEYS[key].kind]
        assert get(parsed("--env", "smac", f"--{flag}", str(value)), key) == value


@pytest.mark.parametrize(
    "name", ["010", "null", "1:30", "yes", "a: b", "2024-01-01", "=", "1e3", "x=y"]
)
def test_text_on_the_command_line_stays_as_it_is(name: str) -> None:
    assert parsed(SMAC, f"record.exp={name}").record.exp == name


def test_groups_and_assignments_are_given_as_yaml() -> None:
    config = parsed(SMAC, "policy.groups=[[0, 2], [1]]", "placement.assign={0: 2, 1: 1}")
    assert config.policy.groups == ((0, 2), (1,))
    assert config.placement.assign == {0: 2, 1: 1}


# ---- round trip


def test_groups_have_one_source() -> None:
    groups = "policy.groups=[[0]]"
    assert parsed(SMAC, "roles.from=run.h5").roles.from_ == "run.h5"
    assert complaint(SMAC, groups, "roles.source=one").startswith("policy.groups: expected none")
    assert complaint(SMAC, groups, "roles.from=run.h5").startswith("policy.groups: expected none")
    assert complaint(SMAC, "roles.source=one", "roles.from=run.h5").startswith(
        "roles.source: expected config"
    )


def test_print_config_shows_a_file_that_gives_the_same_run(tmp_path: Path) -> None:
    shown = parse([SMAC, "seed=5", "--print-config"])
    assert shown.config is None
    write(tmp_path / "config.yaml", shown.text)
    assert parsed(str(tmp_path / "config.yaml")) == parsed(SMAC, "seed=5")
    assert set(layer_of(shown.text, "shown")) == set(KEYS)


def values_of(key: Key) -> st.SearchStrategy[Any]:
    """Values within the key's own type and bounds."""
    if key.choices:
        return st.sampled_from(key.choices)
    if key.kind in (int, float):
        least, most, above = key.bounds
        if key.kind is int:
            return st.integers(int(least), int(min(most, 2**40)))
        from_above = st.floats(max(least, above), min(most, LARGEST), exclude_min=above >= least)
        return from_above.filter(lambda number: number == 0 or abs(number) >= LEAST)
    if key.kind is bool:
        return st.booleans()
    if key.kind is str:
        # Printable; made so, since Hypothesis gives up where most of what it makes is thrown away.
        printable = st.characters(
            exclude_categories=("C", "Z"), include_characters=" ", exclude_characters="/"
        )
        return st.text(printable, min_size=1).filter(lambda text: text.strip("."))
    return st.sampled_from([(), ((1,), (2, 0))] if key.field == "groups" else [{}, {3: 1, 0: 2}])


PLAIN = {name: values_of(key) for name, key in KEYS.items() if key.kind is not LinkProfile}


@given(st.fixed_dictionaries({}, optional=PLAIN))
@settings(max_examples=50, deadline=None)
def test_what_is_written_is_read_back(values: dict[str, Any]) -> None:
    whole = values.get("codec.name") == "none"
    local = min(max(1, values.get("policy.local_blocks", 1)), 999)
    values |= {
        "policy.local_blocks": local,
        "policy.blocks": local if whole else local + 1,
        "algo.minibatches": 1,
        "learner.ranks": 1,
    }
    values |= {
        "algo.critic_minibatches": 0,
        "algo.chunk": 1,
        "codec.target_bytes": 0.0,
        "codec.latent_scale": 2.0,
    }
    values |= {
        "roles.count": 0,
        "roles.from": "none",
        "executor.sensor": "none",
        "executor.device": "cpu",
    }
    values |= {"roles.source": "config"} if values.get("policy.groups") else {}
    # A policy that is whole on its device has no fallback head, and no memory over a lossy link.
    values |= {"policy.fallback_head": False, "policy.recurrent": False} if whole else {}
    # Executors that play environments have them at hand, and nothing comes late.
    if values.get("placement.mode") == "envs":
        values |= {"link.deadline_ms": 0.0}
        values |= {"link.on_fault": "redeal"} if values.get("link.on_fault") == "fallback" else {}
        values |= {"executor.backend": "numpy", "placement.assign": {}}
    else:
        values |= {"train.overlap": False}
    # A multiple of the slots, of which there are 4,096 at most, within the bound of train.envs.
    slots = values.get("train.slots", 2)
    values |= {"train.envs": slots * min(values.get("train.envs", 2), 65536 // 4096)}
    config = build({key: Value(value, "here") for key, value in values.items()})
    assert {key: get(config, key) for key in values} == values
    assert from_yaml(to_yaml(config), "there") == config


@pytest.mark.parametrize(
    ("raw", "profile"),
    [
        ("none", LinkProfile()),
        ("lossy", LinkProfile(loss=0.01, delay_ms=2.0, jitter_ms=1.0)),
        ({"loss": 0.1}, LinkProfile(loss=0.1)),
        (
            {"loss": "1e-2", "delay_ms": 2, "jitter_ms": 1},
            LinkProfile(loss=0.01, delay_ms=2.0, jitter_ms=1.0),
        ),
    ],
)
def test_a_link_has_a_name_or_numbers(raw: Any, profile: LinkProfile) -> None:
    config = build({"link.model": Value(raw, "here"), "link.deadline_ms": Value(20, "here")})
    assert config.link.model == profile
    assert from_yaml(to_yaml(config), "there") == config


# ---- complaints name the key, the place, and what would be right

COMMAND_LINE = {
    "algo.lrr=1": ("algo.lrr", "command line", "did you mean algo.lr?"),
    "lr=1": ("lr", "command line", "did you mean algo.lr?"),
    "train.env=8": ("train.env", "command line", "did you mean train.envs?"),
    "--train.env=8": ("train.env", "command line", "did you mean train.envs?"),
    "--exp_nam=x": ("--exp_nam", "command line", "did you mean --exp_name?"),
    "--hidden_sizes=[128,128]": (
        "--hidden_sizes",
        "not supported",
        "use policy.blocks and policy.width",
    ),
    "--hidden_sizes": ("--hidden_sizes", "not supported", "use policy.blocks and policy.width"),
    "--agent_conf=2x3": ("--agent_conf", "not supported", "use env.map, as in HalfCheetah-2x3"),
    "--seed": ("--seed", "command line", "needs a value"),
    "-x": ("-x", "command line", "no such flag"),
    "=3": ("''", "command line", "no such key"),
    "algo.name=hapo": ("algo.name", "command line", "did you mean happo?"),
    "env.name=smax": ("env.name", "command line", "did you mean smac?"),
    "env.name=../envs/smac": ("env.name", "command line", "mpe, pettingzoo, rware, smac"),
    "link.model=nowhere": (
        "link.model",
        "command line",
        "one of none, good, lossy, poor, or some of loss",
    ),
    "link.model={loss: 1.5}": ("link.model", "command line", "loss (0 to 0.9)"),
    "link.model={los: 0.1}": ("link.model", "command line", "one of none"),
    "link.model=lossy": ("link.deadline_ms", "default", "more than 0, with link.model"),
    "train.envs=many": ("train.envs", "command line", "a whole number"),
    "train.envs=2.5": ("train.envs", "command line", "a whole number"),
    "train.envs=true": ("train.envs", "command line", "a whole number"),
    "train.envs=7": ("train.envs", "command line", "a multiple of train.slots = 2"),
    "train.envs=1": ("train.envs", "command line", "a multiple of train.slots = 2"),
    "train.envs=0": ("train.envs", "command line", "1 to 65536"),
    "algo.lr=": ("algo.lr", "command line", "a number"),
    "algo.lr=0": ("algo.lr", "command line", "above 0"),
    "algo.lr=.nan": ("algo.lr", "command line", "above 0"),
    "algo.lr=.inf": ("algo.lr", "command line", "above 0"),
    "algo.gamma=1.1": ("algo.gamma", "command line", "0 to 1"),
    "algo.valuenorm=1": ("algo.valuenorm", "command line", "true or false"),
    "algo.minibatches=1e9": ("algo.minibatches", "command line", "a rollout's rows"),
    "codec.name=zip": ("codec.name", "command line", "entropy, float32, float16, int8"),
    "policy.blocks=1": ("policy.local_blocks", "smac.yaml", "policy.blocks (1) or less"),
    "policy.blocks=2": ("codec.name", "none", "policy.local_blocks = policy.blocks"),
    "codec.name=none": (
        "codec.name",
        "command line",
        "a codec",
        "policy.local_blocks < policy.blocks",
    ),
    "codec.target_bytes=0.25": ("codec.target_bytes", "command line", "more than 0.25"),
    "codec.latent_scale=3": ("codec.latent_scale", "command line", "a power of 2"),
    "codec.rate_warmup=1.5": ("codec.rate_warmup", "command line", "0 to 1"),
    "policy.groups=[0, 1]": ("policy.groups", "command line", "lists of agent indices"),
    "policy.groups=[[0], [2]]": (
        "policy.groups",
        "command line",
        "every agent from 0 on exactly once",
    ),
    "policy.groups=[[0], []]": (
        "policy.groups",
        "command line",
        "every agent from 0 on exactly once",
    ),
    "roles.source=learn": ("roles.source", "command line", "config, learnt, types, alone, one"),
    "roles.count=2": ("roles.count", "command line", "roles.source = config counts none"),
    "roles.from_=x": ("roles.from_", "command line", "did you mean roles.from?"),
    "executor.sensor=robots:Arm": (
        "executor.sensor",
        "command line",
        "none (env.name is not devices)",
    ),
    "executor.device=cuda": (
        "executor.device",
        "command line",
        "cpu (executor.backend is numpy)",
    ),
    "env.name=devices": ("executor.sensor", "default", "module:function"),
    "placement.assign=[1]": ("placement.assign", "command line", "a map of agent to rank"),
    'placement.assign={0: 1, "0": 2}': ("placement.assign", "command line", "each agent once"),
    "placement.assign={0: 1, 0: 2}": ("placement.assign", "command line", "given twice"),
    "record.exp=a/b": ("record.exp", "command line", "the name of a folder"),
    "record.exp=..": ("record.exp", "command line", "the name of a folder"),
    "record.dir=": ("record.dir", "command line", "neither empty"),
    "seed=[": ("seed", "command line", "not valid YAML"),
    "seed=2147483648": ("seed", "command line", "0 to 2147483647"),
    "elsewhere.yaml": ("elsewhere.yaml", "smac.yaml", "one configuration file at a time"),
}


def test_only_a_lambda_above_0_of_the_entropy_codec_is_steered() -> None:
    assert "codec.target_bytes: expected 0" in complaint(
        SMAC, "codec.target_bytes=4", "codec.name=int8"
    )
    assert "codec.rate_coef: expected a number above 0" in complaint(
        SMAC, "codec.target_bytes=4", "codec.rate_coef=0"
    )
    # 12 bytes of every string: its state and its length
    assert "more than 3," in complaint(SMAC, "codec.target_bytes=3", "codec.pack=4")


@pytest.mark.parametrize(
    "word",
    [
        "env.spec=none",
        "train.load=none",
        "train.steps=9",
        "train.envs=2",
        "record.trajectories=eval",
    ],
)
def test_nothing_is_learnt_from_devices(word: str) -> None:
    assert f"{word.partition('=')[0]}: expected" in complaint(
        "--env", "devices", *NEEDED["devices"], word
    )


@pytest.mark.parametrize("word", COMMAND_LINE)
def test_a_bad_word_is_named_with_its_place_and_its_remedy(word: str) -> None:
    text = complaint(SMAC, word)
    assert all(part in text for part in COMMAND_LINE[word]), text


FILE = {
    "algo: {lrr: 1}": ("algo.lrr", "mine.yaml", "did you mean algo.lr?"),
    "trian: {envs: 8}": ("trian", "mine.yaml", "no such key"),
    "1: 2": ("1", "mine.yaml", "no such key"),
    "train: 8": ("train", "mine.yaml", "a section of keys"),
    "seed: {a: 1}": ("seed", "mine.yaml", "a whole number"),
    "- seed": ("mine.yaml", "sections are expected"),
    "seed: 1\nseed: 2": ("mine.yaml:2", "'seed' is given twice"),
    "train:\n  envs: 4\n  steps: 9\n  envs: 8": ("mine.yaml:4", "'envs' is given twice"),
    "train.envs: 4\ntrain: {envs: 8}": ("train.envs", "mine.yaml", "given twice"),
    "algo:\n  lr: [": ("mine.yaml:2", "not valid YAML"),
    "seed: !!python/object/apply:os.getpid []": ("mine.yaml", "not valid YAML"),
    "record: {exp: 2024-01-01}": ("record.exp", "mine.yaml", "expected text"),
    "placement: {mode: agent}": ("placement.mode", "mine.yaml", "local, agents"),
}


@pytest.mark.parametrize("text", FILE)
def test_a_bad_file_is_named_with_its_key_or_line(text: str) -> None:
    message = file_complaint(text)
    assert all(part in message for part in FILE[text]), message


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing.yaml", tmp_path, tmp_path / "bytes.yaml"):
        assert complaint(str(path)).startswith(f"{path}: ")


def test_nothing_given_is_told_what_to_give() -> None:
    assert "--help" in complaint()
    assert "--help" in complaint("seed=3")


@pytest.mark.parametrize(
    ("file", "text", "key"),
    [
        ("algorithms/alpha.yaml", "algo: {name: beta}", "algo.name"),
        ("algorithms/alpha.yaml", "algo: {name: alpha}\nenv: {name: eden}", "env.name"),
        ("environments/eden.yaml", "env: {name: nod}", "env.name"),
        ("environments/eden.yaml", "env: {name: eden}\nalgo: {name: alpha}", "algo.name"),
    ],
)
def test_a_defaults_file_names_only_itself(folder: Path, file: str, text: str, key: str) -> None:
    write(folder / file, text)
    message = complaint(str(folder / "mine.yaml"))
    assert message.startswith(f"{key}: ")
    assert str(folder / file) in message


# ---- whatever is given: a Config or one line


def config_or_line(read: Any, given: Any) -> None:
    try:
        read(given)
    except UserError as error:
        one_line(error)


HUGE = "0x" + "f" * 4000  # more decimal digits than Python prints
FRAGMENTS = [
    "!!int ",
    "!!map ",
    "!!set ",
    "!!timestamp ",
    "!!binary ",
    "&a ",
    "*a",
    "<<: ",
    "? ",
    "- ",
    ": ",
    ", ",
]
FRAGMENTS += [
    "{",
    "}",
    "[",
    "]",
    '"',
    "'",
    "#",
    "|",
    "\n",
    "\n  ",
    "\0",
    "\ud800",
    "=",
    "~",
    "1",
    ".inf",
    "1:1",
    HUGE,
]
NAMES = st.sampled_from(
    [*KEYS, *{key.section for key in KEYS.values()}, *(key.field for key in KEYS.values())]
)
PIECES = st.lists(
    st.one_of(st.sampled_from(FRAGMENTS), NAMES, st.text(max_size=5)), max_size=12
).map("".join)
NUMBERS = st.one_of(st.integers(), st.floats(), st.booleans())
LEAVES = st.one_of(st.none(), NUMBERS, st.text(max_size=8), st.dates(), st.binary(max_size=3))
TREES = st.recursive(
    LEAVES, lambda deeper: st.one_of(st.lists(deeper), st.dictionaries(NAMES, deeper)), max_leaves=8
)
WORDS = st.one_of(
    PIECES,
    st.builds("{}={}".format, NAMES, st.one_of(PIECES, TREES.map(repr))),
    st.builds("--{}={}".format, st.one_of(NAMES, st.sampled_from(list(HARL_KEYS))), PIECES),
    st.builds("--{}".format, st.one_of(NAMES, st.sampled_from(list(HARL_KEYS)))),
)


@given(st.one_of(PIECES, st.text(), TREES.map(yaml.safe_dump)))
@settings(max_examples=200, deadline=None)
@example('seed: !!int ""')
@example("env: !!map [x]")
@example("seed: !!timestamp x")
@example(f"record: {{exp: {HUGE}}}")
@example(f"? {HUGE}\n: 1")
@example('"a\\nb": 1')
@example("[" * 3000)
@example("policy: {groups: &a [*a]}")
@example("a: &a [x, x, x]\nb: &b [*a, *a, *a, *a]\npolicy: {groups: [*b, *b, *b, *b]}")
def test_any_text_gives_a_config_or_one_line(text: str) -> None:
    config_or_line(lambda given: from_yaml(given, "mine.yaml"), text)


@given(st.lists(WORDS, max_size=4), st.booleans())
@settings(max_examples=200, deadline=None)
@example(["\0"], False)
@example(["\ud800"], False)
@example(["a\nb"], False)
@example(["x" * 5000], False)
@example([f"env.name={HUGE}"], False)
@example([f"seed={HUGE}"], True)
@example(["--"], True)
def test_any_command_line_gives_a_request_or_one_line(words: list[str], file: bool) -> None:
    config_or_line(parse, [SMAC, *words] if file else words)


CODE = "env: {name: pettingzoo, factory: 'odd_envs:Corridor'}\nalgo: {name: happo}"
SENSOR = """
env: {name: devices, spec: spec.json}
algo: {name: happo}
train: {load: last.pt}
executor: {sensor: 'robots:Arm'}
"""


@pytest.mark.parametrize(
    ("text", "key", "spelt"),
    [(CODE, "env.factory", "odd_envs:Corridor"), (SENSOR, "executor.sensor", "robots:Arm")],
)
def test_code_that_a_file_names_needs_trust(
    text: str, key: str, spelt: str, tmp_path: Path
) -> None:
    file = tmp_path / "strange.yaml"
    write(file, text)
    assert complaint(str(file)) == (
        f"{key}: expected --trust on the command line, for this file names code to run, "
        f"got {spelt} ({file}); if you trust it, add --trust or {key}={spelt}"
    )
    for word in ("--trust", f"{key}={spelt}", f"--{key}={spelt}"):
        assert get(parsed(str(file), word), key) == spelt
    assert spelt in parse([str(file), "--print-config"]).text


def test_code_that_is_not_run_needs_no_trust(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    write(file, CODE)
    assert parsed(str(file), "env.name=mpe", "env.map=simple_spread").env.name == "mpe"


def test_a_file_can_not_pass_for_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "command line", CODE)
    monkeypatch.chdir(tmp_path)
    assert complaint("command line").startswith("env.factory: expected --trust")


def test_no_shipped_file_names_code() -> None:
    for path in [*PRESETS.rglob("*.yaml"), *EXPERIMENTS]:
        named = layer_of(path.read_text(), str(path))
        assert not set(named) & {"env.factory", "executor.sensor"}, path


MISSING = """
import sys
from sde_harl.errors import UserError
from sde_harl.run import lead
try:
    lead(sys.argv[1:], None)
except UserError as error:
    print(error)
print("torch" in sys.modules)
"""


@pytest.mark.parametrize("factory", ["no_such_module:make", "odd_envs:no_such_function"])
def test_a_missing_factory_is_found_before_the_heavy_imports(factory: str) -> None:
    words = ["--env", "pettingzoo", "--algo", "happo", f"env.factory={factory}"]
    done = subprocess.run(
        [sys.executable, "-c", MISSING, *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    line, is_torch_there = done.stdout.splitlines()
    assert line.startswith("env.factory: can't take ")
    assert is_torch_there == "False"


def test_aliases_are_refused_before_they_are_followed() -> None:
    lines = ["a0: &a0 [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 12)]
    with pytest.raises(UserError, match=r"^f.yaml:2: not valid YAML: an alias \(\*a0\)"):
        from_yaml("\n".join([*lines, "policy: {groups: *a11}"]), "f.yaml")


def test_a_text_longer_than_any_configuration_is_refused() -> None:
    with pytest.raises(UserError, match=r"^f.yaml: expected 262,144 letters or less, got 600,"):
        from_yaml("[0], " * 120_001, "f.yaml")


@pytest.mark.parametrize(
    "word",
    [
        "train.rollout=1e12",
        "train.envs=1e9",
        "policy.width=1e6",
        "policy.blocks=1e9",
        "policy.latent=1e9",
        "policy.critic_width=1e6",
        "policy.conv_channels=1e9",
        "train.threads=1e9",
    ],
)
def test_sizes_that_no_host_could_hold_are_out_of_bounds(word: str) -> None:
    with pytest.raises(UserError, match=rf"^{word.partition('=')[0]}: expected [01] to "):
        parse(["quick", word])


FLOATS = [name for name, key in KEYS.items() if key.kind is float]


@pytest.mark.parametrize("name", FLOATS)
def test_a_number_that_no_net_can_compute_with_is_refused(name: str) -> None:
    for text in ("1e300", "1e-300"):
        with pytest.raises(UserError, match=rf"^{name}: expected .+, got '{text}'"):
            parse(["quick", f"{name}={text}"])
    assert KEYS[name].bounds.most >= 1.0


def test_what_users_call_a_key_is_a_key() -> None:
    assert set(MEANT.values()) <= set(KEYS)
    assert not MEANT.keys() & set(KEYS)


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("resume=true", "train.resume"),
        ("steps=100", "train.steps"),
        ("lr=1", "algo.lr"),
        ("train.lr=1", "algo.lr"),
        ("gamma=1", "algo.gamma"),
        ("train.gamma=1", "algo.gamma"),
        ("envs=4", "train.envs"),
        ("load=a.pt", "train.load"),
        ("device=cuda", "executor.device"),
        ("map=3m", "env.map"),
        ("algo=happo", "algo.name"),
        ("learning-rate=1", "algo.lr"),
        ("trian.steps=1", "train.steps"),
    ],
)
def test_a_hint_says_what_is_meant(word: str, key: str) -> None:
    with pytest.raises(UserError, match=rf"no such key \(command line\); did you mean {key}\?$"):
        parse(["quick", word])


def test_a_flag_is_hinted_by_what_is_meant() -> None:
    with pytest.raises(UserError, match=r"^--steps: no such flag .* did you mean --train.steps\?"):
        parse(["quick", "--steps", "3"])
