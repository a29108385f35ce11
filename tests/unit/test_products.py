"""Which library multiplies matrices, and that float32 stays float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sde_harl.policy.products import use_fastest_products

pytestmark = pytest.mark.skipif(
    not hasattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision"),
    reason="this version of torch has no such switch",
)
AMD = "vendor_id : AuthenticAMD\nflags : fpu avx512f avx512_bf16"


@pytest.fixture(autouse=True)
def other_tests_products() -> Iterator[None]:
    """Leaves the switch as it was."""
    products = torch.backends.mkldnn.matmul
    before = products.fp32_precision
    yield
    products.fp32_precision = before


@pytest.mark.parametrize(
    ("text", "faster"),
    [
        (AMD, True),
        (AMD + " amx_tile", False),
        (AMD.replace("avx512_bf16", "avx2"), False),
        (AMD.replace("AuthenticAMD", "GenuineIntel"), False),
    ],
)
def test_onednn_multiplies_where_it_is_faster_and_exact(
    tmp_path: Path, text: str, faster: bool
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)
    assert use_fastest_products(cpuinfo) == faster


def test_a_system_that_tells_nothing_keeps_what_torch_chose(tmp_path: Path) -> None:
    assert not use_fastest_products(tmp_path / "none")


def test_products_of_this_machine_are_float32() -> None:
    use_fastest_products()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1000, 256, generator=generator)
    weight = torch.randn(2, 256, 256, generator=generator)
    exact = torch.bmm(x.double(), weight.double())
    # bfloat16 has 8 bits: its products of such numbers are off by 0.05 and more.
    assert (torch.bmm(x, weight) - exact).abs().max() < 1e-3
