from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from torch.nn import functional

from engines.networks.blocks import Upsample
from engines.networks.layers import parameter_count
from engines.networks.topology import nnunet_topology
from engines.networks.umamba import (
    DEMO,
    PAPER,
    PAPER_ENC,
    PAPER_NNUNET,
    UMamba,
    UMambaConfig,
    deep_supervision_weights,
    upstream_weights,
)

TINY = UMambaConfig(
    patch_zyx=(4, 32, 32),
    features=(4, 6, 40),
    kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (1, 2, 2), (2, 4, 4)),
    blocks=(2, 1, 1),
    decoder_blocks=(2, 1),
    stem_blocks=2,
    zscore=(0.0, 100.0, 40.0, 20.0),
    conv_bias=False,
    deep_supervision=True,
)
"""The coarsest map has 2 x 4 x 4 = 32 voxels, fewer than its 40 channels."""
ENC = replace(TINY, mamba="encoder")
NNUNET = replace(TINY, mamba="none", residual=False, stem_blocks=0)
TINY_DEMO = replace(DEMO, patch_zyx=(2, 32, 48), features=(4, 6, 8, 10))
CONFIGS = {"bottleneck": TINY, "encoder": ENC, "nnunet": NNUNET, "demo": TINY_DEMO}


def noise(config: UMambaConfig, *, batch: int = 1) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(batch, 1, *config.patch_zyx) * 60


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_logits_lie_on_the_grid_of_the_input(config: UMambaConfig) -> None:
    assert UMamba(config)(noise(config, batch=2)).shape == (2, config.outputs, *config.patch_zyx)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_parameter_gets_a_gradient(config: UMambaConfig) -> None:
    torch.manual_seed(0)
    network = UMamba(config)
    logits = network.all_logits(noise(config)) if config.deep_supervision else [network(noise(config))]
    sum((part * torch.randn_like(part)).sum() for part in logits).backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize("size", [(4, 48, 32), (2, 16, 64)])
@pytest.mark.parametrize("config", [TINY, NNUNET, TINY_DEMO])
def test_other_sizes_fit_where_tokens_are_voxels(config: UMambaConfig, size: tuple[int, int, int]) -> None:
    assert UMamba(config)(torch.zeros(1, 1, *size)).shape == (1, config.outputs, *size)


def test_encoder_takes_channels_for_tokens_where_voxels_are_fewer() -> None:
    layers = UMamba(ENC).encoder.mamba_layers
    assert [layer.channel_tokens for layer in layers] == [False, False, True]
    assert [layer.norm.weight.numel() for layer in layers] == [4, 6, 32]


def test_deep_supervision_gives_the_full_grid_first_and_the_same_logits() -> None:
    network, hu = UMamba(TINY), noise(TINY)
    finest, coarser = network.all_logits(hu)
    assert torch.equal(finest, network(hu))
    assert coarser.shape == (1, 1, 4, 16, 16)
    with pytest.raises(ValueError, match="no deep supervision"):
        UMamba(TINY_DEMO).all_logits(noise(TINY_DEMO))


def test_coarser_stages_count_half_as_much_and_the_coarsest_nothing() -> None:
    assert deep_supervision_weights(4) == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0])
    assert deep_supervision_weights(1) == [1.0]


def test_mamba_at_the_bottleneck_carries_what_is_far_away() -> None:
    """The convolutions of one stage reach 5 pixels; without Mamba nothing comes from 28 pixels away."""
    torch.manual_seed(0)
    flat = replace(TINY_DEMO, patch_zyx=(1, 2, 64), features=(4, 6), kernels=((1, 3, 3),) * 2, packed=False)
    flat = replace(flat, strides=((1, 1, 1), (1, 2, 2)), blocks=(1, 1), decoder_blocks=(1,))

    def influence(config: UMambaConfig) -> float:
        network = UMamba(config)
        for module in network.modules():
            # Instance normalisation sees the whole map: taken out, to leave what convolutions and Mamba reach.
            if hasattr(module, "eps") and isinstance(module, torch.nn.InstanceNorm3d):
                module.forward = lambda features: features  # type: ignore[method-assign]
        hu = noise(config).requires_grad_()
        network(hu)[0, 0, 0, 0, 60].backward()
        assert hu.grad is not None
        return float(hu.grad[0, 0, 0, 0, :32].abs().max())

    assert influence(replace(flat, mamba="none")) == 0
    assert influence(flat) > 0


def test_nearest_upsampling_after_the_convolution_is_upstreams_before_it() -> None:
    torch.manual_seed(0)
    up, features = Upsample(3, 2, stride=(1, 2, 2)), torch.randn(1, 3, 2, 4, 5)
    before = functional.interpolate(features, scale_factor=(1, 2, 2), mode="nearest")
    torch.testing.assert_close(up(features), up.conv(before))


@pytest.mark.parametrize("config", [*CONFIGS.values(), PAPER, PAPER_ENC, PAPER_NNUNET, DEMO])
def test_a_configuration_survives_json(config: UMambaConfig) -> None:
    assert UMambaConfig.from_dict(json.loads(json.dumps(asdict(config)))) == config


def test_a_configuration_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="colour"):
        UMambaConfig.from_dict({**asdict(DEMO), "colour": 1})


def test_topology_is_nnunets() -> None:
    """Against patches and plans that nnU-Net published: 16 x 320 x 320 at the paper's voxels, and isotropic 128."""
    kernels, strides = nnunet_topology((16, 320, 320), (5.0, 0.5, 0.5))
    assert kernels == ((1, 3, 3),) * 3 + ((3, 3, 3),) * 4
    assert strides == ((1, 1, 1),) + ((1, 2, 2),) * 3 + ((2, 2, 2),) * 2 + ((1, 2, 2),)
    kernels, strides = nnunet_topology((128, 128, 128), (1.0, 1.0, 1.0))
    assert kernels == ((3, 3, 3),) * 6
    assert strides == ((1, 1, 1),) + ((2, 2, 2),) * 5


def test_the_papers_network_has_the_public_names() -> None:
    with torch.device("meta"):
        names = {name: tuple(values.shape) for name, values in UMamba(PAPER).state_dict().items()}
        layers = UMamba(PAPER_ENC).state_dict()
        plain = UMamba(PAPER_NNUNET).state_dict()
    assert names["encoder.stem.0.conv1.weight"] == (32, 1, 1, 3, 3)
    assert names["encoder.stem.1.conv2.norm.weight"] == (32,)
    assert names["encoder.stages.4.0.conv3.weight"] == (320, 256, 1, 1, 1)
    assert "encoder.stages.4.1.conv1.conv.weight" not in names
    assert names["mamba_layer.mamba.A_log"] == (640, 16)
    assert names["decoder.upsample_layers.0.conv.weight"] == (320, 320, 1, 1, 1)
    assert names["decoder.stages.5.0.conv1.weight"] == (32, 64, 1, 3, 3)
    assert names["decoder.seg_layers.5.weight"] == (1, 32, 1, 1, 1)
    assert tuple(layers["encoder.mamba_layers.6.norm.weight"].shape) == (100,)
    assert tuple(plain["encoder.stages.6.0.convs.1.norm.weight"].shape) == (320,)
    assert tuple(plain["decoder.transpconvs.0.weight"].shape) == (320, 320, 1, 2, 2)
    assert tuple(plain["decoder.stages.0.convs.0.conv.weight"].shape) == (320, 640, 3, 3, 3)


def test_weights_of_two_classes_give_the_log_odds_of_their_softmax() -> None:
    torch.manual_seed(0)
    upstream = UMamba(replace(TINY, outputs=2))
    state = upstream.state_dict()
    # As the public code stores them: some things twice.
    state["decoder.encoder.stem.0.conv1.weight"] = state["encoder.stem.0.conv1.weight"]
    state["encoder.stem.1.conv1.all_modules.0.weight"] = state["encoder.stem.1.conv1.conv.weight"]
    ours = UMamba(TINY)
    ours.load_state_dict(upstream_weights(state))
    probability = torch.softmax(upstream(noise(TINY)), dim=1)[:, 1]
    torch.testing.assert_close(torch.sigmoid(ours(noise(TINY)))[:, 0], probability)


def test_intensities_are_clipped_before_they_are_scaled() -> None:
    network = UMamba(TINY)
    torch.testing.assert_close(network(noise(TINY).clamp(0, 100)), network(noise(TINY)))


def test_the_demo_is_small() -> None:
    assert 1.5e6 < parameter_count(UMamba(DEMO)) < 2e6
    assert DEMO.stride_zyx == (2, 16, 16)
