"""Training of the haematoma network: schedule, precision, checkpoints, progress. Where heads come from is passed in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from engines.cases import PooledCase
from engines.early_look import draw_early_look, held_out_dice
from engines.loss import Loss, haematoma_loss
from engines.networks.layers import parameter_count
from engines.networks.umamba import DEMO, UMamba, UMambaConfig, deep_supervision_weights
from engines.patches import brain_like, draw_batch
from engines.precision import Precision, autocast, resolve
from engines.saved_run import SavedRun, begin_with, delivered, digest
from ichor.errors import CannotStart

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How weights come about; the defaults are the demo's recipe, `PAPER_PROTOCOL` the paper's.

    The learning rate falls over ``steps`` when given, else over ``minutes`` of wall clock (time spent in earlier,
    interrupted runs counted in). Only the former is repeatable. The first `small_share` of it sees small patches (a
    third of the work each), the rest patches as large as a head, as when serving.

    Attributes
    ----------
    network : its `patch_zyx` is what is trained on.
    small_patch_zyx : of the first `small_share`; None: always `network.patch_zyx`.
    ema_decay : of the averaged weights that are delivered; 0 delivers the last ones.
    hard_loss : see `engines.loss.haematoma_loss`.
    elusive : a bleed is drawn ``1 + elusive * engines.patches.brain_like(case) ** 2`` times as often as one unlike brain.
    settled : share of patches with a bleed that get a fluid level or a paler half, see `engines.patches`.
    begun_from : SHA-256 of the checkpoint whose weights it began with; "": with random ones.
    precision : "auto" is bfloat16 autocast where the processor computes with it, else float32.
    device : "auto" is CUDA where torch finds it.
    """

    seed: int = 0
    minutes: float = 60.0
    steps: int | None = None
    network: UMambaConfig = DEMO
    small_patch_zyx: tuple[int, int, int] | None = (12, 112, 112)
    small_share: float = 0.5
    batch: int = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1.5e-3
    momentum: float = 0.99
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "poly"] = "cosine"
    ema_decay: float = 0.998
    hard_loss: bool = True
    elusive: float = 0.0
    settled: float = 0.0
    begun_from: str = ""
    precision: Precision = "auto"
    device: str = "auto"
    threads: int = 2
    checkpoint_seconds: float = 240.0


PAPER_EPOCHS, STEPS_PER_EPOCH = 500, 250
PAPER_PROTOCOL: dict[str, Any] = {
    "steps": PAPER_EPOCHS * STEPS_PER_EPOCH,
    "small_patch_zyx": None,
    "batch": 2,
    "optimizer": "sgd",
    "learning_rate": 1e-3,
    "momentum": 0.99,
    "weight_decay": 3e-5,
    "schedule": "poly",
    "ema_decay": 0.0,
    "hard_loss": False,
}
"""doi:10.1038/s41746-025-02213-w: Dice + cross-entropy, SGD 1e-3, Nesterov 0.99, weight decay 3e-5, 500 epochs, batch 2.
Its silence is filled by nnU-Net's habits: 250 iterations an epoch, learning rate x (1 - progress)^0.9."""

REFINEMENT: dict[str, Any] = {"small_patch_zyx": None, "learning_rate": 7e-4, "elusive": 30.0, "settled": 0.35}
"""*Ours*, for weights that know already what a haematoma is: whole heads, small steps, what is easily missed more often."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Where the weights lie and what it took to get there."""

    checkpoint: Path
    steps: int
    minutes: float


def train(
    cases: Sequence[PooledCase],
    held_out: Sequence[PooledCase],
    out: Path,
    *,
    options: TrainingOptions,
    resume: bool = False,
    begin: Path | None = None,
    report: Report = print,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingResult:
    """Train and leave ``checkpoint.pt`` and ``early_look.png`` in `out`.

    Every minute `report` gets a line: parts of the loss, and Dice on the held-out cases, one of which is looked at anew
    each time. Every `checkpoint_seconds` everything is saved and all of them are looked at.

    Parameters
    ----------
    held_out : never trained on; may be empty.
    resume : go on from ``checkpoint.pt`` (optimiser, averages, random state and step as they were); without one, begin.
    begin : checkpoint of another training of the same network, with whose averaged weights this one begins.

    Raises
    ------
    CannotStart
        No case, a checkpoint of another training (other options, network or cases), weights of another network to begin
        with, or weights that stopped being numbers.
    """
    if not cases:
        raise CannotStart("there is no case to train on")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    run = _Run.begin(options)
    if begin is not None:
        begun_from = begin_with(begin, (run.network, run.ema), config=options.network)
        run.options = replace(options, begun_from=begun_from)
    run.cases = digest(case.key.encode() for case in cases)
    weights = [1 + options.elusive * brain_like(case) ** 2 for case in cases] if options.elusive else None
    checkpoint = out / "checkpoint.pt"
    out.mkdir(parents=True, exist_ok=True)
    if resume and checkpoint.exists():
        run.restore(checkpoint)
        report(f"resumed at step {run.step} after {run.elapsed_s / 60:.1f} min")
    report(
        f"{parameter_count(run.network)} parameters, {len(cases)} heads, patch {options.network.patch_zyx} x "
        f"{options.batch}, {run.precision} on {run.device}, {options.threads} threads, seed {options.seed}"
    )

    def batch_of(step: int) -> tuple[Tensor, Tensor]:
        small = options.small_patch_zyx is not None and run.progress_at(step) < options.small_share
        shape = options.small_patch_zyx if small and options.small_patch_zyx else options.network.patch_zyx
        return draw_batch(
            cases, shape_zyx=shape, batch=options.batch, seed=options.seed, step=step, weights=weights,
            settled=options.settled,
        )  # fmt: skip

    last_save = last_line = last = clock()
    recent: list[tuple[float, ...]] = []
    looks: dict[str, float] = {}
    lines = 0
    # One batch ahead, in a thread: numpy and torch both let go of the interpreter while they work.
    with ThreadPoolExecutor(1) as executor:
        ahead = executor.submit(batch_of, run.step)
        while run.progress < 1:
            inputs, targets = ahead.result()
            ahead = executor.submit(batch_of, run.step + 1)
            recent.append(run.descend(inputs, targets))
            now = clock()
            run.elapsed_s += now - last
            last = now
            if now - last_line >= 60 or run.step == 1:
                if held_out:
                    case = held_out[lines % len(held_out)]
                    looks[case.key] = held_out_dice(run.ema, case)
                lines += 1
                report(run.line(np.mean(recent, axis=0), looks))
                recent.clear()
                last_line = now
                run.elapsed_s += clock() - last
                last = clock()
            if now - last_save >= options.checkpoint_seconds:
                run.save(checkpoint)
                draw_early_look(run.ema, held_out, path=out / "early_look.png", report=report)
                run.elapsed_s += clock() - last
                last_save = last = clock()
        ahead.cancel()
    run.save(checkpoint)
    draw_early_look(run.ema, held_out, path=out / "early_look.png", report=report)
    return TrainingResult(checkpoint, run.step, run.elapsed_s / 60)


def load_network(checkpoint: Path) -> tuple[UMamba, dict[str, Any]]:
    """The network of a checkpoint to deliver, in evaluation mode, and what is written beside it. No pickle is run."""
    weights, facts = delivered(checkpoint)
    network = UMamba(UMambaConfig.from_dict(facts["network_config"]))
    network.load_state_dict(weights)
    return network.eval(), facts


@dataclass(slots=True)
class _Run:
    options: TrainingOptions
    network: UMamba
    ema: UMamba
    optimizer: torch.optim.Optimizer
    device: str
    precision: str
    cases: str = ""
    step: int = 0
    elapsed_s: float = 0.0
    rate: float = 0.0
    repeated: int = 0  # steps that bfloat16 could not take

    @classmethod
    def begin(cls, options: TrainingOptions) -> _Run:
        device, precision = resolve(options.device, options.precision)
        network = UMamba(options.network)
        ema = UMamba(options.network)
        ema.load_state_dict(network.state_dict())
        for model in (network, ema):
            model.to(device)
        parameters = network.parameters()
        optimizer: torch.optim.Optimizer
        if options.optimizer == "sgd":
            optimizer = torch.optim.SGD(
                parameters, lr=options.learning_rate, momentum=options.momentum, nesterov=True,
                weight_decay=options.weight_decay,
            )  # fmt: skip
        else:
            optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=options.weight_decay)
        return cls(options, network, ema.eval().requires_grad_(False), optimizer, device, precision)

    @property
    def progress(self) -> float:
        return self.progress_at(self.step)

    def progress_at(self, step: int) -> float:
        """Share of the training behind `step`; by wall clock it is what has passed so far."""
        if self.options.steps is not None:
            return step / self.options.steps
        return self.elapsed_s / (60 * self.options.minutes)

    def descend(self, inputs: Tensor, targets: Tensor) -> tuple[float, ...]:
        """One step; returns the parts of the loss."""
        progress = min(self.progress, 1.0)
        if self.options.schedule == "poly":
            shape = (1 - progress) ** 0.9
        else:
            shape = min((self.step + 1) / 30, 1.0) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        self.rate = self.options.learning_rate * shape
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        inputs = inputs.to(self.device)
        targets = targets.to(self.device)
        loss = self._gradient(inputs, targets, precision=self.precision)
        if loss is None and self.precision != "f32":
            # bfloat16 gave weights that are no numbers on one processor (AMD EPYC, torch 2.13.0): such a step is taken
            # again in float32 before anything of it reaches the weights.
            self.repeated += 1
            loss = self._gradient(inputs, targets, precision="f32")
        if loss is None:
            raise CannotStart(f"step {self.step}: the gradient is not a number; a lower learning rate may help")
        self.optimizer.step()
        self.step += 1
        decay = min(self.options.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, value in zip(self.ema.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        return loss.dice, loss.cross_entropy, loss.hardest, loss.intracranial

    def _gradient(self, inputs: Tensor, targets: Tensor, *, precision: str) -> Loss | None:
        """Fill the gradients; None when they are not finite."""
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, precision):
            scales = self.network.all_logits(inputs) if self.network.config.deep_supervision else [self.network(inputs)]
        hard = self.options.hard_loss
        loss = haematoma_loss(scales[0], targets, hard=hard)
        total = loss.total
        if len(scales) > 1:
            weights = deep_supervision_weights(len(scales))
            total = total * weights[0]
            for weight, logits in zip(weights[1:], scales[1:], strict=True):
                if weight:
                    z, y, x = logits.shape[2:]
                    smaller = nn.functional.adaptive_avg_pool3d(targets, (z, y, x))
                    total = total + weight * haematoma_loss(logits, smaller, hard=hard).total
        total.backward()  # type: ignore[no-untyped-call]
        # nnU-Net clips at 12, the demo's recipe at 3.
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), 12.0 if self.options.optimizer == "sgd" else 3.0)
        return loss if bool(torch.isfinite(norm)) and bool(torch.isfinite(total.detach())) else None

    def line(self, parts: Any, looks: dict[str, float]) -> str:
        dice, entropy, hardest, space = parts
        known = [score for score in looks.values() if not math.isnan(score)]
        held_out = f"{np.mean(known):.3f} on {len(known)}" if known else "-"
        again = f" repeated in f32 {self.repeated}" if self.repeated else ""
        return (
            f"step {self.step} {100 * min(self.progress, 1):.1f} % {self.elapsed_s / 60:.1f} min "
            f"{self.elapsed_s / self.step:.2f} s/step loss: dice {dice:.3f} bce {entropy:.4f} hard {hardest:.3f} "
            f"intracranial {space:.4f}; held-out Dice {held_out}; rate {self.rate:.2e}{again}"
        )

    def save(self, path: Path) -> None:
        self._saved(path).save(step=self.step, elapsed_s=self.elapsed_s)

    def restore(self, path: Path) -> None:
        self.step, self.elapsed_s = self._saved(path).restore()

    def _saved(self, path: Path) -> SavedRun:
        return SavedRun(
            path=path,
            options=self.options,
            cases=self.cases,
            precision=f"{self.precision} on {self.device}",
            parts={"network": self.network, "ema": self.ema, "optimizer": self.optimizer},
        )


def with_intensities_of(config: UMambaConfig, cases: Sequence[PooledCase]) -> UMambaConfig:
    """A z-scoring network with the intensities within the haematomas of `cases`, as nnU-Net takes them.

    0.5 and 99.5 percentiles to clip at, mean and standard deviation; at most 2,000 voxels of each case.

    Raises
    ------
    CannotStart
        No case has a haematoma.
    """
    if config.zscore is None:
        return config
    found = []
    for index, case in enumerate(cases):
        if case.bleeding_slices.size:
            hu = np.asarray(case.hu_zyx[case.bleeding_slices])
            inside = hu[(case.labels_zyx[case.bleeding_slices] & 0xFF) >= 128]
            found.append(np.random.default_rng(index).choice(inside, min(inside.size, 2000), replace=False))
    if not found:
        raise CannotStart("no case has a haematoma")
    hu = np.concatenate(found).astype(np.float64)
    low, high = np.percentile(hu, (0.5, 99.5))
    spread = max(float(hu.std()), 1.0)
    return replace(
        config, zscore=(round(float(low), 2), round(float(high), 2), round(float(hu.mean()), 3), round(spread, 3))
    )
