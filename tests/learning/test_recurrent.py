"""Recurrent policies: the layer against torch's and numpy's, chunks, a task that needs memory."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from games import draw_by, learner, spec
from torch import nn
from torch.nn import functional

from sde_harl.algorithms.on_policy.critic_trainer import CriticTrainer
from sde_harl.algorithms.registry import ON_POLICY
from sde_harl.buffers.rollout import Rollout
from sde_harl.buffers.sequences import chunk_states, flatten_rows, keep_masks, take_sequences
from sde_harl.config.arguments import parse
from sde_harl.config.schema import AlgoConfig, PolicyConfig
from sde_harl.executor.in_process import loopback
from sde_harl.policy.critic import Critic
from sde_harl.policy.critic_input import make_critic_input
from sde_harl.policy.gru import Gru, RecurrentState
from sde_harl.policy.inference.acting import GruArrays
from sde_harl.training.build import build
from sde_harl.training.trainer import Trainer


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer() -> Gru:
    gru = Gru(k=1, size_in=3, size=4, generator=generator())
    with torch.no_grad():
        for bias in (gru.bias_in, gru.bias_memory):
            bias.copy_(torch.randn(bias.shape, generator=generator(1)))
    return gru


def test_the_layer_is_torchs_own() -> None:
    gru, reference = layer(), nn.GRU(3, 4, batch_first=True)
    with torch.no_grad():
        reference.weight_ih_l0.copy_(gru.weight_in[0].T)
        reference.weight_hh_l0.copy_(gru.weight_memory[0].T)
        reference.bias_ih_l0.copy_(gru.bias_in[0, 0])
        reference.bias_hh_l0.copy_(gru.bias_memory[0, 0])
    x, memory = (
        torch.randn(5, 7, 3, generator=generator(2)),
        torch.randn(1, 5, 4, generator=generator(3)),
    )
    mine = gru(x.reshape(1, 35, 3), RecurrentState(memory, torch.ones(1, 5, 7))).view(5, 7, 4)
    torch.testing.assert_close(mine, reference(x, memory)[0])


def test_an_episode_that_begins_inside_a_sequence_remembers_nothing() -> None:
    gru, x = layer(), torch.randn(1, 2 * 4, 3, generator=generator(2))
    memory, keep = torch.randn(1, 2, 4, generator=generator(3)), torch.ones(1, 2, 4)
    keep[0, 1, 2] = 0.0
    cut = gru(x, RecurrentState(memory, keep)).view(2, 4, 4)
    anew = gru(x[:, 6:], RecurrentState(torch.zeros(1, 1, 4), torch.ones(1, 1, 2)))
    torch.testing.assert_close(cut[1, 2:], anew[0])
    torch.testing.assert_close(
        cut[0], gru(x[:, :4], RecurrentState(memory[:, :1], torch.ones(1, 1, 4)))[0]
    )


def test_the_numpy_twin_remembers_the_same() -> None:
    gru, x = layer(), torch.randn(1, 6, 3, generator=generator(2))
    names = ("weight_in", "bias_in", "weight_memory", "bias_memory")
    twin = GruArrays(*(getattr(gru, name).detach().numpy() for name in names))
    told = gru(x, RecurrentState(torch.zeros(1, 1, 4), torch.ones(1, 1, 6)))[0].detach().numpy()
    memory = np.zeros((1, 1, 4), np.float32)
    for t in range(6):
        memory = twin(x[:, t : t + 1].numpy(), memory)
        np.testing.assert_allclose(memory[0, 0], told[t], rtol=1e-5, atol=1e-6)


def test_rows_lie_by_chunk_environment_and_step_and_are_picked_whole() -> None:
    steps = torch.arange(4)[:, None] * 10 + torch.arange(3)  # (T, E): 10 t + e
    rows = flatten_rows(steps[None], 2)
    assert rows.tolist() == [[0, 10, 1, 11, 2, 12, 20, 30, 21, 31, 22, 32]]
    assert take_sequences(rows, slice(1, 3), 2).tolist() == [[1, 11, 2, 12]]
    assert take_sequences(rows, torch.tensor([5, 0]), 2).tolist() == [[22, 32, 0, 10]]
    ended = np.zeros((4, 3), bool)
    ended[0, 2], ended[1, 1], ended[3, 0] = True, True, True
    assert keep_masks(ended)[0].tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 1], [1, 1, 1], [0, 1, 1]]
    recall = chunk_states(torch.arange(6.0).reshape(1, 2, 3, 1), ended, 2)
    assert recall.memory.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert recall.keep.tolist() == [[[1, 1], [1, 1], [1, 0], [1, 1], [0, 1], [1, 1]]]


def test_chunks_give_the_critic_the_values_that_the_whole_rollout_gave() -> None:
    """The memory goes from chunk to chunk, from rollout to rollout, and ends with the episode."""
    game, rng = spec(((2,), (2,)), 3), np.random.default_rng(0)
    view = make_critic_input("EP", game)
    policy = PolicyConfig(critic_width=8, recurrent=True)
    trainer = CriticTrainer(
        Critic(critic_input=view, policy=policy, share=True, generator=generator()),
        AlgoConfig(valuenorm=False),
        generator(),
    )
    rollout = Rollout(
        game, steps=6, envs=4, latent_size=4, critic_input=view, chunk=3, memory_size=8
    )
    estimates = []
    for _ in range(2):
        rollout.critic_inputs[:] = rng.normal(size=rollout.critic_inputs.shape)
        rollout.final_critic_inputs[:] = rollout.critic_inputs[:, 1:]
        rollout.truncated[:], rollout.truncated[1, 2], rollout.truncated[2, 1] = False, True, True
        estimates.append(trainer.estimator.estimate(rollout))
    estimate = estimates[1]
    assert estimate.recurrent_state is not None
    with torch.no_grad():
        values, _ = trainer.critic(
            flatten_rows(estimate.critic_inputs, 3), estimate.recurrent_state
        )
    torch.testing.assert_close(values, flatten_rows(torch.from_numpy(estimate.values), 3))
    assert estimate.recurrent_state.memory[0, 0].abs().max() > 0, (
        "nothing is left of the first rollout"
    )
    assert not estimate.recurrent_state.memory[0, 4 + 1].any(), (
        "the episode that ended with step 2 is remembered"
    )


def test_a_cut_episodes_last_value_remembers_the_episode() -> None:
    """With reward 0 and lambda 1, the return is the discounted value of the state at the cut."""
    game, rng = spec(((2,), (2,)), 3), np.random.default_rng(0)
    view = make_critic_input("EP", game)
    critic = Critic(
        critic_input=view,
        policy=PolicyConfig(critic_width=8, recurrent=True),
        share=True,
        generator=generator(),
    )
    trainer = CriticTrainer(
        critic, AlgoConfig(valuenorm=False, gamma=0.5, gae_lambda=1.0), generator()
    )
    rollout = Rollout(
        game, steps=2, envs=1, latent_size=4, critic_input=view, chunk=2, memory_size=8
    )
    rollout.critic_inputs[:], rollout.final_critic_inputs[:] = rng.normal(size=(2, 1, 1, 1, 3))
    rollout.truncated[1] = True
    seen = torch.from_numpy(
        np.concatenate([rollout.critic_inputs[0, :2, 0], rollout.final_critic_inputs[0, 1:, 0]])
    )
    with torch.no_grad():
        values, _ = critic(
            critic.normalise(seen[None]), RecurrentState(torch.zeros(1, 1, 8), torch.ones(1, 1, 3))
        )
    returns = trainer.estimator.estimate(rollout).returns[0, :, 0]
    np.testing.assert_allclose(returns, values[0, 2] * np.array([0.25, 0.5]), rtol=1e-5)


def test_layer_normalisation_is_of_what_the_heads_see_and_not_of_what_is_remembered() -> None:
    view = make_critic_input("EP", spec(((2,), (2,)), 3))
    critic = Critic(
        critic_input=view,
        policy=PolicyConfig(critic_width=8, recurrent=True, layer_norm=True),
        share=True,
        generator=generator(),
    )
    seen, recall = (
        torch.randn(1, 6, 3, generator=generator(1)),
        RecurrentState(torch.zeros(1, 2, 8), torch.ones(1, 2, 3)),
    )
    values, memory = critic(seen, recall)
    head, bias = critic.weights[-1][0], critic.biases[-1][0]
    torch.testing.assert_close(
        values[0], (functional.layer_norm(memory[0], (8,)) @ head + bias)[:, 0]
    )
    assert memory.abs().max() < 1
    assert memory.std(-1).max() < 0.9


STEPS, ENVS = 4, 64


def play(policy: object, rollout: Rollout, rng: np.random.Generator) -> float:
    """Plays two episodes of two steps: a cue, then a blank on which to name it.

    Returns the mean reward of the second steps.
    """
    memory, cues = None, np.zeros((2, ENVS), int)
    acting = policy.acting()
    for t in range(STEPS):
        if t % 2 == 0:
            cues = rng.integers(0, 3, (2, ENVS))
        obs = np.eye(4, dtype=np.float32)[cues if t % 2 == 0 else np.full((2, ENVS), 3)]
        rollout.obs[:, t], rollout.critic_inputs[:, t] = (
            obs,
            rollout.critic_input(obs[0], obs.swapaxes(0, 1)),
        )
        if memory is not None and t % rollout.chunk == 0:
            rollout.memory[:, t // rollout.chunk] = memory
        latents = np.zeros((2, ENVS, 4), np.float32)
        for net in policy.groups:
            with torch.no_grad():
                features = net.normalise(torch.from_numpy(obs[list(net.members)]))
                latents[list(net.members)] = net.quantise(net.encode(features)).numpy()
        decision = acting.act(latents, rollout.available_actions[:, t], draw_by(rng, 2), memory)
        memory = decision.memory
        if t % 2 and memory is not None:
            memory[:] = 0.0  # the episode ends
        rollout.actions[:, t], rollout.log_probs[:, t] = decision.actions, decision.log_probs
        rollout.rewards[t] = (decision.actions[..., 0] == cues).mean(0) if t % 2 else 0.0
    rollout.terminated[1::2] = True
    return float(rollout.rewards[1::2].mean())


@pytest.mark.parametrize("name", ON_POLICY)
@pytest.mark.parametrize("recurrent", [True, False])
def test_only_a_policy_with_memory_names_what_it_saw_before(name: str, recurrent: bool) -> None:
    rng, trust = np.random.default_rng(0), name == "hatrpo"
    settings = (
        {"kl_threshold": 0.05} if trust else {"lr": 3e-3, "critic_lr": 1e-2, "minibatches": 2}
    )
    settings["entropy_coef"] = 0.0 if trust else 0.01
    game = spec(((3,), (3,)), 4)
    algorithm = learner(game, name, "float32", recurrent=recurrent, chunk=2, **settings)
    view = make_critic_input("own" if algorithm.decentralised_critic else "EP", game)
    rollout = Rollout(
        game,
        steps=STEPS,
        envs=ENVS,
        latent_size=4,
        critic_input=view,
        chunk=2 if recurrent else 1,
        memory_size=16 if recurrent else 0,
    )
    rollout.available_actions[:], rollout.active_masks[:] = True, True
    rewards = []
    for _ in range(45 if recurrent else 25):
        rewards.append(play(algorithm.policy, rollout, rng))
        assert algorithm.update(rollout, 0.0)["ratio_error"] < 1e-4, (
            "what acted is not what is trained"
        )
    assert rewards[-1] > 0.9 if recurrent else np.mean(rewards[-10:]) < 0.5


CUES = [
    "--env",
    "pettingzoo",
    "env.factory=odd_envs:Cues",
    "train.envs=64",
    "train.rollout=5",
    "algo.chunk=5",
]
CUES += [
    "policy.recurrent=true",
    "policy.blocks=2",
    "policy.local_blocks=2",
    "codec.name=none",
    "policy.width=16",
]
CUES += ["algo.lr=3e-3", "algo.critic_lr=1e-2", "algo.minibatches=2", "record.tensorboard=false"]


@pytest.mark.parametrize("name", ["happo", "mappo"])
def test_whole_policies_remember_on_their_devices(name: str, tmp_path: Path) -> None:
    """The same task in the whole program: rollouts end amid episodes, evaluations intervene."""
    words = [
        *CUES,
        "train.steps=6000",
        "eval.interval=2000",
        "eval.episodes=64",
        f"record.dir={tmp_path}",
    ]
    config = parse(["--algo", name, *words]).config
    assert config is not None
    run = Trainer(build(config, loopback()))
    run.run()
    with h5py.File(run.logger.folder / "run.h5") as file:
        assert file["training"]["ratio_error"][:].max() < 1e-4, "what acted is not what is trained"
        assert file["evaluations"]["return_mean"][-1] > 0.9
        assert not len(file["faults"]["kind"])
