from __future__ import annotations

import pytest
import torch

from engines.loss import haematoma_loss
from engines.networks.layers import InstanceNorm, depth_to_space, space_to_depth, windows


def test_space_to_depth_keeps_every_value_and_neighbours_together() -> None:
    image = torch.arange(2 * 2 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 2, 3, 4, 6)
    packed = space_to_depth(image)
    assert packed.shape == (2, 8, 3, 2, 3)
    assert sorted(packed[0, :4, 1, 1, 2].tolist()) == sorted(image[0, 0, 1, 2:4, 4:6].flatten().tolist())
    assert torch.equal(depth_to_space(packed), image)


def test_windows_clip_at_their_ends() -> None:
    found = windows(torch.tensor([-3000.0, -20.0, 50.0, 120.0, 3000.0]).reshape(1, 1, 1, 1, 5))
    assert found[0, 0].flatten().tolist() == pytest.approx([-1, -1, 0, 1, 1], abs=1e-6)
    assert found[0, 1].flatten().tolist() == pytest.approx([-1, -0.02, 0.05, 0.12, 1], abs=1e-6)


def test_a_norm_written_out_is_the_same_function() -> None:
    norm = InstanceNorm(3, affine=True)
    features = torch.randn(1, 3, 2, 8, 8) + 5
    plain = norm(features)
    norm.explicit = True
    torch.testing.assert_close(norm(features), plain, rtol=0, atol=1e-4)


def test_the_loss_falls_as_the_answer_gets_better() -> None:
    targets = torch.zeros(1, 2, 4, 16, 16)
    targets[:, 0, 1:3, 4:10, 4:10] = 1
    targets[:, 1, :, 2:14, 2:14] = 1
    right = haematoma_loss((targets - 0.5) * 12, targets)
    unsure = haematoma_loss(torch.zeros_like(targets), targets)
    wrong = haematoma_loss((0.5 - targets) * 12, targets)
    assert right.total < 0.1 < unsure.total < wrong.total
    assert right.dice < 0.05
    assert wrong.dice > 0.9
