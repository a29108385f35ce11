"""The extensions in C. All else about the package stands in pyproject.toml."""

from __future__ import annotations

from setuptools import Extension, setup

# -ffp-contract=off: a product and a sum are never fused, so that every machine computes the same.
# -Wno-psabi: gcc warns that its versions pass vectors differently. Ours stay inside one file.
EXACT = ["-O2", "-ffp-contract=off", "-Wno-psabi"]

setup(
    ext_modules=[
        Extension(
            "sde_harl.buffers._returns",
            ["sde_harl/buffers/returns.c"],
            extra_compile_args=EXACT,
        ),
        Extension("sde_harl.codec._rans", ["sde_harl/codec/rans.c"]),
        Extension(
            "sde_harl.draws._philox",
            ["sde_harl/draws/philox.c"],
            extra_compile_args=[*EXACT, "-O3", "-fno-math-errno", "-fno-trapping-math"],
        ),
        Extension("sde_harl.link._frames", ["sde_harl/link/frames.c"]),
        Extension(
            "sde_harl.policy.inference._blocks",
            ["sde_harl/policy/inference/blocks.c"],
            depends=["sde_harl/policy/inference/block_rows.h"],
            extra_compile_args=EXACT,
        ),
    ],
)
