"""Algorithms by name; each is one module, one YAML in configs/algos and one entry here."""

from __future__ import annotations

from sde_harl.algorithms.happo import Happo

ALGORITHMS = {"happo": Happo}
