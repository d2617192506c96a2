"""A residual 3-D U-Net for anisotropic head CT, in torch; not imported by anything that serves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

BRAIN_WINDOW_HU = (-20.0, 120.0)
WIDE_WINDOW_HU = (-1000.0, 1000.0)


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Shape of a `ResidualUNet`.

    Attributes
    ----------
    widths
        Channels per level; level 0 works at half the in-plane resolution (2 x 2 space-to-depth).
    flat_levels
        How many upper levels use 1 x 3 x 3 kernels; the others use 3 x 3 x 3.
    outputs
        Output channels: 0 haematoma, 1 (when present) intracranial space.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128)
    flat_levels: int = 2
    outputs: int = 2

    @property
    def stride_yx(self) -> int:
        """In-plane sizes must be multiples of this."""
        return int(2 ** len(self.widths))

    @property
    def stride_z(self) -> int:
        """Slice counts must be multiples of this."""
        return int(2 ** (len(self.widths) - self.flat_levels))


class ResidualUNet(nn.Module):
    """Hounsfield units in, logits out, on the same grid.

    Input ``(batch, 1, z, y, x)`` in HU, z a multiple of `NetworkConfig.stride_z`, y and x of `stride_yx`; output
    ``(batch, outputs, z, y, x)``, logits. The two intensity windows are part of the network, so that whoever serves it
    cannot normalise differently from whoever trained it.
    """

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config or NetworkConfig()
        widths = self.config.widths
        kernels = [(1, 3, 3) if level < self.config.flat_levels else (3, 3, 3) for level in range(len(widths))]
        # Slices are about 5 times as far apart as pixels: z is halved only where pixels have grown as coarse.
        strides = [(1, 2, 2) if level < self.config.flat_levels else (2, 2, 2) for level in range(1, len(widths))]
        self.stem = nn.Conv3d(8, widths[0], (1, 3, 3), padding=(0, 1, 1))
        self.encoder = nn.ModuleList(
            ResidualBlock(width, width, kernel=kernel) for width, kernel in zip(widths, kernels, strict=True)
        )
        self.down = nn.ModuleList(
            nn.Conv3d(widths[i], widths[i + 1], stride, stride=stride) for i, stride in enumerate(strides)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(widths[i + 1], widths[i], stride, stride=stride) for i, stride in enumerate(strides)
        )
        self.decoder = nn.ModuleList(
            ResidualBlock(2 * widths[i], widths[i], kernel=kernels[i]) for i in range(len(strides))
        )
        self.head = nn.Conv3d(widths[0], 4 * self.config.outputs, 1)

    def forward(self, hu: Tensor) -> Tensor:
        features = self.stem(space_to_depth(windows(hu)))
        skips = []
        for level, block in enumerate(self.encoder):
            features = block(features)
            if level < len(self.down):
                skips.append(features)
                features = self.down[level](features)
        for level in reversed(range(len(self.up))):
            features = torch.cat([self.up[level](features), skips[level]], dim=1)
            features = self.decoder[level](features)
        return depth_to_space(self.head(features))


class ResidualBlock(nn.Module):
    """Two convolutions with instance normalisation beside a shortcut (projected where widths differ)."""

    def __init__(self, inputs: int, outputs: int, *, kernel: tuple[int, int, int]) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.first = nn.Conv3d(inputs, outputs, kernel, padding=padding, bias=False)
        self.first_norm = InstanceNorm(outputs, affine=True)
        self.second = nn.Conv3d(outputs, outputs, kernel, padding=padding, bias=False)
        self.second_norm = InstanceNorm(outputs, affine=True)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv3d(inputs, outputs, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        inner = functional.leaky_relu(self.first_norm(self.first(features)), 0.01)
        inner = self.second_norm(self.second(inner))
        return functional.leaky_relu(inner + self.shortcut(features), 0.01)


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
    image = image.reshape(batch, channels * depth, height // 2, 2, width // 2, 2)
    image = image.reshape(batch, channels, depth, height // 2, 2, (width // 2) * 2)
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
