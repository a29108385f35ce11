"""The energy sensors of hosts, read as their drivers show them. Each says what it covers; none is added to another.

A sensor either counts joules itself (`Counter`) or shows watts that have to be sampled (`Power`). `root` is the file
system's, so that tests can show them trees of hosts that are not at hand.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

RAILS_IN = ("VDD_IN", "POM_5V_IN")
"""The INA3221's rails that feed a whole Jetson module; its other rails are parts of these."""
PMIC_TIMEOUT_S = 2.0


class Unreadable(Exception):
    """Why a sensor that is there, or might be, can't be read."""


class Counter(NamedTuple):
    """Counts joules by itself."""

    scope: str
    joules: Callable[[], float]
    """Since some moment of its own."""


class Power(NamedTuple):
    """Shows the power of this moment."""

    scope: str
    watts: Callable[[], float]
    period_s: float
    """How often to look."""


def rapl(root: Path) -> Counter:
    """Intel's and AMD's energy counters of processor packages, in uJ (Linux powercap, intel-rapl)."""
    zones = [
        zone for zone in sorted(root.glob("sys/class/powercap/intel-rapl:*")) if _is_package(zone)
    ]
    if not zones:
        raise Unreadable("no RAPL packages in /sys/class/powercap")
    ranges = [_number(zone / "max_energy_range_uj") for zone in zones]
    last, total = [_number(zone / "energy_uj") for zone in zones], [0.0]

    def joules() -> float:
        now = [_number(zone / "energy_uj") for zone in zones]
        # the counter starts again at its range: within minutes on a busy host
        total[0] += (
            sum((new - old) % (most + 1) for new, old, most in zip(now, last, ranges)) * 1e-6
        )
        last[:] = now
        return total[0]

    return Counter(f"RAPL counters of {len(zones)} CPU package(s), all their processes", joules)


def _is_package(zone: Path) -> bool:
    """Subzones (intel-rapl:0:0) are parts of a package, psys holds them all."""
    return zone.name.count(":") == 1 and _text(zone / "name").startswith("package")


def ina3221(root: Path) -> Power:
    """A Jetson's power monitor: its module's input rail."""
    drivers = root / "sys/bus/i2c/drivers"
    rails = dict([*_rails_jetpack_4(drivers), *_rails_jetpack_5(drivers)])
    if not rails:
        raise Unreadable("no INA3221 in /sys/bus/i2c/drivers")
    name = next((name for name in RAILS_IN if name in rails), None)
    if name is None:
        raise Unreadable(
            f"the INA3221's rails {', '.join(sorted(rails))} are parts of a module, {RAILS_IN[0]} is missing"
        )
    watts = rails[name]
    watts()
    return Power(f"INA3221 rail {name}, the whole module, sampled ten times a second", watts, 0.1)


def _rails_jetpack_4(drivers: Path) -> list[tuple[str, Callable[[], float]]]:
    """rail_name_<n> and in_power<n>_input, mW."""
    names = sorted(drivers.glob("ina3221x/*/iio:device*/rail_name_*"))
    found: list[tuple[str, Callable[[], float]]] = []
    for name in names:
        power = name.with_name(f"in_power{name.name.rsplit('_', 1)[1]}_input")
        found.append((_text(name), lambda power=power: _number(power) * 1e-3))  # type: ignore[misc]
    return found


def _rails_jetpack_5(drivers: Path) -> list[tuple[str, Callable[[], float]]]:
    """in<n>_label, in<n>_input in mV, curr<n>_input in mA."""
    found: list[tuple[str, Callable[[], float]]] = []
    for label in sorted(drivers.glob("ina3221/*/hwmon/hwmon*/in*_label")):
        number = label.name[
            len("in") : -len("_label")
        ]  # removeprefix is not in the Python 3.8 that JetPack 5 has
        volt, ampere = label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input")
        if ampere.exists():
            found.append((_text(label), lambda v=volt, a=ampere: _number(v) * _number(a) * 1e-6))  # type: ignore[misc]
    return found


def pmic(root: Path) -> Power:
    """A Raspberry Pi 5's power management chip: volt times ampere of each rail that it measures."""
    model = root / "proc/device-tree/model"
    if not model.exists() or "Raspberry Pi 5" not in _text(model):
        raise Unreadable("no Raspberry Pi 5 (earlier ones have no sensor)")
    program = shutil.which("vcgencmd")
    if program is None:
        raise Unreadable(
            "a Raspberry Pi 5 without vcgencmd (install libraspberrypi-bin or raspi-utils)"
        )

    def watts() -> float:
        return parse_pmic(_output(program))

    watts()
    return Power(
        "PMIC rails of a Raspberry Pi 5, without what 5 V feeds directly (USB), sampled once a second",
        watts,
        1.0,
    )


def _output(program: str) -> str:
    try:
        done = subprocess.run(
            [program, "pmic_read_adc"], capture_output=True, text=True, timeout=PMIC_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unreadable(f"vcgencmd pmic_read_adc: {error}") from error
    return done.stdout


def parse_pmic(text: str) -> float:
    """Watts of lines such as `VDD_CORE_A current(7)=1.2A` and `VDD_CORE_V volt(15)=0.72V`."""
    values: dict[str, float] = {}
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        number = value.partition("=")[2].rstrip("AV")
        try:
            values[name] = float(number)
        except ValueError:
            continue
    rails = [name[:-2] for name in values if name.endswith("_A") and f"{name[:-2]}_V" in values]
    if not rails:
        raise Unreadable("vcgencmd pmic_read_adc shows no rail with both volt and ampere")
    return sum(values[f"{rail}_A"] * values[f"{rail}_V"] for rail in rails)


def nvml() -> Counter:
    """NVIDIA's energy counters, in mJ (Volta and newer); needs nvidia-ml-py."""
    try:
        import pynvml
    except ImportError as error:
        raise Unreadable("nvidia-ml-py is not installed") from error
    try:
        pynvml.nvmlInit()
        cards: list[Any] = [
            pynvml.nvmlDeviceGetHandleByIndex(k) for k in range(pynvml.nvmlDeviceGetCount())
        ]
        if not cards:
            raise Unreadable("no NVIDIA GPU")

        def joules() -> float:
            millijoules = sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(card) for card in cards)
            return float(millijoules * 1e-3)

        joules()
    except pynvml.NVMLError as error:
        raise Unreadable(f"NVML: {error}") from error
    return Counter(f"NVML counters of {len(cards)} GPU(s), all their processes", joules)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip("\0\n ")
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error


def _number(path: Path) -> float:
    try:
        return float(_text(path))
    except ValueError as error:
        raise Unreadable(f"{path}: not a number") from error
