"""Prepares JAX for stepping small batches of games on the processor."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from pathlib import Path

import jax

log = logging.getLogger(__name__)


def set_up() -> None:
    """Prepares JAX; to be called before anything is computed with it, else it has no effect."""
    if "JAX_PLATFORMS" not in os.environ:
        # The batch is small and its consumers are numpy: on an accelerator each step would pay for
        # two transfers.
        configure("jax_platforms", "cpu")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        _keep_compiled(_cache_dir())


def configure(option: str, value: object) -> None:
    """Sets one of JAX's options."""
    jax.config.update(option, value)  # type: ignore[no-untyped-call]


def _cache_dir() -> Path:
    """Returns the folder for compiled steps, one for each kind of processor.

    A home directory may be shared by hosts whose processors differ, and compiled code that uses an
    instruction that a processor lacks crashes there. So the folder's name has a digest of the
    processor's features.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    kind = hashlib.sha256(_cpu_features().encode()).hexdigest()[:12]
    return home / "sde_harl" / "jax" / f"{platform.machine()}-{kind}"


def _cpu_features() -> str:
    """Returns the first processor's features as Linux lists them (x86 and Arm), "" elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return ""


def _keep_compiled(folder: Path) -> None:
    """Keeps what JAX compiles in `folder`, so that only the first run on a host compiles."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("compiled steps are not kept, the next start compiles again: %s", error)
        return
    configure("jax_compilation_cache_dir", str(folder))
    configure("jax_persistent_cache_min_compile_time_secs", 0)
