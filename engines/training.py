"""Training of the haematoma network: schedule, checkpoints, progress. Where heads come from is passed in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engines.cases import CasePool, CaseSource
from engines.early_look import draw_early_look
from engines.loss import haematoma_loss
from engines.network import NetworkConfig, ResidualUNet, parameter_count
from engines.patches import draw_batch

VALIDATION_FROM_SEED = 10_000
ACCEPTANCE_FROM_SEED = 20_000
"""Seeds from here on are never trained on and never looked at while training."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What `ichor train haematoma` can be told.

    The learning rate falls over ``steps`` when given, else over ``minutes`` of wall clock (time spent in earlier,
    interrupted runs counted in). Only the former is exactly repeatable. The first `small_share` of it sees small
    patches (a third of the work each), the rest patches as large as a head, as when serving.
    """

    seed: int = 0
    minutes: float = 40.0
    steps: int | None = None
    heads: int = 200
    validation_heads: int = 8
    network: NetworkConfig = field(default_factory=NetworkConfig)
    patch_zyx: tuple[int, int, int] = (12, 192, 160)
    small_patch_zyx: tuple[int, int, int] = (12, 112, 112)
    small_share: float = 0.55
    batch: int = 2
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    ema_decay: float = 0.998
    threads: int = 2
    processes: int = 2
    checkpoint_seconds: float = 240.0


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Where the averaged weights lie and what it took to get there."""

    checkpoint: Path
    steps: int
    minutes: float


def train(
    source: CaseSource,
    out: Path,
    *,
    options: TrainingOptions,
    resume: bool = False,
    report: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingResult:
    """Train and leave ``checkpoint.pt``, ``early_look.png`` and the pool of heads in `out`.

    Parameters
    ----------
    source : makes the case of a seed; training seeds are 0.., validation seeds 10000...
    resume : go on from ``checkpoint.pt`` (optimiser, averages and step as they were); without one, begin.
    """
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    if not 0 < options.heads <= VALIDATION_FROM_SEED:
        raise ValueError(f"heads must be 1..{VALIDATION_FROM_SEED}, not {options.heads}")
    pool = CasePool(out / "pool", source)
    training_seeds = list(range(options.heads))
    validation_seeds = [VALIDATION_FROM_SEED + i for i in range(options.validation_heads)]
    pool.fill(training_seeds + validation_seeds, processes=options.processes, report=report)
    cases = [pool.load(seed) for seed in training_seeds]
    validation = [pool.load(seed) for seed in validation_seeds]

    run = _Run.begin(options)
    checkpoint = out / "checkpoint.pt"
    if resume and checkpoint.exists():
        run.restore(checkpoint)
        report(f"resumed at step {run.step} after {run.elapsed_s / 60:.1f} min")
    report(
        f"{parameter_count(run.network)} parameters, {len(cases)} heads, patch {options.patch_zyx} x {options.batch}, "
        f"f32, {options.threads} threads, seed {options.seed}"
    )

    def batch_of(step: int) -> tuple[Tensor, Tensor]:
        small = run.progress_at(step) < options.small_share
        shape = options.small_patch_zyx if small else options.patch_zyx
        return draw_batch(cases, shape_zyx=shape, batch=options.batch, seed=options.seed, step=step)

    last_save = last = clock()
    recent: list[tuple[float, ...]] = []
    with ThreadPoolExecutor(1) as executor:
        ahead = executor.submit(batch_of, run.step)
        while run.progress < 1:
            inputs, targets = ahead.result()
            ahead = executor.submit(batch_of, run.step + 1)
            recent.append(run.descend(inputs, targets))
            now = clock()
            run.elapsed_s += now - last
            last = now
            if run.step % 25 == 0:
                dice, entropy, hardest, space = np.mean(recent, axis=0)
                recent.clear()
                report(
                    f"step {run.step} {100 * min(run.progress, 1):.1f} % {run.elapsed_s / 60:.1f} min "
                    f"{run.elapsed_s / run.step:.2f} s/step dice {dice:.3f} bce {entropy:.4f} hard {hardest:.3f} "
                    f"intracranial {space:.4f} rate {run.rate:.2e}"
                )
            if now - last_save >= options.checkpoint_seconds:
                run.save(checkpoint)
                draw_early_look(run.ema, validation, path=out / "early_look.png", report=report)
                last_save = last = clock()
        ahead.cancel()
    run.save(checkpoint)
    draw_early_look(run.ema, validation, path=out / "early_look.png", report=report)
    return TrainingResult(checkpoint, run.step, run.elapsed_s / 60)


def load_network(checkpoint: Path) -> tuple[ResidualUNet, dict[str, Any]]:
    """The averaged network of a checkpoint, in evaluation mode, and what is written beside it. No pickle is run."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    network = ResidualUNet(_config(state["network_config"]))
    network.load_state_dict(state["ema"])
    facts = {name: state[name] for name in ("seed", "step", "elapsed_s", "options")}
    return network.eval(), facts


@dataclass(slots=True)
class _Run:
    options: TrainingOptions
    network: ResidualUNet
    ema: ResidualUNet
    optimizer: torch.optim.AdamW
    step: int = 0
    elapsed_s: float = 0.0
    rate: float = 0.0

    @classmethod
    def begin(cls, options: TrainingOptions) -> _Run:
        network = ResidualUNet(options.network)
        ema = ResidualUNet(options.network)
        ema.load_state_dict(network.state_dict())
        for model in (network, ema):
            model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
        return cls(options, network, ema.eval().requires_grad_(False), optimizer)

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
        warm_up = min((self.step + 1) / 30, 1.0)
        self.rate = self.options.learning_rate * warm_up * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        # In f32 on every processor: bfloat16 autocast gave NaN weights on one that has it (AMD EPYC, torch 2.13.0), and a
        # command that is to be repeated exactly must not depend on the processor.
        loss = haematoma_loss(self.network(inputs), targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 3.0)
        self.optimizer.step()
        self.step += 1
        decay = min(self.options.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, value in zip(self.ema.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        return loss.dice, loss.cross_entropy, loss.hardest, loss.intracranial

    def save(self, path: Path) -> None:
        """Whole or not at all: written beside, then renamed."""
        state = {
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "seed": self.options.seed,
            "network_config": asdict(self.options.network),
            "options": {k: v for k, v in asdict(self.options).items() if k != "network"},
        }
        temporary = path.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.rename(path)

    def restore(self, path: Path) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["seed"] != self.options.seed or _config(state["network_config"]) != self.options.network:
            raise ValueError(f"{path.name} is of another training: seed {state['seed']}, {state['network_config']}")
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])
        self.elapsed_s = float(state["elapsed_s"])


def _config(values: dict[str, Any]) -> NetworkConfig:
    return NetworkConfig(widths=tuple(values["widths"]), flat_levels=values["flat_levels"], outputs=values["outputs"])
