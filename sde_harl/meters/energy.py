"""What could tell the energy that a host uses. Finding a source is all that is built in yet; none is read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

RAPL = "sys/class/powercap"  # Intel's and AMD's packages
INA3221 = "sys/bus/i2c/drivers"  # NVIDIA's boards; ina3221x in JetPack 4, ina3221 from 5 on
NVIDIA = "proc/driver/nvidia/version"


def sources(root: Path = Path("/")) -> tuple[list[str], str]:
    """Names of a host's energy sources that can be read, and why there are none, where there are none."""
    counters = [*(root / RAPL).glob("intel-rapl:*/energy_uj")]
    readable = [path for path in counters if os.access(path, os.R_OK)]
    found = {
        "rapl": bool(readable),
        "ina3221": any((root / INA3221).glob("ina3221*/*/*")),
        "pmic": bool(shutil.which("vcgencmd")) and (root / "proc/device-tree/model").exists(),
        "nvidia": (root / NVIDIA).exists(),
    }
    names = [name for name, there in found.items() if there]
    if names:
        return names, ""
    return [], "RAPL is for root alone" if counters else "no RAPL, INA3221, PMIC or NVIDIA driver here"
