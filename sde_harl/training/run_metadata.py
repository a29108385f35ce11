"""Describes a run once, at its start: the attributes of /meta in run.h5."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sde_harl.config.layers import to_yaml
from sde_harl.config.schema import Config, LinkProfile
from sde_harl.envs.base import EnvSpec
from sde_harl.envs.registry import ChosenBackend
from sde_harl.policy.shapes import local_shape
from sde_harl.roles.grouping import Roles
from sde_harl.server.executor_pool import ExecutorPool

EMULATED = "SDE_HARL_EMULATED"
"""Environment variable of a run on emulated links or devices: names the real ones."""

PACKAGES = (
    "sde_harl",
    "numpy",
    "torch",
    "compressai",
    "mpi4py",
    "h5py",
    "jax",
    "jaxmarl",
    "mpe2",
    "smac",
    "smacv2",
    "pysc2",
    "scikit-learn",
)
"""The packages whose versions are recorded: they can change a run's numbers."""


def run_metadata(
    *,
    config: Config,
    spec: EnvSpec,
    pool: ExecutorPool,
    server: Mapping[str, str | int],
    backend: ChosenBackend,
    roles: Roles,
) -> dict[str, str | int | float]:
    """Returns the attributes of /meta; lists are JSON, because HDF5 has no lists of lists.

    server: rank 0's host, described as executors describe theirs. backend: the environment's.
    """
    executors = [each._asdict() for _, each in sorted(pool.hosts.items())]
    return {
        "config": to_yaml(config),
        "env": spec.name,
        "algo": config.algo.name,
        "seed": config.seed,
        "backend": backend.backend,
        "game_version": backend.game_version,
        "emulated": _emulated(config.link.model),
        "placement": config.placement.mode,
        "executors": len(pool.hosts),
        "hosts": json.dumps([server, *executors]),
        "versions": json.dumps(_versions()),
        "git_revision": _git_revision(),
        "codec": config.codec.name,
        "latent": local_shape(agents=(0,), spec=spec, policy=config.policy).latent_max(),
        "obs_sizes": json.dumps(spec.obs_sizes),
        "obs_dtype": spec.obs_dtype,
        "agents": json.dumps(spec.agents),
        "unit_types": json.dumps(spec.unit_types),
        "groups": json.dumps(roles.groups),
        "roles_source": roles.source,
        "started": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
    }


def _emulated(model: LinkProfile) -> str:
    """Returns what is emulated, around the program or by it; empty for nothing."""
    found = [os.environ.get(EMULATED, "")]
    if model != LinkProfile():
        found.append(
            f"latents {model.delay_ms:g} +- {model.jitter_ms:g} ms late, "
            f"{model.loss:.1%} sent again"
        )
    return "; ".join(filter(None, found))


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: _installed(name) for name in PACKAGES}


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _git_revision() -> str:
    """Returns the revision of the code that runs, "unknown" where it isn't in a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    # In the package's folder: the user's own may be another repository.
    folder = Path(__file__).parent
    try:
        # A repository on a network drive must not hold up the run.
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
