#!/usr/bin/env python3
"""An emulated cluster on one machine: a server and edge hosts with links, addresses and processors of their own.

  testbed.py up [EDGES] [--link NAME [FIGURE=VALUE ...]] [--device NAME]     8 hosts on wifi5-20mhz by default
  testbed.py shape HOST[,HOST...]|edges NAME [FIGURE=VALUE ...]              another link, while they run
  testbed.py exec HOST COMMAND...             a command on one host, such as mpirun on the server
  testbed.py status                           hosts, links, counters, where the hostfile is
  testbed.py down                             remove it, and whatever runs in it
  testbed.py check                            whether this machine can have one

Needs Linux, root, iproute2 and a C compiler. profiles.toml lists links and devices, and explains their figures.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

import cluster
import profiles
from cluster import SERVER, STATE, ClusterError
from profiles import ProfileError

EMULATED = "SDE_HARL_EMULATED"  # read by sde_harl.training.run_metadata: every record says what it was made on


def up(args: argparse.Namespace) -> None:
    name, *changes = args.link
    device = profiles.device(args.device) if args.device else None
    cluster.up(args.edges, profiles.link(name, changes), profiles.link("ethernet"), device)
    print(f"{args.edges + 1} hosts are up: {cluster.label()}; hostfile {STATE / 'hostfile'}")


def shape(args: argparse.Namespace) -> None:
    edges = [host.name for host in cluster.hosts() if host.name != SERVER]
    names = edges if args.hosts == "edges" else args.hosts.split(",")
    cluster.shape(names, profiles.link(args.name, args.changes))


def execute(host: str, *command: str) -> None:
    """Become a command on a host, in an environment where mpirun knows its way over the cluster."""
    names = [each.name for each in cluster.hosts()]
    if host not in names or not command:
        raise ClusterError(f"{host}: expected a host ({', '.join(names)}) and a command")
    settings = {
        "PRTE_MCA_plm_ssh_agent": str(cluster.HERE / "nsrsh"),
        "PRTE_MCA_rmaps_default_mapping_policy": "slot:OVERSUBSCRIBE",  # every host counts the same few cores
        "PRTE_MCA_hwloc_default_binding_policy": "none",
        "OMPI_MCA_btl_tcp_if_include": f"{cluster.NETWORK}.0/24",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        EMULATED: cluster.label(),
    }
    os.environ.update(settings)
    script = str(cluster.HERE / "onhost")
    os.execv(script, [script, host, *command])


def status(args: argparse.Namespace) -> None:
    print(f"{cluster.label()}; hostfile {STATE / 'hostfile'}")
    for host in cluster.hosts():
        rx, rx_packets, tx, tx_packets = cluster.counters(host.name)
        traffic = f"sent {tx:>12,} B in {tx_packets:>9,} frames   received {rx:>12,} B in {rx_packets:>9,}"
        print(f"{host.name:<8} {host.address:<11} {traffic}   {host.link}")


def down(args: argparse.Namespace) -> None:
    cluster.check()
    cluster.down()


def check(args: argparse.Namespace) -> None:
    cluster.check()


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = made.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        added = commands.add_parser(name)
        added.set_defaults(run=run)
        return added

    start = command("up", up)
    start.add_argument("edges", nargs="?", type=int, default=8, metavar="EDGES")
    start.add_argument(
        "--link", nargs="+", default=["wifi5-20mhz"], metavar=("NAME", "FIGURE=VALUE")
    )
    start.add_argument("--device", metavar="NAME")
    reshape = command("shape", shape)
    reshape.add_argument("hosts", metavar="HOSTS")
    reshape.add_argument("name", metavar="NAME")
    reshape.add_argument("changes", nargs="*", metavar="FIGURE=VALUE")
    for name, run in (("status", status), ("down", down), ("check", check)):
        command(name, run)
    return made


def main(argv: list[str]) -> int:
    """Returns the exit code: 2 for what can't be done, said in one line."""
    try:
        if argv[:1] == ["exec"]:  # whose words are the command's, options and all
            execute(*(argv[1:] or [""]))
        args = parser().parse_args(argv)
        args.run(args)
    except (ClusterError, ProfileError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
