"""Executors that play environments of their own, inside this process; tests/mpi has them apart."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launch import launch
from same_runs import assert_same, assert_same_decisions
from small_runs import SMALL
from star import Star

from sde_harl.buffers.layout import Field, bytes_of, lay_out
from sde_harl.buffers.played import EPISODE, Played, SlotShape, pack_played, unpack_played
from sde_harl.config.arguments import parse
from sde_harl.errors import UserError
from sde_harl.executor.in_process import loopback
from sde_harl.link.transport import Transport
from sde_harl.link.wire import HEADER_BYTES, Header, Kind, WireError, frame_of, unpack
from sde_harl.policy.inference.unflatten import server_policy
from sde_harl.policy.shapes import server_shape
from sde_harl.record.reader import open_run
from sde_harl.server.assignment import deal_slots
from sde_harl.server.shard_check import ShardCheck
from sde_harl.server.sharded_pool import ShardedPool
from sde_harl.training.build import build
from sde_harl.training.remote import RemoteCollector, RemoteEnvironments
from sde_harl.training.trainer import Trainer

GAME = ["env.name=mpe", "env.map=simple_spread", "env.backend=mpe2", "algo.name=happo"]
WORDS = [*GAME, "env.workers=0", *SMALL, "train.slots=4", "policy.local_blocks=1"]
WORDS += ["codec.name=entropy", "train.threads=1", "train.rollout=33", "train.steps=264"]


def trainer_of(words: list[str], link: Transport) -> Trainer:
    config = parse(words).config
    assert config is not None
    return Trainer(build(config, link))


def playing(folder: Path, *words: str, executors: int) -> tuple[Trainer, Star]:
    """Returns a run whose environments so many executors play."""
    words = (*WORDS, *words, "placement.mode=envs", f"record.dir={folder}")
    star = Star(words, executors)
    return trainer_of([*words], star), star


def test_slots_are_dealt_evenly_and_in_order() -> None:
    assert deal_slots(8, 3) == {1: range(2), 2: range(2, 5), 3: range(5, 8)}
    with pytest.raises(UserError, match=r"train.slots: expected 3 or more.*-np 4, got 2"):
        deal_slots(2, 3)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of the run that one process plays."""
    folder = tmp_path_factory.mktemp("alone")
    trainer_of([*WORDS, f"record.dir={folder}"], loopback()).run()
    return folder


@pytest.mark.parametrize("executors", [1, 3])
def test_executors_play_the_run_of_one_process(executors: int, alone: Path, tmp_path: Path) -> None:
    playing(tmp_path, executors=executors)[0].run()
    assert_same(alone, tmp_path)
    assert_same_decisions(alone, tmp_path)


def test_an_executor_that_plays_imports_no_torch() -> None:
    program = "import sys, sde_harl.training.shard_player, sde_harl.envs.mpe; print(*sys.modules)"
    done = launch(1, "-c", program)
    assert "sde_harl.envs.registry" in done.out, done.err
    assert not {"torch", "compressai", "mpi4py"} & set(done.out.split())


KINDS: dict[str, list[str]] = {
    "coded": [],
    "recurrent": ["policy.recurrent=true", "algo.chunk=11"],
    "layer norm": ["policy.layer_norm=true", "policy.recurrent=true", "algo.chunk=11"],
    "numbers": ["env.continuous_actions=true"],
    "hasac": ["algo.name=hasac"],
    "on device": ["policy.local_blocks=4", "policy.blocks=4", "codec.name=none"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_rank_0s_part_arrives_as_it_was(kind: str, tmp_path: Path) -> None:
    words = [*WORDS, *KINDS[kind], f"record.dir={tmp_path}"]
    config = parse(words).config
    assert config is not None
    parts = build(config, loopback())
    sent = parts.learned.policy.acting()
    spec = parts.environments.spec
    heads = type(parts.learned.algorithm).heads(spec)
    shape = server_shape(spec=spec, policy=config.policy, heads=heads)
    flat = np.concatenate([each.ravel() for each in sent.arrays()])
    got = server_policy(shape, flat)
    size = config.policy.width
    if parts.collector.rollout.latents.size:
        size = parts.collector.rollout.latents.shape[-1]
    latents = np.random.default_rng(1).standard_normal((len(spec.agents), 5, size), np.float32)
    available = np.broadcast_to(spec.choices()[:, None], (len(spec.agents), 5, sum(spec.branches)))
    for name in ("actions", "log_probs", "memory"):
        wanted = getattr(sent.act(latents, available, None), name)
        found = getattr(got.act(latents, available, None), name)
        np.testing.assert_array_equal(wanted, found)
    with pytest.raises(ValueError, match="expected"):
        server_policy(shape, flat[:-1])
    parts.logger.close()


SHAPE = SlotShape(envs=2, agents=3, dimensions=1, continuous=False, memory=4)


def a_slot(steps: int = 2) -> dict[str, np.ndarray[Any, Any]]:
    arrays = {name: np.zeros(size, kind) for name, (kind, size) in SHAPE.fields(steps).items()}
    arrays["lengths"][:] = [steps, 0]
    return arrays


def some_played() -> Played:
    episodes = np.zeros(3, EPISODE)
    episodes["length"] = 5
    return Played(episodes=episodes, slots=[a_slot(), {"episodes": np.array([4, 7])}])


def test_what_was_played_is_read_as_it_was_written() -> None:
    played = some_played()
    data = memoryview(pack_played(played, SHAPE))
    found = unpack_played(data, SHAPE, slots=2, most=3)
    assert found.episodes.tolist() == played.episodes.tolist()
    assert found.is_brought_back
    for one, two in zip(played.slots, found.slots):
        assert one.keys() == two.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_sizes_are_refused_and_take_no_memory(data: st.DataObject) -> None:
    payload = bytearray(pack_played(some_played(), SHAPE))
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(ValueError, match="played"):
        unpack_played(memoryview(payload[:cut]), SHAPE, slots=2, most=3)
    with pytest.raises(ValueError, match="played"):
        unpack_played(memoryview(bytes(payload) + b"x"), SHAPE, slots=2, most=3)
    # The number of steps of the first slot, and the number of episodes.
    for at, numbers in ((5 + 3 * EPISODE.itemsize, (-2, 3, 2**31 - 1)), (0, (2, 4, 2**31 - 1))):
        wrong = bytearray(payload)
        struct.pack_into("<i", wrong, at, data.draw(st.sampled_from(numbers)))
        with pytest.raises(ValueError, match="played"):
            unpack_played(memoryview(wrong), SHAPE, slots=2, most=3)


FIELDS = {
    "obs": Field("<f4", (3, 2, 2, 5)),
    "available_actions": Field("|b1", (3, 2, 2, 4)),
    "actions": Field("<i4", (3, 2, 2, 1)),
    "log_probs": Field("<f4", (3, 2, 2, 1)),
    "memory": Field("<f4", (3, 1, 2, 4)),
    "rewards": Field("<f4", (2, 2)),
    "terminated": Field("|b1", (2, 2)),
    "truncated": Field("|b1", (2, 2)),
    "void": Field("|b1", (2, 2)),
}


def a_shard() -> dict[str, np.ndarray[Any, Any]]:
    arrays = lay_out(FIELDS, memoryview(bytearray(bytes_of(FIELDS))))
    arrays["available_actions"][..., :2] = True
    arrays["terminated"][1, 0] = True
    return arrays


def one_played() -> Played:
    episodes = np.zeros(1, EPISODE)
    episodes["length"] = 2
    return Played(episodes=episodes, slots=[a_slot()])


Change = Callable[[dict[str, np.ndarray[Any, Any]], Played], object]
WRONG: dict[str, tuple[str, Change]] = {
    "an infinite observation": ("obs", lambda a, p: a["obs"].fill(np.inf)),
    "a reward that is no number": ("rewards", lambda a, p: a["rewards"].fill(np.nan)),
    "an action that does not exist": ("action", lambda a, p: a["actions"].fill(4)),
    "a negative action": ("action", lambda a, p: a["actions"].fill(-1)),
    "an action that is not available": ("action", lambda a, p: a["actions"].fill(3)),
    "a probability above 1": ("log_prob", lambda a, p: a["log_probs"].fill(0.1)),
    "an impossible choice": ("log_prob", lambda a, p: a["log_probs"].fill(-40.0)),
    "a memory that no GRU has": ("memory", lambda a, p: a["memory"].fill(2.0)),
    "a flag of 2": ("void", lambda a, p: a["void"].view(np.uint8).fill(2)),
    "an end of both kinds": ("truncated", lambda a, p: a["truncated"].fill(True)),
    "an episode too few": ("episodes", lambda a, p: a["terminated"].fill(True)),
    "an episode without a step": ("length", lambda a, p: p.episodes["length"].fill(0)),
    "an infinite return": ("returns", lambda a, p: p.episodes["returns"].fill(np.inf)),
    "an outcome of 2": ("won", lambda a, p: p.episodes["won"].fill(2)),
    "a negative count": ("episodes", lambda a, p: p.slots[0]["episodes"].fill(-1)),
    "lengths without actions": ("lengths", lambda a, p: p.slots[0]["lengths"].fill(1)),
    "actions beyond the choices": ("action", lambda a, p: p.slots[0]["actions"].fill(4)),
    "a checksum of 33 bits": ("seen", lambda a, p: p.slots[0]["seen"].fill(2**32)),
    "a slot's wild memory": ("memory", lambda a, p: p.slots[0]["memory"].fill(np.nan)),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_can_not_have_been_played_is_refused(name: str) -> None:
    check = ShardCheck((4,), continuous=False)
    check.check(a_shard(), one_played())
    reason, change = WRONG[name]
    arrays = a_shard()
    played = one_played()
    change(arrays, played)
    with pytest.raises(WireError, match=f"^{reason}$"):
        check.check(arrays, played)


def test_a_shard_that_is_refused_ends_the_run_with_its_line(tmp_path: Path) -> None:
    trainer, star = playing(tmp_path, executors=2)

    def spoil(rank: int, frame: bytearray) -> None:
        header = unpack(rank, memoryview(bytes(frame)), None).header
        if header.kind is Kind.SHARD and rank == 2:
            payload = b"\xff" * (len(frame) - HEADER_BYTES - 4)
            frame[:] = frame_of(header, payload)

    star.change = spoil
    with pytest.raises(UserError, match=r"executor 2.*: what it played is refused: "):
        trainer.run()
    # What was learnt before is saved.
    assert [*tmp_path.rglob("last.pt")]


def test_an_executor_that_falls_silent_ends_the_run_with_its_line(tmp_path: Path) -> None:
    trainer, star = playing(tmp_path, "link.failure_timeout_s=1", executors=2)
    trainer.publish()
    trainer.update()
    star.silent.add(2)
    with pytest.raises(UserError, match=r"executor 2 .*: nothing was heard of its games within"):
        trainer.update()
    assert trainer.pool.absent == [2]
    trainer.logger.close()


def is_of(frame: bytearray, kind: Kind) -> bool:
    return unpack(0, memoryview(bytes(frame)), None).header.kind is kind


def kinds_of_faults(folder: Path) -> list[tuple[int, str]]:
    (file,) = folder.rglob("run.h5")
    faults = open_run(file).table("faults")
    return [(int(rank), kind.decode()) for rank, kind in zip(faults["rank"], faults["kind"])]


def check_redealt(alone: Path, folder: Path, lost: int) -> None:
    """Checks that a run which lost an executor is the run of one process."""
    assert_same(alone, folder, ("training", "evaluations", "symbols", "episodes"))
    assert_same_decisions(alone, folder)
    kinds = kinds_of_faults(folder)
    assert (lost, "lost") in kinds
    redealt = {rank for rank, kind in kinds if kind == "redealt"}
    # One of four slots goes to one executor, two go to both others.
    assert redealt == ({1, 2} if lost == 3 else {min({1, 2} - {lost})})


@pytest.mark.parametrize("moment", range(4))
def test_the_slots_of_a_lost_executor_are_dealt_to_the_others(
    moment: int, alone: Path, tmp_path: Path
) -> None:
    trainer, star = playing(tmp_path, "link.on_fault=redeal", executors=3)
    seen = 0

    # In the first rollout or the second, before its shard or when that is there.
    def lose(rank: int, frame: bytearray) -> None:
        nonlocal seen
        if rank == 3 and is_of(frame, Kind.PLAYED if moment % 2 else Kind.SHARD):
            seen += 1
            if seen > moment // 2:
                star.kill(3)

    star.change = lose
    trainer.run()
    assert trainer.pool.absent == [3]
    check_redealt(alone, tmp_path, lost=3)


def test_where_executors_are_lost_one_after_the_other_the_last_one_plays_all(
    alone: Path, tmp_path: Path
) -> None:
    trainer, star = playing(tmp_path, "link.on_fault=redeal", executors=3)
    shards = 0

    def lose(rank: int, frame: bytearray) -> None:
        nonlocal shards
        shards += is_of(frame, Kind.SHARD)
        if rank != 2 and shards > rank:
            star.kill(rank)

    star.change = lose
    trainer.run()
    assert trainer.pool.absent == [1, 3]
    assert_same(alone, tmp_path, ("training", "evaluations", "symbols", "episodes"))
    assert_same_decisions(alone, tmp_path)


def test_a_shard_that_is_refused_is_played_by_others(alone: Path, tmp_path: Path) -> None:
    trainer, star = playing(tmp_path, "link.on_fault=redeal", executors=3)

    def spoil(rank: int, frame: bytearray) -> None:
        if rank == 2 and is_of(frame, Kind.SHARD):
            header = unpack(rank, memoryview(bytes(frame)), None).header
            frame[:] = frame_of(header, b"\xff" * (len(frame) - HEADER_BYTES - 4))

    star.change = spoil
    trainer.run()
    check_redealt(alone, tmp_path, lost=2)


def test_a_silent_executor_is_replaced(alone: Path, tmp_path: Path) -> None:
    words = ["link.on_fault=redeal", "link.failure_timeout_s=1"]
    trainer, star = playing(tmp_path, *words, executors=3)

    def stop(rank: int, frame: bytearray) -> None:
        if rank == 1 and is_of(frame, Kind.SHARD) and trainer.counters.steps:
            star.silent.add(1)

    star.change = stop
    trainer.run()
    check_redealt(alone, tmp_path, lost=1)


def test_an_executor_that_can_not_go_on_is_replaced(alone: Path, tmp_path: Path) -> None:
    trainer, star = playing(tmp_path, "link.on_fault=redeal", executors=3)

    def lose(rank: int, frame: bytearray) -> None:
        if rank == 2 and is_of(frame, Kind.SHARD):
            header = unpack(rank, memoryview(bytes(frame)), None).header
            frame[:] = frame_of(header._replace(kind=Kind.BYE), b"no memory is left")

    star.change = lose
    trainer.run()
    check_redealt(alone, tmp_path, lost=2)


def test_without_any_executor_the_run_ends_with_its_line(tmp_path: Path) -> None:
    trainer, star = playing(tmp_path, "link.on_fault=redeal", executors=2)
    star.change = lambda rank, frame: star.kill(rank) if is_of(frame, Kind.PLAYED) else None
    with pytest.raises(UserError, match="no executor is left"):
        trainer.run()


def test_episodes_that_can_not_be_brought_back_are_told(tmp_path: Path) -> None:
    words = [*WORDS, "placement.mode=envs", f"record.dir={tmp_path}", "link.on_fault=redeal"]
    star = Star(words, 3)
    config = parse(words).config
    assert config is not None
    parts = build(config, star)
    trainer = Trainer(parts)
    trainer.publish()
    trainer.update()
    assert isinstance(parts.environments, RemoteEnvironments)
    # What another game would have shown.
    for state in parts.environments.states[2:]:
        state["seen"][0] += 1
    assert not parts.collector.rollout.anew.any()
    star.kill(3)
    trainer.update()
    assert 0 < parts.collector.rollout.anew.sum() < config.train.envs
    trainer.update()
    assert not parts.collector.rollout.anew.any()
    trainer.logger.close()
    assert kinds_of_faults(tmp_path).count((0, "anew")) == 2


def test_an_executor_hears_the_goodbye_while_it_plays(tmp_path: Path) -> None:
    trainer, star = playing(tmp_path, executors=1)
    trainer.publish()
    assert isinstance(trainer.pool, ShardedPool)
    assert isinstance(trainer.collector, RemoteCollector)
    trainer.collector.begin(0)
    star.send(1, Header(kind=Kind.BYE), b"the disk is full")
    arrived = [message.header.kind for message in star.poll()]
    assert Kind.SHARD not in arrived
    farewell = star.executors[1].farewell
    assert farewell is not None
    assert farewell.reason == "the disk is full"
    trainer.logger.close()


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    words = [*WORDS, "placement.mode=envs", f"record.dir={tmp_path}"]
    star = Star([*words, "seed=7"], 1)
    with pytest.raises(UserError, match=r"executor 1.*expected the server's configuration"):
        trainer_of(words, star).run()


def test_a_run_goes_on_with_any_number_of_executors(alone: Path, tmp_path: Path) -> None:
    first, _ = playing(tmp_path, "record.checkpoint_interval=132", executors=2)
    first.run()
    folder = first.logger.folder
    # As if it had been killed in its second update.
    (folder / "models" / "last.pt").unlink()
    (folder / "models" / "264.pt").unlink()
    second, _ = playing(tmp_path, f"train.resume={folder}", executors=3)
    second.run()
    assert_same(alone, tmp_path)


AHEAD = ["train.overlap=true", "train.steps=528"]


@pytest.fixture(scope="module")
def ahead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a run whose two executors play ahead."""
    folder = tmp_path_factory.mktemp("ahead")
    playing(folder, *AHEAD, executors=2)[0].run()
    return folder


def test_each_rollout_but_the_first_is_played_by_a_policy_that_is_one_update_older(
    ahead: Path,
) -> None:
    (file,) = ahead.rglob("run.h5")
    training = open_run(file).table("training")
    assert training["lag"].tolist() == [0, 1, 1, 1]
    assert training["ratio_error"][0] < 1e-4
    assert training["ratio_error"][1:].min() > 1e-4
    decisions = open_run(file).table("decisions")
    rollouts = decisions["step"] // 132
    # The last one is an evaluation, which the last model plays.
    for rollout, version in enumerate([1, 1, 2, 3, 5]):
        assert set(decisions["version"][rollouts == rollout].tolist()) == {version}


def test_who_plays_ahead_makes_no_difference(ahead: Path, tmp_path: Path) -> None:
    playing(tmp_path, *AHEAD, executors=4)[0].run()
    assert_same(ahead, tmp_path)
    assert_same_decisions(ahead, tmp_path)


def test_a_run_that_plays_ahead_goes_on_bit_for_bit(ahead: Path, tmp_path: Path) -> None:
    words = [*AHEAD, "record.checkpoint_interval=132"]
    first, _ = playing(tmp_path, *words, executors=2)
    first.run()
    folder = first.logger.folder
    for file in (folder / "models").iterdir():
        if file.stem != "264":
            file.unlink()
    second, _ = playing(tmp_path, *AHEAD, f"train.resume={folder}", executors=3)
    second.run()
    assert_same(ahead, tmp_path)


def test_what_a_lost_executor_played_ahead_others_play_by_the_same_model(
    ahead: Path, tmp_path: Path
) -> None:
    trainer, star = playing(tmp_path, *AHEAD, "link.on_fault=redeal", executors=3)

    def lose(rank: int, frame: bytearray) -> None:
        # By then the model that is learnt from the rollout before has been published.
        if rank == 3 and is_of(frame, Kind.PLAYED) and trainer.counters.steps == 264:
            star.kill(3)

    star.change = lose
    trainer.run()
    assert trainer.pool.absent == [3]
    assert_same(ahead, tmp_path, ("training", "evaluations", "symbols", "episodes"))
    assert_same_decisions(ahead, tmp_path)


@pytest.mark.parametrize("mode", ["local", "agents"])
def test_rank_0_can_not_play_and_learn_at_once(mode: str) -> None:
    with pytest.raises(UserError, match=r"train.overlap: expected false .*rank 0 plays"):
        parse([*WORDS, "train.overlap=true", f"placement.mode={mode}"])
