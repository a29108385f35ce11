"""Makes the folder of a run, with what is known of the run before it begins."""

from __future__ import annotations

from pathlib import Path

from sde_harl.config.layers import to_yaml
from sde_harl.config.schema import Config
from sde_harl.envs.base import EnvSpec
from sde_harl.envs.specs import to_json
from sde_harl.record.folder import make_run_folder


def make_folder(config: Config, spec: EnvSpec) -> Path:
    """Returns the run's new folder, with what is known of the run before it begins."""
    # A name is the environment's and the task's: "smax/3m".
    env, task = spec.name.split("/", 1)
    folder = make_run_folder(
        Path(config.record.dir),
        env=env,
        task=task,
        algo=config.algo.name,
        exp=config.record.exp,
        seed=config.seed,
    )
    (folder / "models").mkdir()
    _write_settings(folder, config, spec)
    return folder


def _write_settings(folder: Path, config: Config, spec: EnvSpec) -> None:
    (folder / "config.yaml").write_text(to_yaml(config))
    # Boards read the sizes from it: they have the policies, but no environment to ask.
    (folder / "spec.json").write_text(to_json(spec) + "\n")
