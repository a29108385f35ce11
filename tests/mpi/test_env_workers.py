"""Games in worker processes are the same for any number of workers.

No failure hangs, and none leaves a process behind.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from limits import hang_limit_s
from playing import assert_equal, play
from small_runs import made

from sde_harl.config.schema import EnvConfig
from sde_harl.envs.registry import make
from sde_harl.envs.specs import from_json
from sde_harl.envs.vector.ring import memory_size
from sde_harl.envs.vector.worker_protocol import RESET, WorkerSetup, setup_from_json
from sde_harl.envs.vector.workers import SETTINGS
from sde_harl.errors import UserError

SPREAD = EnvConfig(name="mpe", map="simple_spread")
CORRIDOR = EnvConfig(name="pettingzoo", factory="odd_envs:Corridor")


def workers_of(env: Any) -> list[psutil.Process]:
    return [psutil.Process(worker._process.pid) for worker in env._workers]


def wait_until_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=hang_limit_s())
    assert not alive


@pytest.mark.parametrize("workers", [1, 2, 3, 9])
@pytest.mark.parametrize("config", [SPREAD, CORRIDOR], ids=["mpe", "pettingzoo"])
def test_the_same_games_whatever_the_number_of_workers(config: EnvConfig, workers: int) -> None:
    serial = make(config, num_envs=5, seed=3, first_env=7)
    dealt = make(config.model_copy(update={"workers": workers}), num_envs=5, seed=3, first_env=7)
    assert dealt.spec == serial.spec
    for one, other in zip(play(serial, 60), play(dealt, 60), strict=True):
        assert_equal(one, other)
    np.testing.assert_array_equal(serial.episode_seeds(), dealt.episode_seeds())
    dealt.close()


def test_games_are_dealt_over_processes_that_end_with_the_vector() -> None:
    env = make(EnvConfig(name="pettingzoo", factory="odd_envs:Pid", workers=3), num_envs=7, seed=1)
    seen = env.reset().obs[:, 0]
    pids = (seen[:, 0] + 1000 * seen[:, 1]).astype(int).tolist()
    started = workers_of(env)
    assert [pids.count(process.pid) for process in started] == [3, 2, 2]
    env.close()
    wait_until_gone(started)


def test_seeds_are_those_of_the_step_in_hand() -> None:
    env = make(CORRIDOR.model_copy(update={"workers": 1}), num_envs=1, seed=1)
    seeds = []
    for _ in range(2):  # the sixth step begins the second episode
        env.reset()
        for _ in range(6):
            env.send(np.zeros((1, 2, 2), np.int32))
            time.sleep(0.01)
            seeds.append(int(env.episode_seeds()[0]))
            env.recv()
        seeds.append(int(env.episode_seeds()[0]))
    assert seeds[:6] == [seeds[0]] * 6
    assert seeds[6] != seeds[0]
    assert seeds[:7] == seeds[7:]
    env.close()


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (
            "raising",
            r"^env\.factory: odd_envs:raising: step\(\): ValueError: the third step is too",
        ),
        (
            "killed",
            r"^environment worker 0 \(environments 10 to 12\) failed: killed by SIGKILL$",
        ),
    ],
)
def test_a_worker_that_fails_is_named_and_the_others_end(factory: str, message: str) -> None:
    env = make(
        EnvConfig(name="pettingzoo", factory=f"odd_envs:{factory}", workers=2),
        num_envs=5,
        seed=1,
        first_env=10,
    )
    started = workers_of(env)
    with pytest.raises(UserError, match=message):
        play(env, 50)
    env.close()
    wait_until_gone(started)


def test_a_worker_that_is_killed_is_named() -> None:
    env = make(SPREAD.model_copy(update={"workers": 2}), num_envs=4, seed=1)
    step = env.reset()

    def play_on() -> None:
        nonlocal step
        for _ in range(3):
            env.send(np.zeros((4, 3, 1), np.int32))
            step = env.recv()

    workers_of(env)[1].kill()
    with pytest.raises(
        UserError, match=r"^environment worker 1 \(environments 2 to 3\) failed: killed by SIGKILL$"
    ):
        play_on()
    assert np.isfinite(step.obs).all()
    env.close()


def test_a_game_that_cannot_be_made_is_named_and_leaves_no_worker() -> None:
    before = psutil.Process().children()
    with pytest.raises(
        UserError,
        match=r"^env\.factory: odd_envs:refusing: the call: RuntimeError: no licence \(.+\)$",
    ):
        make(
            EnvConfig(name="pettingzoo", factory="odd_envs:refusing", workers=2), num_envs=4, seed=1
        )
    with pytest.raises(UserError, match=r"^env\.map: unknown value 'spread'; choose one of: "):
        make(EnvConfig(name="mpe", map="spread", workers=2), num_envs=4, seed=1)
    assert psutil.Process().children() == before


PARENT = """
import signal
import numpy as np
from sde_harl.config.schema import EnvConfig
from sde_harl.envs.registry import make
env = make(EnvConfig(name="pettingzoo", factory="odd_envs:Stuck", workers=2), num_envs=4, seed=1)
env.reset()
env.send(np.zeros((4, 2, 2), np.int32))
print("ready", flush=True)
signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_die_with_their_parent_in_the_middle_of_a_step(number: int) -> None:
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | path
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        started = psutil.Process(parent.pid).children()
        assert len(started) == 2
        parent.send_signal(number)
        parent.wait(hang_limit_s())
        wait_until_gone(started)


def test_workers_leave_signals_to_their_parent() -> None:
    env: Any = make(SPREAD.model_copy(update={"workers": 1}), num_envs=2, seed=1)
    env.reset()
    [worker] = workers_of(env)
    assert os.getpgid(worker.pid) != os.getpgid(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        worker.send_signal(number)
    play(env, 2)
    env.close()


def test_workers_are_no_ranks_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID", "PRTE_LAUNCHED"]
    for name in launcher:
        monkeypatch.setenv(name, "0")
    env = make(SPREAD.model_copy(update={"workers": 1}), num_envs=2, seed=1)
    [worker] = workers_of(env)
    assert not set(launcher) & set(worker.environ())
    assert not any(
        "torch" in path or "mpi4py" in path for path in (each.path for each in worker.memory_maps())
    )
    assert Path(worker.cwd()) == Path.cwd()
    env.close()


SETUP = WorkerSetup(
    env={"name": "mpe", "workers": 2},
    seed=1,
    first_env=0,
    num_envs=4,
    first_row=0,
    num_rows=2,
    memory=5,
    parent=7,
)


def test_a_setup_comes_back_from_its_line() -> None:
    assert setup_from_json(SETUP.to_json()) == SETUP


@pytest.mark.parametrize(
    ("change", "message"),
    [({"seed": "1"}, "seed: expected int, got '1'"), ({"colour": 1}, "expected the fields")],
)
def test_a_setup_that_is_wrong_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        setup_from_json(json.dumps(SETUP._asdict() | change).encode())


@pytest.mark.parametrize("is_stopped", [True, False], ids=["stopped", "hung"])
def test_a_worker_that_gives_no_answer_is_named_and_killed(is_stopped: bool) -> None:
    config = EnvConfig(name="pettingzoo", factory="odd_envs:Stuck", workers=1)
    env = make(config, num_envs=2, seed=1, first_env=4, timeout_s=1.0)
    [worker] = workers_of(env)
    if is_stopped:
        worker.suspend()
    else:
        env.reset()
        env.send(np.zeros((2, 2, 2), np.int32))
    with pytest.raises(
        UserError,
        match=r"^environment worker 0 \(environments 4 to 5\) failed: no answer within 1 s "
        r"\(link\.failure_timeout_s\): it is stopped, or its environment hangs$",
    ):
        env.reset()
    wait_until_gone([worker])
    env.close()


def test_a_run_gives_its_workers_the_time_of_its_executors(tmp_path: Path) -> None:
    words = ["--env", "mpe", "--algo", "happo", "env.workers=1", "link.failure_timeout_s=1.5"]
    before = psutil.Process().children()
    learner = made(tmp_path, *words, "train.slots=1")
    [worker] = [each for each in psutil.Process().children() if each not in before]
    worker.suspend()
    with pytest.raises(UserError, match=r"no answer within 1\.5 s \(link\.failure_timeout_s\)"):
        learner.run()
    wait_until_gone([worker])


def test_numbers_from_workers_are_checked() -> None:
    env = make(
        EnvConfig(name="pettingzoo", factory="odd_envs:Broken", workers=2), num_envs=4, seed=1
    )
    with pytest.raises(UserError, match=r"observation of agent b, got nan .*, environment 0\)$"):
        play(env, 5)
    env.close()


def start_worker(memory: int) -> subprocess.Popen[bytes]:
    """Starts a worker with no vector on the other side."""
    return subprocess.Popen(
        [sys.executable, "-m", "sde_harl.envs.vector.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(memory,),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        bufsize=0,
    )


@pytest.mark.parametrize("moment", ["start", "spec", "step"])
def test_a_worker_without_a_parent_ends_without_a_word(moment: str) -> None:
    memory = os.memfd_create("environments")
    config = CORRIDOR.model_copy(update={"workers": 1})
    setup = SETUP._replace(
        env={name: getattr(config, name) for name in SETTINGS},
        num_envs=2,
        memory=memory,
        parent=os.getpid(),
    )
    with start_worker(memory) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stderr is not None
        if moment == "step":
            worker.stdin.write(setup.to_json() + b"\n")
            spec = from_json(worker.stdout.readline())
            os.ftruncate(memory, memory_size(spec, 2))
            worker.stdout.close()
            worker.stdin.write(bytes((RESET, 0)))
        elif moment == "spec":
            worker.stdout.close()
            worker.stdin.write(setup.to_json() + b"\n")
        worker.stdin.close()
        said = worker.stderr.read()
        worker.wait(hang_limit_s())
    os.close(memory)
    assert said == b""
