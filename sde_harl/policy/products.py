"""Has torch compute its matrix products by the faster of its two libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

CPUINFO = Path("/proc/cpuinfo")


def use_fastest_products(cpuinfo: Path = CPUINFO) -> bool:
    """Has torch multiply float32 matrices by oneDNN where that is faster; returns True if so.

    On AMD's processors MKL leaves AVX-512 unused, and oneDNN takes half its time. Torch gives a
    product to oneDNN where it allows bfloat16 within it, which oneDNN makes use of on processors
    with AMX alone. So on these processors everything is computed in float32, as before.
    """
    flags = _flags(cpuinfo)
    faster = "AuthenticAMD" in flags and "avx512_bf16" in flags and "amx_tile" not in flags
    # Older versions of torch have no such switch for the processor alone.
    products: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if not faster or not hasattr(products, "fp32_precision"):
        return False
    products.fp32_precision = "bf16"
    return True


def _flags(cpuinfo: Path) -> set[str]:
    """Returns the words that describe the processor, none where the system doesn't tell them."""
    try:
        return set(cpuinfo.read_text(encoding="ascii", errors="replace").split())
    except OSError:
        return set()
