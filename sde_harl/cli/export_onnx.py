"""Takes the policies of a run's last checkpoint, and has them written as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sde_harl.cli.play import PlayedRun, play_config
from sde_harl.config.schema import Config
from sde_harl.errors import UserError
from sde_harl.executor.in_process import loopback
from sde_harl.policy.shapes import server_shape
from sde_harl.run import dismiss, find_code
from sde_harl.training.build import PolicyParts, build_policies, make_environments


def export_onnx(played: PlayedRun, folder: Path, *, trust: bool) -> None:
    """Writes the policies into the folder. Raises OSError and UserError."""
    try:
        from sde_harl.export.onnx_policy import Policy, write_onnx
    except ImportError as error:
        raise UserError("--onnx needs onnx: pip install 'sde_harl[onnx]'") from error
    config = play_config(played, trust=trust)
    find_code(config, is_one_process=True)
    link = loopback()
    environments = None
    try:
        environments = make_environments(config)
        parts = build_policies(config, link, environments)
    finally:
        if environments:
            environments.close()
        dismiss(link, "")
    policy = parts.learned.policy
    heads = type(parts.learned.algorithm).heads(parts.spec)
    written = Policy(
        shape=policy.shape,
        local=policy.local_parameters(),
        server=server_shape(spec=parts.spec, policy=config.policy, heads=heads),
        above=policy.acting().arrays(),
    )
    write_onnx(written, folder, {"checkpoint": str(played.checkpoint), **_about(parts, config)})


def _about(parts: PolicyParts, config: Config) -> dict[str, Any]:
    """Returns what names the policies, and the codec between device and server."""
    tables = []
    if config.codec.name == "entropy":
        tables = parts.learned.policy.build_tables(0)
    return {
        "env": parts.spec.name,
        "algo": config.algo.name,
        "agents": parts.spec.agents,
        "groups": parts.roles.groups,
        "codec": config.codec.name,
        "table_digests": [each.digest.hex() for each in tables],
        "medians": [each.medians.tolist() for each in tables],
    }
