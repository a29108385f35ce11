"""The emulated cluster on this machine: network namespaces server, edge1, edge2, ..., the links between them (netemu.c)
and shares of the processor. All of its state is in one folder, so that what a crash left can be removed by anyone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import shares
from profiles import Device, Link
from shares import PREFIX  # of the namespaces too, and onhost knows it

STATE = Path(os.environ.get("SDE_TESTBED", "/run/sde-testbed"))
HERE = Path(__file__).resolve().parent
NETWORK = "10.77.0"
SERVER = "server"
MOST_EDGES = 63
NAMESPACES = Path("/run/netns")


class ClusterError(Exception):
    """What this machine can't do, or is doing already, in one line."""


class Host(NamedTuple):
    name: str
    address: str
    link: str
    """Name of the link that lies between it and the switch."""
    device: str
    """Name of the device whose share of the processor it has; empty: no bound."""


class Counters(NamedTuple):
    """Of a host's eth0 since the cluster is up, Ethernet headers included."""

    rx_bytes: int
    rx_packets: int
    tx_bytes: int
    tx_packets: int


def check() -> None:
    """Raises ClusterError unless a cluster can be made here."""
    if os.geteuid() != 0:
        raise ClusterError("network namespaces need root: run this with sudo")
    for tool in ("ip", "nsenter", "unshare"):
        if not shutil.which(tool):
            raise ClusterError(
                f"the program {tool} is missing (Debian: apt install iproute2 util-linux)"
            )
    if not compiler():
        raise ClusterError(
            "no C compiler for the links' emulator (Debian: apt install gcc libc6-dev)"
        )
    if not Path("/dev/net/tun").exists():
        raise ClusterError(
            "/dev/net/tun is missing: the kernel has no TAP devices, or this container may not use them"
        )
    name = f"{PREFIX}check"
    made = _run("ip", "netns", "add", name, must=False)
    if made.returncode:
        raise ClusterError(f"no network namespaces here: {made.stderr.strip()}")
    _run("ip", "netns", "del", name)


def compiler() -> str:
    return next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), "")


def up(edges: int, link: Link, ethernet: Link, device: Device | None) -> None:
    """Make a cluster of `edges` hosts on links of one kind and a server on ethernet, in place of one that a crash left.

    Raises ClusterError where it can't be made, or one is in use.
    """
    if not 1 <= edges <= MOST_EDGES:
        raise ClusterError(f"{edges} edge hosts: expected 1 to {MOST_EDGES}")
    check()
    busy = _processes()
    if busy:
        raise ClusterError(
            f"the cluster is in use by process {busy[0]}: let it end, or take the cluster down"
        )
    down()
    links = {SERVER: ethernet} | {f"edge{number}": link for number in range(1, edges + 1)}
    STATE.mkdir(parents=True)
    try:
        _build_emulator()
        _add_hosts(
            [
                Host(
                    name,
                    f"{NETWORK}.{k}",
                    each.name,
                    device.name if device and name != SERVER else "",
                )
                for k, (name, each) in enumerate(links.items(), start=1)
            ]
        )
        _start_emulator(links)
        if device:
            _slow_down(device)
    except BaseException:
        down()
        raise


def shape(names: Iterable[str], link: Link) -> None:
    """Give hosts another link while they run."""
    known = {host.name: host for host in hosts()}
    for name in names:
        if name not in known:
            raise ClusterError(f"{name}: no such host; there are {', '.join(known)}")
        known[name] = known[name]._replace(link=link.name)
    lines = {line.split()[0]: line for line in (STATE / "netemu.conf").read_text().splitlines()}
    lines |= {name: " ".join([*lines[name].split()[:3], _figures(link)]) for name in names}
    _write_whole(STATE / "netemu.conf", "".join(f"{line}\n" for line in lines.values()))
    _write_hosts([*known.values()])
    pid = _emulator()
    if not pid:
        raise ClusterError("the links' emulator is not running: take the cluster down and up again")
    os.kill(pid, signal.SIGHUP)


def down() -> None:
    """Remove the cluster, or what is left of one, and all that runs in it."""
    for pid in _processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    pid = _emulator()
    if pid:
        os.kill(pid, signal.SIGTERM)
        _until(lambda: not Path(f"/proc/{pid}/exe").exists())
    for name in _namespaces():
        _run("ip", "netns", "del", name)
    shares.remove_all()
    shutil.rmtree(STATE, ignore_errors=True)


def hosts() -> list[Host]:
    """Raises ClusterError where no cluster is up."""
    try:
        return [Host(*fields) for fields in json.loads((STATE / "hosts.json").read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError("no cluster is up: testbed.py up") from error


def counters(name: str) -> Counters:
    found = json.loads(_run("ip", "-n", PREFIX + name, "-s", "-j", "link", "show", "eth0").stdout)[
        0
    ]["stats64"]
    return Counters(*(found[way][what] for way in ("rx", "tx") for what in ("bytes", "packets")))


def label() -> str:
    """What is emulated, for the record of whatever runs on it."""
    edges = [host for host in hosts() if host.name != SERVER]
    kinds = {
        "links": dict.fromkeys(host.link for host in edges),
        "devices": dict.fromkeys(h.device for h in edges),
    }
    return "; ".join(f"{kind} {', '.join(names)}" for kind, names in kinds.items() if any(names))


def _build_emulator() -> None:
    _run(compiler(), "-O2", "-o", str(STATE / "netemu"), str(HERE / "netemu.c"))


def _add_hosts(made: list[Host]) -> None:
    for host in made:
        _run("ip", "netns", "add", PREFIX + host.name)
        _run("ip", "-n", PREFIX + host.name, "link", "set", "lo", "up")
    _write_hosts(made)
    names = "".join(f"{host.address} {host.name}\n" for host in made)
    (STATE / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
    (STATE / "hostfile").write_text("".join(f"{host.name} slots=1\n" for host in made))


def _write_hosts(made: list[Host]) -> None:
    _write_whole(STATE / "hosts.json", json.dumps(made))


def _start_emulator(links: dict[str, Link]) -> None:
    made = hosts()
    (STATE / "netemu.conf").write_text(
        "".join(
            f"{host.name} {PREFIX}{host.name} 02:77:00:00:00:{number:02x} {_figures(links[host.name])}\n"
            for number, host in enumerate(made, start=1)
        )
    )
    with (STATE / "netemu.log").open("w") as log:
        command = [str(STATE / "netemu"), str(STATE / "netemu.conf")]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    (STATE / "netemu.pid").write_text(str(process.pid))
    if not _until(lambda: f"netemu: {len(made)} hosts" in (STATE / "netemu.log").read_text()):
        raise ClusterError(
            f"the links' emulator does not start: {(STATE / 'netemu.log').read_text().strip()}"
        )
    for host in made:
        _run("ip", "-n", PREFIX + host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")


def _figures(link: Link) -> str:
    return f"{link.medium} {link.up.line()} {link.down.line()}"


def _slow_down(device: Device) -> None:
    if not shares.supported():
        raise ClusterError(
            f"device {device.name}: this kernel offers no control group for the processor"
        )
    (STATE / "cgroup").mkdir()
    for host in hosts():
        if host.device:
            (STATE / "cgroup" / host.name).write_text(str(shares.make(host.name, device.cores)))


def _write_whole(path: Path, text: str) -> None:
    """So that no reader sees half of it."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    part.replace(path)


def _namespaces() -> list[str]:
    return sorted(path.name for path in NAMESPACES.glob(f"{PREFIX}*"))


def _processes() -> list[int]:
    """What runs in the namespaces."""
    return [
        int(pid)
        for name in _namespaces()
        for pid in _run("ip", "netns", "pids", name, must=False).stdout.split()
    ]


def _emulator() -> int:
    """The emulator's process; 0 where it has ended, and its number may be another's by now."""
    try:
        pid = int((STATE / "netemu.pid").read_text())
        return pid if os.readlink(f"/proc/{pid}/exe").startswith(str(STATE / "netemu")) else 0
    except (OSError, ValueError):
        return 0


def _until(done: Callable[[], bool], timeout_s: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _run(*words: str, must: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words, capture_output=True, text=True)
    if must and done.returncode:
        raise ClusterError(f"{' '.join(words)}: {(done.stderr or done.stdout).strip()}")
    return done
