"""Energy sensors, on trees of hosts that are not at hand; without a sensor there is no number."""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path

import pytest

from sde_harl.meters import energy, sensors
from sde_harl.meters.energy import Energy, Integral
from sde_harl.meters.sensors import Power, UnreadableError, ina3221, parse_pmic, pmic, rapl


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def zone(root: Path, number: str, name: str, energy_uj: int) -> Path:
    folder = root / "sys/class/powercap" / f"intel-rapl:{number}"
    write(folder, name=f"{name}\n", energy_uj=f"{energy_uj}\n", max_energy_range_uj="999999\n")
    return folder / "energy_uj"


def test_rapl_counts_packages_alone_and_past_the_end_of_the_counter(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "0", "package-0", 900_000), zone(tmp_path, "1", "package-1", 0)
    part, all_of_it = zone(tmp_path, "0:0", "core", 5), zone(tmp_path, "2", "psys", 5)
    counter = rapl(tmp_path)
    assert "2 CPU package(s)" in counter.scope
    assert counter.joules() == 0.0
    first.write_text("100000")  # 0.2 J on, through the end
    second.write_text("500000")
    part.write_text("77777")
    all_of_it.write_text("77777")
    assert counter.joules() == pytest.approx(0.7)


def test_rapl_that_only_root_may_read_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zone(tmp_path, "0", "package-0", 1)

    def refuse(self: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(UnreadableError, match="Permission denied"):
        sensors._number(path)


def test_ina3221_of_jetpack_4(tmp_path: Path) -> None:
    device = tmp_path / "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    write(
        device,
        rail_name_0="POM_5V_IN\n",
        in_power0_input="2500\n",
        rail_name_1="POM_5V_GPU",
        in_power1_input="900",
    )
    power = ina3221(tmp_path)
    assert "POM_5V_IN" in power.scope
    assert power.watts() == 2.5


def test_ina3221_of_jetpack_5(tmp_path: Path) -> None:
    device = tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    write(
        device,
        in1_label="VDD_IN\n",
        in1_input="5000",
        curr1_input="1200",
        in2_label="VDD_SOC",
        in2_input="5000",
    )
    assert ina3221(tmp_path).watts() == pytest.approx(6.0)


def test_rails_that_are_parts_are_not_added_up(tmp_path: Path) -> None:
    device = tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    write(
        device,
        in1_label="GPU",
        in1_input="5000",
        curr1_input="1",
        in2_label="CPU",
        in2_input="5",
        curr2_input="1",
    )
    with pytest.raises(UnreadableError, match="CPU, GPU are parts"):
        ina3221(tmp_path)


PMIC = """ 3V7_WL_SW_A current(0)=0.10000000A
   VDD_CORE_A current(7)=2.00000000A
  3V7_WL_SW_V volt(8)=3.70000000V
   VDD_CORE_V volt(15)=0.75000000V
     EXT5V_V volt(24)=5.10000000V
"""


def test_a_raspberry_pi_5_has_twelve_rails_of_volt_and_ampere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, **{"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"})
    program = tmp_path / "vcgencmd"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{PMIC}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert pmic(tmp_path).watts() == pytest.approx(0.1 * 3.7 + 2.0 * 0.75)
    assert parse_pmic(PMIC) == pytest.approx(1.87)


@pytest.mark.parametrize(
    "text", ["", "EXT5V_V volt(24)=5.1V", "VDD_CORE_A current(7)=xA", "vcgencmd: no such command"]
)
def test_a_pmic_without_rails_is_not_zero_watts(text: str) -> None:
    with pytest.raises(UnreadableError):
        parse_pmic(text)


def test_watts_become_joules_by_trapezoids(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(10.0, 2.0)
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    watts = iter([1.0, 3.0, 5.0])
    integral = Integral(Power("", lambda: next(watts), 3600.0))
    assert integral.joules() == pytest.approx(2.0 * 2.0)
    assert integral.joules() == pytest.approx(2.0 * 2.0 + 4.0 * 2.0)


def test_a_host_without_sensors_has_reasons_and_no_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "ROOT", tmp_path)
    host = Energy()
    assert host.host_scope.startswith("not measurable here: no RAPL packages")
    assert "INA3221" in host.host_scope
    assert "Raspberry Pi 5" in host.host_scope
    assert math.isnan(host.joules().host)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited without a sensor"))
    assert math.isnan(host.idle_watts(5.0).host)


def test_idle_watts_are_joules_over_the_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zone(tmp_path, "0", "package-0", 0)
    monkeypatch.setattr(energy, "ROOT", tmp_path)
    monkeypatch.setattr(time, "sleep", lambda seconds: path.write_text("500000"))
    monkeypatch.setattr(time, "perf_counter", iter([0.0, 2.0]).__next__)
    idle = Energy().idle_watts(2.0)
    assert idle.host == pytest.approx(0.25)
    assert math.isnan(idle.gpu)
