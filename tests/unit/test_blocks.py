"""blocks.c computes the same as torch's own operations, gradients of gradients too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sde_harl.policy.block import block, last_layer, numbers
from sde_harl.policy.inference import _blocks
from sde_harl.policy.inference import local_nets as local
from sde_harl.policy.layers import affine

FEW = _blocks.FEW_OUTPUTS
WIDTHS = (1, 5, 16, 40, 128)


def inputs(width: int, share: bool, rows: int = 7) -> list[Tensor]:
    """x (3, rows, 4), weight and bias of 3 agents, or one that they share."""
    generator, k = torch.Generator().manual_seed(width), 1 if share else 3
    shapes = ((3, rows, 4), (k, 4, width), (k, 1, width))
    return [torch.randn(*shape, generator=generator).requires_grad_() for shape in shapes]


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.double(), theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_values_and_gradients(width: int, share: bool, layer_norm: bool) -> None:
    single = inputs(width, share)
    double = [each.detach().double().requires_grad_() for each in single]
    ours, theirs = block(*single, layer_norm=layer_norm), block(*double, layer_norm=layer_norm)
    close(ours, theirs)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    for one, other in zip(single, double):
        assert one.grad is not None
        assert other.grad is not None
        close(one.grad, other.grad)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("width", WIDTHS[1:])
def test_blocks_of_bfloat16_compute_as_float32_does(
    width: int, share: bool, layer_norm: bool
) -> None:
    x, *parameters = inputs(width, share)
    half = x.detach().bfloat16().requires_grad_()
    ours = block(half, *parameters, layer_norm=layer_norm)
    single = [half.detach().float().requires_grad_()]
    single += [each.detach().clone().requires_grad_() for each in parameters]
    theirs = block(*single, layer_norm=layer_norm)
    assert ours.dtype is torch.bfloat16
    # Eight bits of the product, and eight of the result.
    torch.testing.assert_close(ours.float(), theirs, rtol=2e-2, atol=6e-2)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    for one, other in zip((half, *parameters), single):
        assert one.grad is not None
        assert other.grad is not None
        # Together and not each: where a product is nearly 0, rounding may open or close the ReLU.
        assert (one.grad.float() - other.grad).norm() < 0.05 * other.grad.norm()
    assert parameters[0].grad is not None
    assert parameters[0].grad.dtype is torch.float32


def test_bfloat16_is_rounded_to_the_nearest_and_a_nan_stays_one() -> None:
    generator = torch.Generator().manual_seed(0)
    single = torch.randn(1, 3, 37, generator=generator)
    single[0, 1, 2] = single[0, 2, 36] = torch.nan
    bias = torch.randn(1, 1, 37, generator=generator)
    half = single.bfloat16()
    expected = torch.relu(half.float() + bias).bfloat16()
    _blocks.activate(half.view(torch.int16).numpy(), bias.numpy(), None, None)
    torch.testing.assert_close(half, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sets", [1, 2])
@pytest.mark.parametrize(
    ("width", "size"), [(each, 1) for each in WIDTHS] + [(37, 3), (37, 5), (37, FEW), (37, FEW + 1)]
)
def test_a_last_layer(width: int, size: int, sets: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(width)
    x, weight, bias, slope = (
        torch.randn(*shape, generator=generator)
        for shape in ((2, 9, width), (sets, width, size), (sets, 1, size), (2, 9, size))
    )
    single = [x.to(dtype).requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    double = [each.detach().double().requires_grad_() for each in single]
    (ours, theirs) = (last_layer(*each) for each in (single, double))
    assert ours.dtype is torch.float32
    close(ours, theirs)
    (ours * slope).sum().backward()
    (theirs * slope).sum().backward()
    for one, other in zip(single, double):
        assert one.grad is not None
        assert other.grad is not None
        # The gradient of x is of the type of x.
        rough = {"rtol": 2e-5 if one.dtype is torch.float32 else 4e-3, "atol": 5e-5}
        torch.testing.assert_close(one.grad.double(), other.grad, **rough)


@pytest.mark.parametrize("lies", ["as it is", "transposed"])
def test_a_last_layer_can_be_differentiated_again(lies: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, generator=generator) for shape in ((2, 9, 21), (1, 21, 4), (1, 1, 4))
    )
    if lies == "transposed":
        x = x.mT.contiguous().mT
    single = [each.requires_grad_() for each in (x, weight, bias)]
    double = [each.detach().double().requires_grad_() for each in single]

    def second(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        """Returns gradients of the length of the gradients."""
        value = last_layer(x, weight, bias).square().sum()
        first = torch.autograd.grad(value, (x, weight, bias), create_graph=True)
        length = torch.stack([each.square().sum() for each in first]).sum()
        return torch.autograd.grad(length, (x, weight, bias))

    for one, other in zip(second(*single), second(*double)):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-2)


def test_a_last_layer_that_does_not_learn_passes_the_gradient_on() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 9, 21, generator=generator).requires_grad_()
    weight = torch.randn(2, 21, 3, generator=generator)
    last_layer(x, weight, torch.zeros(2, 1, 3)).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weight.sum(-1)[:, None].expand(2, 9, 21))


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
@pytest.mark.parametrize("width", WIDTHS)
def test_vectors_of_all_sizes_compute_the_same_bits(width: int, dtype: type) -> None:
    rng = np.random.default_rng(width)
    given = rng.normal(size=(2, 2, 9, width)).astype(np.float32)
    given[0, 0, 0, 0], given[0, 1, 1] = np.nan, 0.0
    given[:, 0, 2, ::3] = given[:, 1, 3, ::2] = np.float32(1e-39)  # a denormal number
    bias = rng.normal(size=(2, 1, width)).astype(np.float32)
    w = rng.normal(size=(2, 6, width)).astype(np.float32)
    if dtype is np.int16:
        given = (given.view(np.uint32) >> 16).astype(np.uint16).view(np.int16)

    def passes() -> list[bytes]:
        y, of_y = given.copy()
        stats, of_bias = np.zeros((2, 9, 2), np.float32), np.zeros_like(bias)
        _blocks.activate(y, bias, 1e-5, stats)
        _blocks.gradients(of_y, y, stats, of_bias)
        outputs, of_outputs = np.zeros((2, 9, 6), np.float32), np.zeros((2, 1, 6), np.float32)
        of_x, of_w = np.zeros_like(y), np.zeros_like(w)
        _blocks.outputs(y, w, of_outputs, outputs)
        _blocks.output_gradients(outputs, y, w, of_x, of_w, of_outputs)
        made = [y, stats, of_y.copy(), of_bias, outputs, of_x, of_w, of_outputs]
        plain = given[0].copy()
        _blocks.activate(plain, bias, None, None)
        _blocks.gradients(of_y, plain, None, of_bias.copy())
        some = given[1, 0].copy()
        _blocks.relu_gradients(some, plain[0], np.arange(8, -1, -1, dtype=np.int32))
        return [each.tobytes() for each in (*made, plain, of_y, some)]

    found = []
    for floats in (4, 8, 16):  # the widest one is left in use
        if _blocks.vectors(floats):
            found.append(passes())
    assert all(each == found[0] for each in found)
    assert not _blocks.vectors(5)


@pytest.mark.parametrize("size", [1, 2, 9, 15, 16, 40])
def test_a_narrow_layer_is_that_of_its_columns(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    x, weight, bias = (
        torch.randn(*shape, generator=generator).requires_grad_()
        for shape in ((3, 9, 20), (1, 20, size), (1, 1, size))
    )
    ours, theirs = affine(x, weight, bias), x @ weight + bias
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    slope = torch.randn(ours.shape, generator=generator)
    for one, other in zip(
        torch.autograd.grad((ours * slope).sum(), (x, weight, bias)),
        torch.autograd.grad((theirs * slope).sum(), (x, weight, bias)),
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_two_types_at_a_time_are_refused() -> None:
    y = np.zeros((1, 4, 3), np.float32)
    bias = np.zeros((1, 1, 3), np.float32)
    with pytest.raises(ValueError, match="two types"):
        _blocks.gradients(y.astype(np.int16), y, None, bias)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_gradients_of_gradients(layer_norm: bool) -> None:
    single = inputs(24, share=False)
    double = [each.detach().double().requires_grad_() for each in single]

    def curvature(values: list[Tensor]) -> tuple[Tensor, ...]:
        hidden = block(*values, layer_norm=layer_norm)
        hidden = block(hidden, values[1].mT, values[2][..., :4], layer_norm=layer_norm)
        slope = torch.autograd.grad(hidden.pow(3).sum(), values, create_graph=True)
        return torch.autograd.grad(sum(each.square().sum() for each in slope), values)

    for one, other in zip(curvature(single), curvature(double)):
        torch.testing.assert_close(
            one.double(), other, rtol=1e-3, atol=1e-3 * float(other.abs().max())
        )


@pytest.mark.parametrize("layer_norm", [False, True])
def test_devices_compute_the_same(layer_norm: bool) -> None:
    values = inputs(40, share=False)
    arrays = [each.detach().numpy() for each in values]
    np.testing.assert_allclose(
        local.block(*arrays, layer_norm=layer_norm),
        block(*values, layer_norm=layer_norm).detach(),
        rtol=2e-5,
        atol=2e-5,
    )


def test_a_row_does_not_depend_on_the_others() -> None:
    x, bias = (
        np.random.default_rng(0).normal(size=(1, 9, 40)).astype(np.float32),
        np.ones((1, 1, 40), np.float32),
    )
    whole, part = x.copy(), x[:, 3:5].copy()
    for each in (whole, part):
        _blocks.activate(each, bias, 1e-5, None)
    np.testing.assert_array_equal(whole[:, 3:5], part)


def test_what_is_no_number_is_seen() -> None:
    x = np.array([[[1.0, np.nan, -1.0]]], np.float32)
    _blocks.activate(x, np.zeros((1, 1, 3), np.float32), None, None)
    np.testing.assert_array_equal(x, [[[1.0, np.nan, 0.0]]])


@pytest.mark.parametrize(
    ("x", "bias"),
    [
        (np.zeros((1, 2, 3)), np.zeros((1, 1, 3), np.float32)),  # float64
        (np.zeros((1, 2, 3), np.float32), np.zeros((1, 1, 4), np.float32)),  # another width
        (np.zeros((3, 2, 3), np.float32), np.zeros((4, 1, 3), np.float32)),  # more sets than agents
        (np.zeros((1, 2, 3), np.float32), np.zeros((0, 1, 3), np.float32)),
        (
            np.zeros((1, 2, 6), np.float32)[..., ::2],
            np.zeros((1, 1, 3), np.float32),
        ),  # not in one piece
    ],
)
def test_other_arrays_are_refused(x: np.ndarray, bias: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected one of 'fh'|C-contiguous|don't fit"):
        _blocks.activate(x, bias, None, None)


def test_arrays_that_do_not_fit_each_other_are_refused() -> None:
    y, bias, stats = (
        np.zeros((1, 4, 3), np.float32),
        np.zeros((1, 1, 3), np.float32),
        np.zeros((1, 4, 2), np.float32),
    )
    for wrong in (
        (y[:, :3], y, stats, bias),
        (y, y, stats[:, :3], bias),
        (y[:, :3], y[:, :3], stats, bias),
    ):
        with pytest.raises(ValueError, match=r"^(dy|stats): \d+ numbers, expected \d+|don't fit"):
            _blocks.gradients(*wrong)
    rows = np.array([0, 3], np.int32)
    for wrong_rows in (rows + 1, rows - 1, rows[:1], rows.astype(np.int64)):
        with pytest.raises(ValueError, match="rows: "):
            _blocks.relu_gradients(y[0, :2].copy(), y[0], wrong_rows)
    for wrong_dx in (y[0, :2, :2].copy(), y[:, :2], y[0, :2].astype(np.int16)):
        with pytest.raises(ValueError, match=r"don't fit|two types"):
            _blocks.relu_gradients(wrong_dx, y[0], rows)
    slopes, size = np.zeros(4, np.float32), np.zeros(1, np.float32)
    for x, of_w, of_bias in ((None, bias, size), (y, bias, None), (y, None, size)):
        with pytest.raises(ValueError, match="dw and db are computed together, and need x"):
            _blocks.output_gradients(slopes, x, bias, y.copy(), of_w, of_bias)
    for wrong_w in (bias[0], bias[..., :2].copy(), bias[:0], bias[:, :0]):
        with pytest.raises(ValueError, match="don't fit"):
            _blocks.outputs(y, wrong_w, size, slopes)
    for wrong_size, wrong_y in ((slopes, slopes), (size, slopes[:3])):
        with pytest.raises(ValueError, match=r"^(bias|y): \d numbers, expected \d"):
            _blocks.outputs(y, bias, wrong_size, wrong_y)
    with pytest.raises((ValueError, BufferError)):
        _blocks.activate(bytes(12), bias, None, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", WIDTHS)
def test_gradients_of_some_rows(width: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(width)
    y = torch.relu(torch.randn(9, width, generator=generator)).to(dtype)
    rows = torch.tensor([3, 3, 0, 8], dtype=torch.int32)
    slopes, w = torch.randn(4, generator=generator), torch.randn(width, generator=generator)
    of_x = torch.empty(4, width, dtype=dtype)
    row = w[None, None].numpy()
    _blocks.output_gradients(slopes.numpy(), None, row, numbers(of_x), None, None)
    expected = (slopes[:, None] * w).to(dtype)
    torch.testing.assert_close(of_x, expected, rtol=0, atol=0)
    y[3, 0] = torch.nan
    _blocks.relu_gradients(numbers(of_x), numbers(y), rows.numpy())
    # Where y is NaN, the ReLU counts as open.
    torch.testing.assert_close(of_x, expected.where(~(y[rows.long()] <= 0), 0.0), rtol=0, atol=0)


def test_normalisation_of_an_agent_s_own_features() -> None:
    sizes, x = (
        np.array([1, 21, 40], np.int32),
        np.random.default_rng(0).normal(2.0, 3.0, (3, 5, 40)).astype(np.float32),
    )
    ours = local.normalise_own(x, sizes)
    for agent, size in enumerate(sizes):
        own = torch.from_numpy(x[agent, :, :size]).double()
        theirs = torch.nn.functional.layer_norm(own, (int(size),), eps=1e-5)
        np.testing.assert_allclose(ours[agent, :, :size], theirs, rtol=1e-5, atol=1e-5)
        assert not ours[agent, :, size:].any()


@pytest.mark.parametrize("sizes", [[0, 4], [4, 5], [4, 4, 4], [4.0, 4.0]])
def test_sizes_that_are_not_features_are_refused(sizes: list[float]) -> None:
    with pytest.raises(ValueError, match="sizes"):
        _blocks.normalise(
            np.zeros((2, 3, 4), np.float32),
            np.array(sizes, np.result_type(sizes[0], np.int32)),
            1e-5,
            np.zeros((2, 3, 4), np.float32),
        )


def choices(
    outputs: np.ndarray, available: np.ndarray, race: np.ndarray | None, edges: list[int]
) -> list[np.ndarray]:
    shape = (*outputs.shape[:-1], len(edges) - 1)
    actions, log_probs = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    _blocks.choose(outputs, available, race, np.array(edges, np.int32), actions, log_probs)
    return [actions, log_probs]


def test_choices_equal_torchs_categoricals() -> None:
    rng, edges = np.random.default_rng(0), [0, 4, 5, 9]
    outputs = rng.normal(0.0, 3.0, (2, 50, 9)).astype(np.float32)
    available, race = (
        rng.random(outputs.shape) < 0.6,
        rng.exponential(size=outputs.shape).astype(np.float32),
    )
    available[..., [0, 4, 5]] = True
    logits = torch.from_numpy(np.where(available, outputs, -1e30)).double()
    for draws in (None, race):
        actions, log_probs = choices(outputs, available, draws, edges)
        for k, (start, stop) in enumerate(zip(edges, edges[1:])):
            theirs = logits[..., start:stop].log_softmax(-1).numpy()
            score = theirs if draws is None else theirs - np.log(draws[..., start:stop])
            np.testing.assert_array_equal(actions[..., k], score.argmax(-1))
            chosen = np.take_along_axis(theirs, score.argmax(-1)[..., None], -1)[..., 0]
            np.testing.assert_allclose(log_probs[..., k], chosen, rtol=1e-5, atol=1e-5)


def test_where_nothing_is_available_the_first_is_chosen() -> None:
    actions, log_probs = choices(
        np.ones((1, 1, 3), np.float32), np.zeros((1, 1, 3), bool), None, [0, 3]
    )
    assert actions.item() == 0
    assert np.isclose(log_probs.item(), -np.log(3))


@pytest.mark.parametrize("edges", [[0], [1, 3], [0, 2, 2, 3], [0, 2], [0, 4], [0, 1 << 30]])
def test_other_branches_are_refused(edges: list[int]) -> None:
    with pytest.raises(ValueError, match=r"^(edges|outputs): "):
        _blocks.choose(
            np.zeros((1, 1, 3), np.float32),
            np.ones((1, 1, 3), bool),
            None,
            np.array(edges, np.int32),
            np.zeros((1, 1, 1), np.int32),
            np.zeros((1, 1, 1), np.float32),
        )
