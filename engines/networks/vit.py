"""A Vision Transformer for crops of a haematoma, and its Grad-CAM in closed form. Cuts no crops, averages no slices.

Dosovitskiy et al., arXiv:2010.11929; parameters have the names of the timm library, so that weights trained on ImageNet
load (`imagenet_weights`). Grad-CAM: Selvaraju et al., doi:10.1109/ICCV.2017.74.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

WINDOW_HU = (0.0, 80.0)
"""Centre 40, width 80."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViTConfig:
    """Shape of a `ViT`; `dataclasses.asdict` writes it, `from_dict` reads it.

    Attributes
    ----------
    size : of a crop, in pixels.
    patch : of a token, in pixels.
    hidden : width of the perceptron in a block.
    stem : channels of 3 x 3 convolutions, each halving the picture, before the rest of a patch becomes its token (Xiao
        et al., arXiv:2106.14881: learns from fewer pictures); (): a patch becomes its token at once, as published.
    residual : how many blocks of two 3 x 3 convolutions follow each convolution of the stem and add to what it gives; ():
        none.
    """

    size: int = 224
    patch: int = 16
    depth: int
    width: int
    heads: int
    hidden: int
    stem: tuple[int, ...] = ()
    residual: tuple[int, ...] = ()

    @property
    def grid(self) -> int:
        """Patches along a side, and the size of the Grad-CAM map."""
        return self.size // self.patch

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ViTConfig:
        """Inverse of `dataclasses.asdict`.

        Raises
        ------
        ValueError
            A name that is not of this class.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"not of a ViT's configuration: {', '.join(sorted(unknown))}")
        return cls(**{**values, **{name: tuple(values.get(name, ())) for name in ("stem", "residual")}})

    def begins_with(self, other: ViTConfig) -> bool:
        """Whether weights of `other` are a beginning for this one: residual blocks may come new, as they add nothing at first."""
        return other in (self, replace(self, residual=()))


class ViT(nn.Module):
    """Crops in HU, ``(batch, 1, size, size)``, to logits of expansion, ``(batch,)``. The window is part of the network."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = _PatchEmbedding(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.grid**2 + 1, config.width))
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.head = nn.Linear(config.width, 1)
        self._begin_small()

    def _begin_small(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, hu: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self._last_block(hu).out))[:, 0]
        return logits

    def explain(self, hu: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(batch,)``, and Grad-CAM ``(batch, grid, grid)``: >= 0, 0 where nothing speaks for expansion.

        Target is the first LayerNorm of the last block. Its gradient is written out, so that it is part of an exported
        graph. Only the class token is read after this block, so all that reaches another token's normalised values
        passes through its key and its value; and as keys and values are linear in them, the gradient averaged over
        tokens is made of averaged gradients of keys and values.
        """
        last = self._last_block(hu)
        block = self.blocks[-1]
        assert isinstance(block, _Block)
        out_gradient = _layer_norm_gradient(self.norm, last.out, self.head.weight.expand(hu.shape[0], -1))
        hidden = out_gradient @ block.mlp.fc2.weight * _gelu_slope(last.hidden)
        middle_gradient = out_gradient + _layer_norm_gradient(block.norm2, last.middle, hidden @ block.mlp.fc1.weight)
        # A sum, not a matrix product: OpenVINO 2026.4 multiplies wrongly where a square weight is used both ways round.
        heads = (middle_gradient[:, :, None] * block.attn.proj.weight).sum(1).reshape(last.query.shape)
        attended = (heads * last.values).sum(-1, keepdim=True)
        scores = last.attention * (attended - (last.attention * attended).sum(2, keepdim=True))
        keys = (scores[:, :, 1:] * last.query * block.attn.scale).mean(2).flatten(1)
        values = (last.attention[:, :, 1:] * heads).mean(2).flatten(1)
        _, key_weight, value_weight = block.attn.qkv.weight.chunk(3)
        weights = keys @ key_weight + values @ value_weight
        attention = functional.relu((last.normalised[:, 1:] * weights[:, None]).sum(-1))
        logits = self.head(self.norm(last.out))[:, 0]
        return logits, attention.reshape(-1, self.config.grid, self.config.grid)

    def _last_block(self, hu: Tensor) -> _LastBlock:
        tokens = self.patch_embed(window(hu))
        tokens = torch.cat([self.cls_token.expand(hu.shape[0], -1, -1), tokens], dim=1) + self.pos_embed
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        last = self.blocks[-1]
        assert isinstance(last, _Block)
        return last.of_class_token(tokens)


def window(hu: Tensor) -> Tensor:
    """`WINDOW_HU` to -1..1."""
    low, high = WINDOW_HU
    return (hu.clamp(low, high) - low) * (2 / (high - low)) - 1


class _PatchEmbedding(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.stem = nn.ModuleList(
            nn.Conv2d(before, channels, 3, stride=2, padding=1)
            for before, channels in zip((1, *config.stem), config.stem, strict=False)
        )
        self.residual = nn.ModuleList(
            nn.Sequential(*(_Residual(channels) for _ in range(count)))
            for channels, count in zip(config.stem, config.residual or (0,) * len(config.stem), strict=True)
        )
        patch = config.patch >> len(config.stem)
        self.proj = nn.Conv2d((1, *config.stem)[-1], config.width, patch, stride=patch)
        for convolution in self.stem:
            assert isinstance(convolution, nn.Conv2d)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        for convolution, residual in zip(self.stem, self.residual, strict=True):
            image = residual(functional.relu(convolution(image)))
        tokens: Tensor = self.proj(image).flatten(2).transpose(1, 2)
        return tokens


class _Residual(nn.Module):
    """Adds nothing at first, so that a network without it can be gone on with."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")
        nn.init.zeros_(self.second.weight)
        assert self.second.bias is not None
        nn.init.zeros_(self.second.bias)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = image + self.second(functional.relu(self.first(image)))
        return out


class _Attention(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.scale = (config.width // config.heads) ** -0.5
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, each (batch, heads, tokens, width of a head)."""
        batch, count, width = tokens.shape
        query, key, value = (
            part.reshape(batch, count, self.heads, width // self.heads).transpose(1, 2)
            for part in self.qkv(tokens).chunk(3, dim=-1)
        )
        return query, key, value

    def forward(self, tokens: Tensor) -> Tensor:
        mixed = functional.scaled_dot_product_attention(*self.split(tokens))
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class _Perceptron(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return out


class _LastBlock(NamedTuple):
    """What the last block computes of the class token; (batch, ...)."""

    normalised: Tensor  # tokens, width
    query: Tensor  # heads, 1, width of a head
    values: Tensor  # heads, tokens, width of a head
    attention: Tensor  # heads, tokens, 1
    middle: Tensor  # width
    hidden: Tensor  # hidden, before its GELU
    out: Tensor  # width


class _Block(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attn = _Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = _Perceptron(config)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out

    def of_class_token(self, tokens: Tensor) -> _LastBlock:
        """`forward` of token 0 alone, with what lies between."""
        normalised = self.norm1(tokens)
        query, key, values = self.attn.split(normalised)
        query = query[:, :, :1]
        attention = torch.softmax(key @ query.transpose(2, 3) * self.attn.scale, dim=2)
        middle = tokens[:, 0] + self.attn.proj((attention * values).sum(2).flatten(1))
        hidden = self.mlp.fc1(self.norm2(middle))
        out = middle + self.mlp.fc2(functional.gelu(hidden))
        return _LastBlock(normalised, query, values, attention, middle, hidden, out)


def _layer_norm_gradient(norm: nn.LayerNorm, values: Tensor, gradient: Tensor) -> Tensor:
    """Of what goes in, from that of what comes out."""
    centred = values - values.mean(-1, keepdim=True)
    scale = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + norm.eps)
    normal = centred * scale
    gradient = gradient * norm.weight
    along = (gradient * normal).mean(-1, keepdim=True)
    return scale * (gradient - gradient.mean(-1, keepdim=True) - normal * along)


def _gelu_slope(values: Tensor) -> Tensor:
    density = torch.exp(-0.5 * values * values) * (1 / math.sqrt(2 * math.pi))
    return 0.5 * (1 + torch.erf(values * math.sqrt(0.5))) + values * density


def imagenet_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a timm ViT of the same size, for ``load_state_dict(strict=False)``: one grey channel, no head."""
    kept = {name: values for name, values in state.items() if not name.startswith("head.")}
    # A grey picture in three channels is what one channel through their sum is.
    kept["patch_embed.proj.weight"] = kept["patch_embed.proj.weight"].sum(1, keepdim=True)
    return kept


PAPER = ViTConfig(depth=12, width=384, heads=6, hidden=1536)
"""*Ours*: ViT-S/16. The paper gives 224 x 224 pixels and weights from ImageNet, but no size of the network."""

DEMO = ViTConfig(depth=6, width=192, heads=3, hidden=768, stem=(24, 48, 96, 192), residual=(0, 1, 2, 2))
"""4.7 million parameters, to be trained on two cores; a stem, as no weights from ImageNet are at hand."""
