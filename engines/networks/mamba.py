"""The Mamba-1 block as plain tensor operations that every runtime has. No custom kernel, no loop in the exported graph.

Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv:2312.00752, with the parameter names
of its public implementation, so that weights trained there load here unchanged.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

CHUNK = 32
LONG_CHUNK, LONG = 64, 100_000
"""Steps that are unrolled: more of them where there are more than `LONG` tokens."""


def selective_scan(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """``h[t] = exp(dt[t] a) h[t-1] + dt[t] b[t] u[t]``, ``y[t] = c[t] . h[t]``, from ``h = 0``.

    The steps of a chunk are unrolled, over all chunks at once, and each chunk's last state is carried to the chunks after
    it in log2(chunks) steps. Every exponent is <= 0, so this is as stable as the loop is, whatever `dt`.

    Parameters
    ----------
    u, dt : (batch, tokens, channels) input and step size, dt >= 0.
    a : (channels, states), < 0.
    b, c : (batch, tokens, states).

    Returns
    -------
    (batch, tokens, channels)
    """
    batch, tokens, channels = u.shape
    # A step of size 0 changes no state: what is filled up with it stays as it was.
    fill = (0, 0, 0, -tokens % chunk)
    chunks = (tokens + fill[3]) // chunk

    def by_step(values: Tensor, *shape: int) -> tuple[Tensor, ...]:
        """Step q of every chunk: (batch, chunks, 1, channels or 1, states or 1)."""
        return torch.split(functional.pad(values, fill).reshape(batch, chunks, chunk, *shape), 1, dim=2)

    steps, driven = by_step(dt, channels, 1), by_step(dt * u, channels, 1)
    inward, outward = by_step(b, 1, -1), by_step(c, 1, -1)

    state = driven[0] * inward[0]
    elapsed = [steps[0]]
    within = [(state * outward[0]).sum(-1)]
    for q in range(1, chunk):
        state = torch.exp(steps[q] * a) * state + driven[q] * inward[q]
        elapsed.append(elapsed[-1] + steps[q])
        within.append((state * outward[q]).sum(-1))

    entering = _states_before(torch.exp(elapsed[-1] * a), state)
    out = [
        own + (torch.exp(since * a) * entering * read).sum(-1)
        for own, since, read in zip(within, elapsed, outward, strict=True)
    ]
    return torch.cat(out, dim=2).reshape(batch, chunks * chunk, channels)[:, :tokens]


def _states_before(decay: Tensor, last: Tensor) -> Tensor:
    """State in which each chunk begins, (batch, chunks, 1, channels, states), by doubling the reach."""
    chunks, reach = last.shape[1], 1
    while reach < chunks:
        last = torch.cat([last[:, :reach], last[:, reach:] + decay[:, reach:] * last[:, :-reach]], dim=1)
        decay = torch.cat([decay[:, :reach], decay[:, reach:] * decay[:, :-reach]], dim=1)
        reach *= 2
    return torch.cat([torch.zeros_like(last[:, :1]), last[:, :-1]], dim=1)


class Mamba(nn.Module):
    """One block over ``(batch, tokens, width)``, same shape out; causal, no normalisation, no shortcut.

    Computes in float32 also under autocast: in half precision the decay of long sequences is lost.
    """

    def __init__(self, width: int, *, states: int = 16, kernel: int = 4, expand: int = 2) -> None:
        super().__init__()
        inner = expand * width
        self.rank, self.states, self.kernel = math.ceil(width / 16), states, kernel
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, kernel, groups=inner, padding=kernel - 1)
        self.x_proj = nn.Linear(inner, self.rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, states + 1)).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)
        self._begin_with_short_steps()

    def _begin_with_short_steps(self, shortest: float = 1e-3, longest: float = 0.1) -> None:
        """The published start: steps spread evenly in their logarithm, whatever the input."""
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        with torch.no_grad():
            spread = torch.rand_like(self.dt_proj.bias)
            dt = torch.exp(spread * math.log(longest / shortest) + math.log(shortest)).clamp_min(1e-4)
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def forward(self, tokens: Tensor) -> Tensor:
        if torch.is_autocast_enabled(tokens.device.type):
            with torch.autocast(tokens.device.type, enabled=False):
                return self._forward(tokens.float())
        return self._forward(tokens)

    def _forward(self, tokens: Tensor) -> Tensor:
        count = tokens.shape[1]
        inner, gate = self.in_proj(tokens).chunk(2, dim=-1)
        inner = functional.silu(self.conv1d(inner.transpose(1, 2))[:, :, :count].transpose(1, 2))
        rank, b, c = self.x_proj(inner).split([self.rank, self.states, self.states], dim=-1)
        dt = functional.softplus(self.dt_proj(rank))
        chunk = min(CHUNK, count) if count <= LONG else LONG_CHUNK
        out = selective_scan(inner, dt, -torch.exp(self.A_log), b, c, chunk=chunk) + self.D * inner
        projected: Tensor = self.out_proj(out * functional.silu(gate))
        return projected
