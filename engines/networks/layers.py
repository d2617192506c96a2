"""What several networks share: instance normalisation, CT windows, space-to-depth. No network of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

BRAIN_WINDOW_HU = (-20.0, 120.0)
WIDE_WINDOW_HU = (-1000.0, 1000.0)


class InstanceNorm(nn.InstanceNorm3d):
    """Instance normalisation that can be written out as plain means: the same function, with smaller rounding errors.

    Where a channel is nearly flat and far from 0 (a tile of air), the error of a mean summed up in float32 over a whole
    tile is as large as what is normalised, and runtimes no longer agree. Means of means have no such error. Set on
    export.
    """

    explicit: bool = False

    def forward(self, input: Tensor) -> Tensor:
        if not self.explicit:
            return super().forward(input)
        centred = input - _mean_of_means(input)
        scale = torch.rsqrt(_mean_of_means(centred * centred) + self.eps) * self.weight.reshape(1, -1, 1, 1, 1)
        return centred * scale + self.bias.reshape(1, -1, 1, 1, 1)


def _mean_of_means(features: Tensor) -> Tensor:
    """Mean over z, y, x of means over small blocks; a pooling, since runtimes merge plain means into one long sum."""
    block = (1, _divisor(features.shape[3]), _divisor(features.shape[4]))
    return functional.avg_pool3d(features, block).mean(dim=(2, 3, 4), keepdim=True)


def _divisor(size: int) -> int:
    """The largest divisor of `size` that is at most 16."""
    return max(n for n in range(1, 17) if size % n == 0)


def windows(hu: Tensor) -> Tensor:
    """Two views of the same slice, each in -1..1: brain and blood, and everything from air to bone."""
    low, high = BRAIN_WINDOW_HU
    brain = (hu.clamp(low, high) - low) * (2.0 / (high - low)) - 1.0
    low, high = WIDE_WINDOW_HU
    wide = (hu.clamp(low, high) - low) * (2.0 / (high - low)) - 1.0
    return torch.cat([brain, wide], dim=1)


def space_to_depth(image: Tensor) -> Tensor:
    """``(b, c, z, y, x)`` to ``(b, 4 c, z, y / 2, x / 2)``."""
    batch, channels, depth, height, width = image.shape
    image = image.reshape(batch * channels * depth, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3)
    image = image.reshape(batch, channels, depth, 4, (height // 2) * (width // 2)).transpose(2, 3)
    return image.reshape(batch, channels * 4, depth, height // 2, width // 2)


def depth_to_space(features: Tensor) -> Tensor:
    """Inverse of `space_to_depth`."""
    batch, channels, depth, height, width = features.shape
    features = features.reshape(batch, channels // 4, 4, depth, height * width).transpose(2, 3)
    features = features.reshape(batch * (channels // 4) * depth, 2, 2, height, width).permute(0, 3, 1, 4, 2)
    return features.reshape(batch, channels // 4, depth, height * 2, width * 2)


def parameter_count(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in network.parameters())
