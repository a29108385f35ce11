"""jobs/football.sh: it names what the engine's build misses, and compiles nothing twice."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "env", "find", "paste", "mkdir", "mktemp", "sed")


def run(folder: Path, path: Path, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "jobs" / "football.sh", folder],
        env={"PATH": str(path), "HOME": str(home)},
        capture_output=True,
        text=True,
    )


def tools(folder: Path) -> Path:
    """Returns a folder that has Python and a few programs, but no compiler."""
    folder.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    return folder


def write_python(folder: Path, lines: str) -> None:
    """Writes a `python` that passes on to this one what isn't pip's or gfootball's."""
    python = folder / "python"
    python.write_text(f'#!{shutil.which("bash")}\n{lines}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)


def test_what_is_missing_is_named_with_its_cure(tmp_path: Path) -> None:
    path = tools(tmp_path / "bin")
    (path / "python").symlink_to(sys.executable)
    ended = run(tmp_path / "wheels", path, tmp_path)
    assert ended.returncode == 2
    first, second = ended.stderr.splitlines()
    assert first.startswith("error: the engine of football can't be built without: cmake g++ make")
    assert second.startswith("Debian: apt-get install -y --no-install-recommends cmake g++ make")
    assert "libboost-python-dev" in second
    assert not (tmp_path / "wheels").exists()


def test_a_wheel_that_is_there_is_installed_and_not_built(tmp_path: Path) -> None:
    path = tools(tmp_path / "bin")
    said = tmp_path / "said"
    write_python(path, f'case "$*" in *pip*|*gfootball*) echo "$*" >> {said}; exit 0 ;; esac')
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel = wheels / f"gfootball-2.10.2-{tag}-{tag}-linux_x86_64.whl"
    wheel.touch()
    ended = run(wheels, path, tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"-m pip install -q --no-deps {wheel}" in said.read_text().splitlines()
    assert "gfootball 2.10.2 is installed" in ended.stdout


def test_ci_installs_what_the_script_names() -> None:
    """.ci/run reads the list of Debian's packages out of the script."""
    line = next(line for line in (ROOT / ".ci" / "run").read_text().splitlines() if "sed" in line)
    command = line.strip().removeprefix("needs=$(").removesuffix(")")
    listed = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.split()
    assert {"cmake", "g++", "libsdl2-dev", "libboost-python-dev"} <= set(names)
    assert len(names) == 13
