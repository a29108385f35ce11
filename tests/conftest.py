"""Tests share a busy machine: one torch thread each, or OpenMP's barriers wait for cores that others hold."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
