from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from engines.networks.layers import parameter_count
from engines.networks.umamba import DEMO as UMAMBA_DEMO
from engines.networks.umamba import UMamba
from engines.networks.vit import DEMO, PAPER, ViT, ViTConfig, imagenet_weights

TINY = ViTConfig(size=48, patch=16, depth=2, width=24, heads=3, hidden=40)


def seen_by_chance(config: ViTConfig, *, seed: int = 0) -> ViT:
    """A network whose every parameter matters: none is left at 0 or 1."""
    torch.manual_seed(seed)
    network = ViT(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return network


def crops(config: ViTConfig, count: int = 3) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(count, 1, config.size, config.size) * 30 + 40


def grad_cam(network: ViT, hu: Tensor) -> Tensor:
    """As it is defined, by automatic differentiation: mean gradient of a channel over patches, times the channel."""
    seen: list[Tensor] = []

    def keep(_module: object, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    handle = network.blocks[-1].norm1.register_forward_hook(keep)
    network(hu).sum().backward()
    handle.remove()
    (activation,) = seen
    assert activation.grad is not None
    weights = activation.grad[:, 1:].mean(1, keepdim=True)
    side = network.config.grid
    return functional.relu((activation[:, 1:] * weights).sum(-1)).reshape(-1, side, side).detach()


@pytest.mark.parametrize("config", [TINY, DEMO])
@pytest.mark.parametrize("seed", [0, 1])
def test_grad_cam_in_closed_form_is_that_of_automatic_differentiation(config: ViTConfig, seed: int) -> None:
    network, hu = seen_by_chance(config, seed=seed), crops(config)
    expected = grad_cam(network, hu)
    logits, found = network.explain(hu)
    assert expected.max() > 0
    assert (found - expected).abs().max() <= 1e-5 * expected.max()
    torch.testing.assert_close(logits, network(hu))


def test_all_layers_give_what_the_last_one_gives_of_the_class_token_alone() -> None:
    network, hu = seen_by_chance(TINY), crops(TINY)
    tokens = network.patch_embed((hu.clamp(0, 80) - 40) / 40)
    tokens = torch.cat([network.cls_token.expand(3, -1, -1), tokens], dim=1) + network.pos_embed
    for block in network.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(network(hu), network.head(network.norm(tokens))[:, 0, 0])


def test_every_parameter_gets_a_gradient() -> None:
    network = seen_by_chance(TINY)
    network(crops(TINY)).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_what_lies_outside_the_window_does_not_count() -> None:
    network, hu = seen_by_chance(TINY), crops(TINY)
    assert torch.equal(network(hu.clamp(0, 80)), network(hu))
    assert not torch.equal(network(hu.clamp(0, 60)), network(hu))


def test_weights_from_imagenet_see_a_grey_picture_as_its_three_channels() -> None:
    network, hu = seen_by_chance(TINY), crops(TINY)
    colour = torch.randn(24, 3, 16, 16)
    state = {**network.state_dict(), "patch_embed.proj.weight": colour, "head.weight": torch.randn(1000, 24)}
    del state["head.bias"]
    missing, unexpected = network.load_state_dict(imagenet_weights(state), strict=False)
    assert (sorted(missing), unexpected) == (["head.bias", "head.weight"], [])
    grey = functional.conv2d(hu.expand(-1, 3, -1, -1), colour, network.patch_embed.proj.bias, stride=16)
    torch.testing.assert_close(network.patch_embed.proj(hu), grey, rtol=1e-4, atol=1e-2)


def test_names_are_those_of_timm() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(values.shape) for name, values in ViT(PAPER).state_dict().items()}
    assert shapes["pos_embed"] == (1, 197, 384)
    assert shapes["blocks.11.attn.qkv.weight"] == (1152, 384)
    assert shapes["blocks.11.mlp.fc2.bias"] == (384,)
    assert shapes["norm.weight"] == (384,)
    assert len(shapes) == 12 * 12 + 8


def test_a_configuration_survives_json_and_another_one_is_refused() -> None:
    assert ViTConfig.from_dict(json.loads(json.dumps(asdict(DEMO)))) == DEMO
    with pytest.raises(ValueError, match="colour"):
        ViTConfig.from_dict({**asdict(DEMO), "colour": 1})


def test_the_demo_is_small() -> None:
    """All weights of the repository together: 30 MB."""
    assert 4 * (parameter_count(ViT(DEMO)) + parameter_count(UMamba(UMAMBA_DEMO))) <= 30e6


def test_residual_blocks_add_nothing_at_first() -> None:
    config = replace(TINY, stem=(4, 8))
    torch.manual_seed(0)
    plain, grown = ViT(config), ViT(replace(config, residual=(2, 1)))
    grown.load_state_dict({**grown.state_dict(), **plain.state_dict()})
    torch.testing.assert_close(grown(crops(config)), plain(crops(config)))
    assert grown.config.begins_with(config)
    assert not config.begins_with(grown.config)
    assert not grown.config.begins_with(replace(config, depth=1))
    with torch.no_grad():
        for parameter in grown.patch_embed.residual.parameters():
            parameter.normal_()
    assert not torch.allclose(grown(crops(config)), plain(crops(config)))


def test_every_convolution_of_a_stem_has_its_count_of_residual_blocks() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ViT(replace(TINY, stem=(4, 8), residual=(1,)))
