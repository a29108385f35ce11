"""Reads the energy sensors of hosts, as their drivers show them.

Each sensor says what it covers, and none is added to another. A sensor either counts joules itself
(`Counter`) or shows watts that have to be sampled (`Power`). Finding one reads it once, so that a
sensor that is there but can't be read is found out at the start. `root` is the root of the file
system: tests give trees of hosts that are not at hand.

Runs on the boards' Python 3.8.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

RAILS_IN = ("VDD_IN", "POM_5V_IN")
"""The INA3221's rails that feed all of a Jetson module; its other rails are parts of these."""
PMIC_TIMEOUT_S = 2.0


class UnreadableError(Exception):
    """Tells why a sensor that is there, or might be, can't be read."""


class Counter(NamedTuple):
    """A sensor that counts joules by itself."""

    scope: str  # tells the user what the sensor covers
    joules: Callable[[], float]
    """Returns the joules since some moment of the sensor's own. Raises UnreadableError."""


class Power(NamedTuple):
    """A sensor that shows the power of this moment."""

    scope: str  # tells the user what the sensor covers
    watts: Callable[[], float]
    """Returns the watts of this moment. Raises UnreadableError."""
    period_s: float
    """Seconds between two samples."""


def rapl(root: Path) -> Counter:
    """Finds Intel's and AMD's energy counters of processor packages, in uJ (Linux powercap)."""
    zones = [
        zone for zone in sorted(root.glob("sys/class/powercap/intel-rapl:*")) if _is_package(zone)
    ]
    if not zones:
        raise UnreadableError("no RAPL packages in /sys/class/powercap")
    scope = f"RAPL counters of {len(zones)} CPU package(s), all their processes"
    return Counter(scope=scope, joules=_RaplSum(zones).joules)


def _is_package(zone: Path) -> bool:
    """Returns whether a zone counts all of a processor package.

    Subzones (intel-rapl:0:0) are parts of a package, and psys holds all packages: to add either up
    with the packages would count joules twice.
    """
    return zone.name.count(":") == 1 and _text(zone / "name").startswith("package")


class _RaplSum:
    """Adds up what several zones have counted since this was made."""

    def __init__(self, zones: list[Path]) -> None:
        self._counters = [zone / "energy_uj" for zone in zones]
        self._ranges = [_number(zone / "max_energy_range_uj") for zone in zones]
        self._last = [_number(counter) for counter in self._counters]
        self._total_j = 0.0

    def joules(self) -> float:
        now = [_number(counter) for counter in self._counters]
        # A counter starts again when it reaches its range, within minutes on a busy host. The
        # remainder is right as long as that happens at most once between two readings.
        spans = [(new - old) % (most + 1) for new, old, most in zip(now, self._last, self._ranges)]
        self._total_j += sum(spans) * 1e-6
        self._last = now
        return self._total_j


def ina3221(root: Path) -> Power:
    """Finds a Jetson's power monitor: the input rail of its module."""
    drivers = root / "sys/bus/i2c/drivers"
    rails = {**_rails_jetpack_4(drivers), **_rails_jetpack_5(drivers)}
    if not rails:
        raise UnreadableError("no INA3221 in /sys/bus/i2c/drivers")
    for name in RAILS_IN:
        if name in rails:
            watts = rails[name]
            watts()
            scope = f"INA3221 rail {name}, the whole module, sampled ten times a second"
            return Power(scope=scope, watts=watts, period_s=0.1)
    names = ", ".join(sorted(rails))
    raise UnreadableError(
        f"the INA3221's rails {names} are parts of a module, {RAILS_IN[0]} is missing"
    )


def _rails_jetpack_4(drivers: Path) -> dict[str, Callable[[], float]]:
    """Returns rails by name: rail_name_<n>, and in_power<n>_input in mW."""
    rails: dict[str, Callable[[], float]] = {}
    for label in sorted(drivers.glob("ina3221x/*/iio:device*/rail_name_*")):
        number = label.name.rsplit("_", 1)[1]
        # partial, because a lambda would read the path of the loop's last round
        rails[_text(label)] = partial(_from_milliwatts, label.with_name(f"in_power{number}_input"))
    return rails


def _rails_jetpack_5(drivers: Path) -> dict[str, Callable[[], float]]:
    """Returns rails by name: in<n>_label, in<n>_input in mV and curr<n>_input in mA."""
    rails: dict[str, Callable[[], float]] = {}
    for label in sorted(drivers.glob("ina3221/*/hwmon/hwmon*/in*_label")):
        # str.removeprefix is missing in Python 3.8, which JetPack 5 has
        number = label.name[len("in") : -len("_label")]
        millivolts = label.with_name(f"in{number}_input")
        milliamperes = label.with_name(f"curr{number}_input")
        if milliamperes.exists():
            rails[_text(label)] = partial(_from_millivolts, millivolts, milliamperes)
    return rails


def _from_milliwatts(power: Path) -> float:
    return _number(power) * 1e-3


def _from_millivolts(millivolts: Path, milliamperes: Path) -> float:
    return _number(millivolts) * _number(milliamperes) * 1e-6


def pmic(root: Path) -> Power:
    """Finds a Raspberry Pi 5's power management chip: volt times ampere of its rails."""
    watts = partial(_pmic_watts, _find_vcgencmd(root))
    watts()
    return Power(
        scope="PMIC rails of a Raspberry Pi 5, without what 5 V feeds directly (USB), "
        "sampled once a second",
        watts=watts,
        period_s=1.0,  # each sample starts a program
    )


def _find_vcgencmd(root: Path) -> str:
    """Returns the path of the chip's program. Raises UnreadableError on other hosts."""
    model = root / "proc/device-tree/model"
    if not model.exists() or "Raspberry Pi 5" not in _text(model):
        raise UnreadableError("no Raspberry Pi 5 (earlier ones have no sensor)")
    program = shutil.which("vcgencmd")
    if program is None:
        raise UnreadableError(
            "a Raspberry Pi 5 without vcgencmd (install libraspberrypi-bin or raspi-utils)"
        )
    return program


def _pmic_watts(program: str) -> float:
    try:
        done = subprocess.run(
            [program, "pmic_read_adc"], capture_output=True, text=True, timeout=PMIC_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnreadableError(f"vcgencmd pmic_read_adc: {error}") from error
    return parse_pmic(done.stdout)


def parse_pmic(text: str) -> float:
    """Returns the watts of what vcgencmd prints.

    A rail has two lines, `VDD_CORE_A current(7)=1.2A` and `VDD_CORE_V volt(15)=0.72V`. Raises
    UnreadableError if no rail has both.
    """
    values: dict[str, float] = {}
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        number = value.partition("=")[2].rstrip("AV")  # "current(7)=1.2A" has "1.2"
        try:
            values[name] = float(number)
        except ValueError:
            continue
    # a few voltages, such as EXT5V_V, have no current and so no power
    rails = [name[:-2] for name in values if name.endswith("_A") and f"{name[:-2]}_V" in values]
    if not rails:
        raise UnreadableError("vcgencmd pmic_read_adc shows no rail with both volt and ampere")
    return sum(values[f"{rail}_A"] * values[f"{rail}_V"] for rail in rails)


def nvml() -> Counter:
    """Finds NVIDIA's energy counters, in mJ (Volta and newer); needs nvidia-ml-py."""
    pynvml = _import_pynvml()
    try:
        pynvml.nvmlInit()
        numbers = range(pynvml.nvmlDeviceGetCount())
        cards: list[Any] = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in numbers]
        if not cards:
            raise UnreadableError("no NVIDIA GPU")
        joules = partial(_nvml_joules, pynvml, cards)
        joules()
    except pynvml.NVMLError as error:
        raise UnreadableError(f"NVML: {error}") from error
    scope = f"NVML counters of {len(cards)} GPU(s), all their processes"
    return Counter(scope=scope, joules=joules)


def _import_pynvml() -> Any:
    # Here and not at the top: hosts without a GPU of NVIDIA's have no such package.
    try:
        import pynvml
    except ImportError as error:
        raise UnreadableError("nvidia-ml-py is not installed") from error
    return pynvml


def _nvml_joules(pynvml: Any, cards: list[Any]) -> float:
    millijoules = sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(card) for card in cards)
    return float(millijoules * 1e-3)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip("\0\n ")  # the device tree ends its strings with a NUL
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror}") from error


def _number(path: Path) -> float:
    try:
        return float(_text(path))
    except ValueError as error:
        raise UnreadableError(f"{path}: not a number") from error
