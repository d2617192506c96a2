"""The training loss: overlap, cross-entropy, and cross-entropy where the network is most wrong. Training only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

HARDEST_VOXELS = 1000
SMOOTH_VOXELS = 30.0


@dataclass(frozen=True, slots=True)
class Loss:
    """The weighted sum to descend, and its parts for the log."""

    total: Tensor
    dice: float
    cross_entropy: float
    hardest: float
    intracranial: float


def haematoma_loss(logits: Tensor, targets: Tensor, *, hard: bool = True) -> Loss:
    """Loss of ``(batch, 2, z, y, x)`` logits against occupancy (channel 0) and intracranial space (channel 1).

    Soft Dice on fractional occupancy + 4 x cross-entropy + cross-entropy of the hardest voxels, and half the
    cross-entropy of the intracranial space where it is known (target 0..1, else below 0).

    Parameters
    ----------
    hard : False for the paper's Dice + cross-entropy (doi:10.1038/s41746-025-02213-w), each weighing 1.
    """
    logits = logits.float()
    blood, truth = logits[:, 0].flatten(1), targets[:, 0].flatten(1)
    probability = torch.sigmoid(blood)
    overlap = 2 * (probability * truth).sum(1) + SMOOTH_VOXELS
    dice = (1 - overlap / (probability.sum(1) + truth.sum(1) + SMOOTH_VOXELS)).mean()
    voxelwise = functional.binary_cross_entropy_with_logits(blood, truth, reduction="none")
    mean = voxelwise.mean()
    hardest = torch.topk(voxelwise, min(HARDEST_VOXELS, voxelwise.shape[1]), dim=1, sorted=False).values.mean()
    space = logits.new_zeros(()) if logits.shape[1] == 1 else _where_known(logits[:, 1], targets[:, 1])
    total = dice + 0.5 * space + (4 * mean + hardest if hard else mean)
    return Loss(total, float(dice.detach()), float(mean.detach()), float(hardest.detach()), float(space.detach()))


def _where_known(logits: Tensor, target: Tensor) -> Tensor:
    known = (target >= 0).float()
    voxelwise = functional.binary_cross_entropy_with_logits(logits, target.clamp(min=0), reduction="none")
    return (voxelwise * known).sum() / known.sum().clamp(min=1)
