"""A Slurm of three hosts on this machine, made of the programs that are installed, for tests.

It has folders, ports and a munge of its own, and leaves nothing behind. It needs root, because
Slurm's daemons start jobs as their users.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from limits import hang_limit_s, wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
HOSTS = ("n1", "n2", "n3")
# A job that was put back waits until its credential has expired: 2 minutes by default.
CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdTimeout=15
KillWait=10
PartitionName=all Nodes=n[1-3] Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=2000\n"


def why_not() -> str:
    """Returns why there can be no such Slurm here; empty where there can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: apt install slurm-wlm munge)"
    if os.geteuid():
        return "Slurm's daemons need root"
    return ""


class OwnSlurm:
    """The cluster. `environment` makes Slurm's programs talk to it."""

    def __init__(self, folder: Path) -> None:
        """Starts the daemons and waits until all hosts are idle."""
        self._folder = folder
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        conf = folder / "slurm.conf"
        self.environment = {"SLURM_CONF": str(conf)}
        host = socket.gethostname().partition(".")[0]
        ports = free_ports(1 + len(HOSTS))
        nodes = [
            NODE.format(name=name, host=host, port=port) for name, port in zip(HOSTS, ports[1:])
        ]
        conf.write_text(CONF.format(host=host, port=ports[0], folder=folder) + "".join(nodes))
        (folder / "state").mkdir()
        for name in HOSTS:
            (folder / f"spool-{name}").mkdir()
        try:
            self._start_munge()
            self._start("slurmctld", "slurmctld", "-D")
            for name in HOSTS:
                self.start_host(name)
            wait_until(lambda: self.states() == {"idle"}, "all hosts to be idle")
        except BaseException:
            self.stop()
            raise

    def _start_munge(self) -> None:
        key = self._folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log"}
        options = [f"--{name}={self._folder}/munge.{end}" for name, end in files.items()]
        # --force: its folder may be writable for others, as /tmp is.
        seed = f"--seed-file={self._folder}/munge.seed"
        self._start("munge", "munged", "--foreground", "--force", seed, *options)
        wait_until((self._folder / "munge.socket").exists, "munge's socket")

    def _start(self, name: str, *words: str) -> None:
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        output = (self._folder / f"{name}.out").open("w")
        with output:
            self._daemons[name] = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.environment, "PATH": path},
                start_new_session=True,
            )

    def start_host(self, name: str) -> None:
        """Starts the daemon of a host, at first or after a kill."""
        self._start(name, "slurmd", "-D", "-N", name)

    def kill_host(self, name: str) -> None:
        """Kills the daemon of a host with SIGKILL. What it has started goes on."""
        self._daemons[name].kill()
        self._daemons[name].wait()

    def states(self) -> set[str]:
        """Returns the states of all hosts, as sinfo spells them."""
        return set(self.call("sinfo", "-h", "-N", "-o", "%T").split())

    def call(self, *words: str) -> str:
        """Returns what one of Slurm's programs prints; empty where it fails."""
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            env={**os.environ, **self.environment},
            timeout=hang_limit_s(),
        )
        return done.stdout if done.returncode == 0 else ""

    def job(self, number: int | str) -> dict[str, str]:
        """Returns what Slurm knows of a job, also for some minutes after its end."""
        words = self.call("scontrol", "show", "job", str(number)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def stop(self) -> None:
        """Ends all jobs and daemons."""
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            self.call("scancel", "--user=root")
            wait_until(lambda: not self.call("squeue", "-h").strip(), "the end of all jobs")
        for daemon in reversed(self._daemons.values()):
            daemon.send_signal(signal.SIGTERM)
        for daemon in self._daemons.values():
            try:
                daemon.wait(hang_limit_s(20.0))
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def free_ports(count: int) -> list[int]:
    """Returns ports that nobody uses now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
