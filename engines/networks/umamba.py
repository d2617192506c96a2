"""U-Mamba and nnU-Net: encoder, Mamba and decoder by configuration, from the paper's size to the demo's. No training.

U-Mamba: Ma, Li, Wang, arXiv:2401.04722. nnU-Net: Isensee et al., doi:10.1038/s41592-020-01008-z. Parameters have the names
of the public implementations (`upstream_weights` strips what those store twice).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from engines.networks.blocks import MambaLayer, PlainBlock, Size3, Upsample, he_weights, residual_stage
from engines.networks.layers import depth_to_space, space_to_depth, windows
from engines.networks.topology import nnunet_topology


@dataclass(frozen=True, slots=True, kw_only=True)
class UMambaConfig:
    """Shape of a `UMamba`; `dataclasses.asdict` writes it, `from_dict` reads it.

    Attributes
    ----------
    patch_zyx : what it is trained on. Other sizes fit too (multiples of `stride_zyx`), but for `mamba` "encoder", where
        coarse stages take channels for tokens.
    features, kernels, strides, blocks : per stage of the encoder, finest first.
    decoder_blocks : per stage of the decoder, coarsest first.
    stem_blocks : residual blocks before the first stage (U-Mamba: as many as that stage has; nnU-Net: 0).
    mamba : one layer at the bottleneck (U-Mamba_Bot), one after each encoder stage (U-Mamba_Enc), or none.
    residual : residual blocks and nearest-neighbour upsampling, as U-Mamba has; else nnU-Net's plain blocks and
        transposed convolutions.
    mamba_shortcut : add what goes into a Mamba layer to what comes out. Upstream does not.
    packed : 2 x 2 space-to-depth before the first stage and its inverse after the last: a quarter of the work.
    zscore : clip below, clip above, mean and standard deviation in HU; None: the two windows of `layers.windows`.
    outputs : logits per voxel; 0 is haematoma. A softmax over background and haematoma is the sigmoid of one logit.
    conv_bias : of convolutions before a normalisation, which takes it away again; upstream has it.
    deep_supervision : logits of coarser stages too, for `UMamba.all_logits`.
    """

    patch_zyx: Size3
    features: tuple[int, ...]
    kernels: tuple[Size3, ...]
    strides: tuple[Size3, ...]
    blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    stem_blocks: int
    mamba: Literal["bottleneck", "encoder", "none"] = "bottleneck"
    residual: bool = True
    mamba_shortcut: bool = False
    packed: bool = False
    zscore: tuple[float, float, float, float] | None = None
    outputs: int = 1
    conv_bias: bool = True
    deep_supervision: bool = False

    @property
    def stride_zyx(self) -> Size3:
        """Sizes of an input must be multiples of this."""
        z, y, x = (math.prod(stride[axis] for stride in self.strides) for axis in range(3))
        return (z, 2 * y, 2 * x) if self.packed else (z, y, x)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UMambaConfig:
        """Inverse of `dataclasses.asdict`, also where JSON made lists of tuples.

        Raises
        ------
        ValueError
            A name that is not of this class.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"not of a U-Mamba's configuration: {', '.join(sorted(unknown))}")
        return cls(**{name: _tuples(value) for name, value in values.items()})

    def begins_with(self, other: UMambaConfig) -> bool:
        """Whether weights of `other` are a beginning for this one."""
        return other == self


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


class UMamba(nn.Module):
    """Hounsfield units in, logits out, on the same grid.

    Input ``(batch, 1, z, y, x)`` in HU, sizes multiples of `UMambaConfig.stride_zyx`; output ``(batch, outputs, z, y, x)``.
    How intensities are normalised is part of the network, so that whoever serves it cannot do it differently.
    """

    def __init__(self, config: UMambaConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config)
        if config.mamba == "bottleneck":
            self.mamba_layer = MambaLayer(config.features[-1], shortcut=config.mamba_shortcut)
        self.decoder = _Decoder(config)
        he_weights(list(self.modules()))

    def forward(self, hu: Tensor) -> Tensor:
        return self._logits(self.decoder(self._skips(hu))[-1], -1)

    def all_logits(self, hu: Tensor) -> list[Tensor]:
        """Logits of every decoder stage, finest first, for deep supervision.

        Raises
        ------
        ValueError
            The configuration has none.
        """
        if not self.config.deep_supervision:
            raise ValueError("this network has no deep supervision")
        stages = self.decoder(self._skips(hu))
        return [self._logits(features, at) for at, features in reversed(list(enumerate(stages)))]

    def _skips(self, hu: Tensor) -> list[Tensor]:
        skips: list[Tensor] = self.encoder(self._normalised(hu))
        if self.config.mamba == "bottleneck":
            skips[-1] = self.mamba_layer(skips[-1])
        return skips

    def _normalised(self, hu: Tensor) -> Tensor:
        if self.config.zscore is None:
            image = windows(hu)
        else:
            low, high, mean, deviation = self.config.zscore
            image = (hu.clamp(low, high) - mean) * (1.0 / deviation)
        return space_to_depth(image) if self.config.packed else image

    def _logits(self, features: Tensor, stage: int) -> Tensor:
        logits: Tensor = self.decoder.seg_layers[stage](features)
        return depth_to_space(logits) if self.config.packed else logits


class _Encoder(nn.Module):
    def __init__(self, config: UMambaConfig) -> None:
        super().__init__()
        inputs = (2 if config.zscore is None else 1) * (4 if config.packed else 1)
        if config.stem_blocks:
            self.stem = residual_stage(
                inputs, config.features[0], config.kernels[0], count=config.stem_blocks, bias=config.conv_bias
            )
            inputs = config.features[0]
        stages: list[nn.Module] = []
        layers: list[nn.Module] = []
        size = _first_size(config)
        for width, kernel, stride, count in zip(
            config.features, config.kernels, config.strides, config.blocks, strict=True
        ):
            if config.residual:
                stage = residual_stage(inputs, width, kernel, stride=stride, count=count, bias=config.conv_bias)
            else:
                stage = nn.Sequential(
                    PlainBlock(inputs, width, kernel, stride=stride, count=count, bias=config.conv_bias)
                )
            stages.append(stage)
            size = (size[0] // stride[0], size[1] // stride[1], size[2] // stride[2])
            voxels = math.prod(size)
            # Upstream's rule: where a map has no more voxels than channels, channels are the tokens.
            layers.append(
                MambaLayer(min(voxels, width), channel_tokens=voxels <= width, shortcut=config.mamba_shortcut)
                if config.mamba == "encoder"
                else nn.Identity()
            )
            inputs = width
        self.stages = nn.ModuleList(stages)
        self.mamba_layers = nn.ModuleList(layers)

    def forward(self, image: Tensor) -> list[Tensor]:
        features = self.stem(image) if hasattr(self, "stem") else image
        skips = []
        for stage, layer in zip(self.stages, self.mamba_layers, strict=True):
            features = layer(stage(features))
            skips.append(features)
        return skips


def _first_size(config: UMambaConfig) -> Size3:
    z, y, x = config.patch_zyx
    return (z, y // 2, x // 2) if config.packed else (z, y, x)


class _Decoder(nn.Module):
    """From the bottleneck up; gives the features of each stage, coarsest first."""

    def __init__(self, config: UMambaConfig) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        up: list[nn.Module] = []
        heads: list[nn.Module] = []
        outputs = config.outputs * (4 if config.packed else 1)
        for below in range(len(config.features) - 1, 0, -1):
            width, kernel, stride = config.features[below - 1], config.kernels[below - 1], config.strides[below]
            count = config.decoder_blocks[len(stages)]
            if config.residual:
                up.append(Upsample(config.features[below], width, stride=stride))
                stages.append(residual_stage(2 * width, width, kernel, count=count, bias=config.conv_bias))
            else:
                up.append(nn.ConvTranspose3d(config.features[below], width, stride, stride=stride))
                stages.append(PlainBlock(2 * width, width, kernel, count=count, bias=config.conv_bias))
            seen = config.deep_supervision or below == 1
            heads.append(nn.Conv3d(width, outputs, 1) if seen else nn.Identity())
        self.stages = nn.ModuleList(stages)
        self.upsample_layers = nn.ModuleList(up if config.residual else [])
        self.transpconvs = nn.ModuleList([] if config.residual else up)
        self.seg_layers = nn.ModuleList(heads)

    def forward(self, skips: list[Tensor]) -> list[Tensor]:
        up = [*self.upsample_layers, *self.transpconvs]
        features, out = skips[-1], []
        for level, (raise_, stage) in enumerate(zip(up, self.stages, strict=True)):
            features = stage(torch.cat([raise_(features), skips[-level - 2]], dim=1))
            out.append(features)
        return out


def deep_supervision_weights(count: int) -> list[float]:
    """Of the losses of `count` logits, finest first: halved from one to the next, 0 for the coarsest, 1 in all."""
    halves = [0.5**i for i in range(count)]
    if count > 1:
        halves[-1] = 0.0
    return [half / sum(halves) for half in halves]


def upstream_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a U-Mamba or nnU-Net trained with the public code, for a `UMamba` of the same configuration.

    Upstream stores the encoder again under the decoder and each convolution again in its sequence. Heads of two classes
    (softmax over background and foreground) become one logit: the difference, which is the same function.
    """
    kept: dict[str, Tensor] = {}
    for name, values in state.items():
        name = name.removeprefix("module.").removeprefix("_orig_mod.")
        if name.startswith("decoder.encoder.") or ".all_modules." in name:
            continue
        if name.startswith("decoder.seg_layers.") and values.shape[0] == 2:
            values = values[1:] - values[:1]
        kept[name] = values
    return kept


def _paper(mamba: Literal["bottleneck", "encoder", "none"]) -> UMambaConfig:
    patch: Size3 = (16, 320, 320)
    kernels, strides = nnunet_topology(patch, (5.0, 0.5, 0.5))
    stages = len(kernels)
    residual = mamba != "none"
    # U-Mamba keeps one block in the coarser half of its stages; nnU-Net has two convolutions in each.
    blocks = tuple(1 if residual and stage >= math.ceil(stages / 2) else 2 for stage in range(stages))
    late = math.ceil((stages - 1) / 2 + 0.5)
    return UMambaConfig(
        patch_zyx=patch,
        features=tuple(min(32 * 2**stage, 320) for stage in range(stages)),
        kernels=kernels,
        strides=strides,
        blocks=blocks,
        decoder_blocks=tuple(1 if residual and stage >= late else 2 for stage in range(stages - 1)),
        stem_blocks=2 if residual else 0,
        mamba=mamba,
        residual=residual,
        zscore=(0.0, 100.0, 55.0, 15.0),
        deep_supervision=True,
    )


PAPER = _paper("bottleneck")
"""What nnU-Net's rules give for the paper's voxels, 0.5 x 0.5 x 5 mm. The paper names U-Mamba and the voxels, nothing else:
*ours* are the patch, the bottleneck variant (U-Mamba_Bot) and the intensities, which a training replaces by those of
its own images (0.5 and 99.5 percentiles, mean and standard deviation within haematomas)."""

PAPER_ENC = _paper("encoder")
"""The other variant of U-Mamba: Mamba in every stage, 1.6 million tokens in the first."""

PAPER_NNUNET = _paper("none")
"""The plain nnU-Net of the paper's benchmark, by the same rules."""

DEMO = UMambaConfig(
    patch_zyx=(14, 208, 176),
    features=(24, 48, 80, 128),
    kernels=((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2)),
    blocks=(1, 1, 1, 1),
    decoder_blocks=(1, 1, 1),
    stem_blocks=0,
    mamba_shortcut=True,
    packed=True,
    outputs=2,
    conv_bias=False,
)
"""For 1.0 mm pixels and slices as they come, small enough to be trained on two cores. Outputs: haematoma, inner skull."""
