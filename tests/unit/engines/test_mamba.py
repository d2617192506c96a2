from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from engines.networks.mamba import Mamba, selective_scan


def step_by_step(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The recurrence as it is written, one token after another."""
    state = torch.zeros(u.shape[0], u.shape[2], a.shape[1], dtype=u.dtype)
    out = []
    for t in range(u.shape[1]):
        state = torch.exp(dt[:, t, :, None] * a) * state + (dt[:, t] * u[:, t])[..., None] * b[:, t, None, :]
        out.append((state * c[:, t, None, :]).sum(-1))
    return torch.stack(out, dim=1)


def inputs(tokens: int, *, longest_step: float, seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    batch, channels, states = 2, 6, 4
    dt = torch.rand(batch, tokens, channels, dtype=torch.float64) ** 4 * longest_step
    a = -torch.arange(1.0, states + 1, dtype=torch.float64).repeat(channels, 1)
    u, b, c = (torch.randn(batch, tokens, width, dtype=torch.float64) for width in (channels, states, states))
    return [u, dt, a, b, c]


@pytest.mark.parametrize("tokens", [1, 31, 32, 33, 200, 517])
def test_any_number_of_tokens_is_scanned_as_if_one_after_another(tokens: int) -> None:
    values = inputs(tokens, longest_step=0.3)
    torch.testing.assert_close(selective_scan(*values), step_by_step(*values), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("longest_step", [1e-3, 0.3, 10.0, 1e4])
@pytest.mark.parametrize("chunk", [8, 32, 64])
def test_single_precision_is_enough_however_large_a_step(longest_step: float, chunk: int) -> None:
    values = inputs(700, longest_step=longest_step)
    expected = step_by_step(*values)
    found = selective_scan(*(value.float() for value in values), chunk=chunk)
    assert torch.isfinite(found).all()
    assert (found - expected).abs().max() <= 2e-5 * expected.square().mean().sqrt()


def test_gradients_are_those_of_the_recurrence() -> None:
    values = [value.requires_grad_() for value in inputs(75, longest_step=0.5)]
    weights = torch.randn(2, 75, 6, dtype=torch.float64)
    expected = torch.autograd.grad((step_by_step(*values) * weights).sum(), values)
    found = torch.autograd.grad((selective_scan(*values) * weights).sum(), values)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_parameters_have_the_names_and_shapes_of_the_public_implementation() -> None:
    shapes = {name: tuple(values.shape) for name, values in Mamba(32).state_dict().items()}
    assert shapes == {
        "A_log": (64, 16),
        "D": (64,),
        "in_proj.weight": (128, 32),
        "conv1d.weight": (64, 1, 4),
        "conv1d.bias": (64,),
        "x_proj.weight": (34, 64),
        "dt_proj.weight": (64, 2),
        "dt_proj.bias": (64,),
        "out_proj.weight": (32, 64),
    }


def test_a_block_begins_with_steps_of_a_thousandth_to_a_tenth() -> None:
    steps = functional.softplus(Mamba(64).dt_proj.bias)
    assert 0.00099 < steps.min() < 0.01 < steps.max() < 0.101


def test_a_block_does_not_look_ahead() -> None:
    torch.manual_seed(0)
    block, tokens = Mamba(16), torch.randn(1, 70, 16)
    before = block(tokens)
    changed = tokens.clone()
    changed[:, 40:] += 1
    after = block(changed)
    torch.testing.assert_close(after[:, :40], before[:, :40])
    assert not torch.allclose(after[:, 40:], before[:, 40:])


def test_a_block_remembers_beyond_its_convolution_and_its_chunk() -> None:
    torch.manual_seed(0)
    block = Mamba(16)
    tokens = torch.randn(1, 100, 16, requires_grad=True)
    block(tokens)[0, -1].sum().backward()
    assert tokens.grad is not None
    assert tokens.grad[0, 20].abs().max() > 0


def test_under_autocast_a_block_computes_in_single_precision() -> None:
    torch.manual_seed(0)
    block, tokens = Mamba(16), torch.randn(1, 40, 16)
    with torch.autocast("cpu", torch.bfloat16):
        found = block(tokens)
    assert torch.equal(found, block(tokens))
