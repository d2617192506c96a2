"""Training of the judge of expansion (ViT) on labelled haematomas: schedule, checkpoints, progress. Makes no haematoma."""

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
from torch.nn import functional

from engines.expansion_pool import OUTLINE_CELL, SIGNS, LabelledBleed, crops, varied_crops
from engines.networks.layers import parameter_count
from engines.networks.vit import DEMO, ViT, ViTConfig
from engines.precision import Precision, autocast, resolve
from engines.saved_run import SavedRun, begin_with, delivered, digest
from engines.statistics import auc, brier
from engines.training import TrainingResult
from ichor.errors import CannotStart


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpansionOptions:
    """How weights come about; the defaults are the demo's recipe, `PAPER_PROTOCOL` the paper's.

    Attributes
    ----------
    steps : None: `minutes` of wall clock.
    epochs : where given, in place of steps: passes over three slices of every haematoma.
    batch : slices; together, whole haematomas of three.
    together : what is judged of a haematoma is the mean of the probabilities of its three slices, as when serving, and a
        sign may lie on any of them; else each slice is a sample of its own, with its patient's outcome and signs.
    density : how much crops vary in density, 1: by some 7 % and 2 HU.
    least_rate : where the cosine ends.
    negatives_per_positive : haematomas that did not expand per one that did, by drawing the rarer ones more often; None:
        as they come. The paper balances with synthetic positives.
    signs_weight : of a second answer, the signs a phantom is known to have; it shapes the features and is not delivered.
    outline_weight : of a third answer, where in the crop the haematoma lies; it shapes the features, too, and is not delivered.
    begun_from : SHA-256 of the checkpoint whose weights it began with; "": with random ones.
    """

    seed: int = 0
    minutes: float = 40.0
    steps: int | None = None
    epochs: int | None = None
    network: ViTConfig = DEMO
    batch: int = 32
    together: bool = False
    density: float = 1.0
    optimizer: Literal["adamw", "adam"] = "adamw"
    learning_rate: float = 5e-4
    least_rate: float = 5e-6
    weight_decay: float = 0.05
    warm_up: int = 100
    negatives_per_positive: float | None = None
    signs_weight: float = 1.0
    outline_weight: float = 0.0
    ema_decay: float = 0.998
    begun_from: str = ""
    precision: Precision = "auto"
    device: str = "auto"
    threads: int = 2
    checkpoint_seconds: float = 240.0


PAPER_PROTOCOL: dict[str, Any] = {
    "epochs": 100,
    "batch": 256,
    "optimizer": "adam",
    "learning_rate": 2e-4,
    "least_rate": 1e-4,
    "weight_decay": 0.0,
    "warm_up": 0,
    "negatives_per_positive": 2.0,
    "signs_weight": 0.0,
    "ema_decay": 0.0,
}
"""doi:10.1038/s41746-025-02213-w: Adam, cosine 2e-4 to 1e-4, batch 256, 100 epochs, classes 1 : 2."""

REFINEMENT: dict[str, Any] = {
    "together": True,
    "batch": 36,
    "density": 0.2,
    "learning_rate": 4e-4,
    "outline_weight": 1.0,
}
"""*Ours*, with `begin`: the three slices judged together. `density` is for phantoms, whose scanners differ already."""

NEW = ("signs.", "outline.", "network.patch_embed.residual.")
"""What a judge may have that the one it begins with has not: a delivered model, or a network without residual blocks."""


def train_expansion(
    bleeds: Sequence[LabelledBleed],
    held_out: Sequence[LabelledBleed],
    out: Path,
    *,
    options: ExpansionOptions,
    resume: bool = False,
    begin: Path | None = None,
    report: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingResult:
    """Train and leave ``checkpoint-expansion.pt`` in `out`. Every minute a line of loss, at each checkpoint AUC on `held_out`.

    With `begin`, a checkpoint of another training of the same network or of one without its residual blocks, it begins with
    that one's averaged weights.

    Raises
    ------
    CannotStart
        Nothing to train on, one outcome only, a checkpoint of another training, weights of another network to begin
        with, or a gradient that is not a number.
    """
    if len({bleed.expands for bleed in bleeds}) < 2:
        raise CannotStart(f"{len(bleeds)} haematomas: both outcomes are needed, expanded and not")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    run = _Run.begin(options, total=_steps(options, len(bleeds)))
    if begin is not None:
        begun_from = begin_with(begin, (run.judge, run.ema), config=options.network, may_lack=NEW)
        run.options = replace(options, begun_from=begun_from)
    run.cases = digest(map(_told, bleeds))
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint-expansion.pt"
    if resume and checkpoint.exists():
        run.restore(checkpoint)
        report(f"resumed at step {run.step} after {run.elapsed_s / 60:.1f} min")
    report(
        f"{parameter_count(run.network)} parameters, {len(bleeds)} haematomas, "
        f"{sum(b.expands for b in bleeds)} expanded, batch {options.batch}, {run.precision} on {run.device}, "
        f"{options.threads} threads, seed {options.seed}"
    )
    chance = _chances(bleeds, options.negatives_per_positive)
    last_save = last_line = last = clock()
    recent: list[tuple[float, float, float]] = []
    with ThreadPoolExecutor(1) as executor:
        ahead = executor.submit(draw, bleeds, chance, options=options, step=run.step)
        while run.progress < 1:
            batch = ahead.result()
            ahead = executor.submit(draw, bleeds, chance, options=options, step=run.step + 1)
            recent.append(run.descend(batch))
            now = clock()
            run.elapsed_s += now - last
            last = now
            if now - last_line >= 60 or run.step == 1:
                outcome, signs, outline = np.mean(recent, axis=0)
                report(
                    f"step {run.step} {100 * min(run.progress, 1):.1f} % {run.elapsed_s / 60:.1f} min "
                    f"{run.elapsed_s / run.step:.2f} s/step loss: outcome {outcome:.4f} signs {signs:.4f} "
                    f"outline {outline:.4f}; rate {run.rate:.2e}"
                )
                recent.clear()
                last_line = now
            if now - last_save >= options.checkpoint_seconds:
                run.save(checkpoint)
                report(look(run.ema.network, held_out))
                run.elapsed_s += clock() - last
                last_save = last = clock()
        ahead.cancel()
    run.save(checkpoint)
    report(look(run.ema.network, held_out))
    return TrainingResult(checkpoint, run.step, run.elapsed_s / 60)


def load_expansion(checkpoint: Path) -> tuple[ViT, dict[str, Any]]:
    """The network of a checkpoint to deliver, in evaluation mode, and what is written beside it. No pickle is run."""
    weights, facts = delivered(checkpoint)
    network = ViT(ViTConfig.from_dict(facts["network_config"]))
    network.load_state_dict(
        {name.removeprefix("network."): v for name, v in weights.items() if name.startswith("network.")}
    )
    return network.eval(), facts


def probability(network: ViT, bleed: LabelledBleed) -> float:
    """Mean of the probabilities of the three slices."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        logits = network(torch.from_numpy(crops(bleed)).to(device)).float()
    return float(torch.sigmoid(logits).mean())


def look(network: ViT, held_out: Sequence[LabelledBleed]) -> str:
    """A line of figures on haematomas that are not trained on."""
    said = np.array([probability(network, bleed) for bleed in held_out])
    came = np.array([float(bleed.expands) for bleed in held_out])
    law = np.array([bleed.probability for bleed in held_out])
    if not len(said):
        return "look: nothing held out"
    sure = np.clip(said, 1e-6, 1 - 1e-6)
    loss = -np.mean(law * np.log(sure) + (1 - law) * np.log1p(-sure))
    best = f" (of the law itself {auc(law, came):.3f})" if len(np.unique(law)) > 2 else ""
    close = f", correlation with the law {np.corrcoef(said, law)[0, 1]:.3f}" if len(np.unique(law)) > 2 else ""
    return f"look: loss {loss:.4f}, AUC {auc(said, came):.3f}{best}{close}, Brier score {brier(said, came):.3f} on {len(said)} held out"


@dataclass(frozen=True, slots=True)
class Batch:
    """What is learned from.

    Attributes
    ----------
    crops : HU, (n, 1 or 3, 1, 224, 224).
    targets : probability of expansion, (n,).
    signs : (n, 6), NaN where nobody says.
    outlines : share of haematoma in each cell, (n, 1 or 3, 56, 56).
    """

    crops: Tensor
    targets: Tensor
    signs: Tensor
    outlines: Tensor


def draw(bleeds: Sequence[LabelledBleed], chance: Any, *, options: ExpansionOptions, step: int) -> Batch:
    """The batch of one step; everything random comes from (seed, step)."""
    rng = np.random.default_rng([options.seed, step])
    haematomas = max(options.batch // 3, 1) if options.together else options.batch
    chosen = [bleeds[i] for i in rng.choice(len(bleeds), haematomas, p=chance)]
    varied = [varied_crops(bleed, rng, together=options.together, density=options.density) for bleed in chosen]
    return Batch(
        torch.from_numpy(np.stack([hu for hu, _ in varied])),
        torch.tensor([bleed.probability for bleed in chosen], dtype=torch.float32),
        torch.from_numpy(np.stack([bleed.signs for bleed in chosen])),
        torch.from_numpy(np.stack([outline for _, outline in varied])),
    )


def _chances(bleeds: Sequence[LabelledBleed], negatives_per_positive: float | None) -> Any:
    if negatives_per_positive is None:
        return None
    expanded = np.array([bleed.expands for bleed in bleeds])
    share = 1 / (1 + negatives_per_positive)
    return np.where(expanded, share / expanded.sum(), (1 - share) / (~expanded).sum())


def _steps(options: ExpansionOptions, bleeds: int) -> int | None:
    if options.steps is None and options.epochs is not None:
        return options.epochs * math.ceil(3 * bleeds / options.batch)
    return options.steps


class _Judge(nn.Module):
    """A ViT and, to shape its features, two more answers: signs, beside its last layer, and an outline, of the patches.

    The outline is answered from the last block's normalised patches: after it the class token alone is read.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.network = ViT(config)
        self.signs = nn.Linear(config.width, len(SIGNS))
        self.cells = config.patch // OUTLINE_CELL  # along a side of a patch
        self.outline = nn.Linear(config.width, self.cells**2)
        self._features: Tensor | None = None
        self._tokens: Tensor | None = None
        self.network.head.register_forward_pre_hook(self._keep_features)
        last = self.network.blocks[-1]
        assert isinstance(last.norm1, nn.LayerNorm)
        last.norm1.register_forward_hook(self._keep_tokens)

    def _keep_features(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._features = inputs[0]

    def _keep_tokens(self, _: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._tokens = output

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of crops (n, slices, 1, 224, 224): logits (n, slices), of the signs (n, slices, 6), of cells (n, slices, 56, 56)."""
        n, slices = crops.shape[:2]
        logits = self.network(crops.flatten(0, 1)).reshape(n, slices)
        assert self._features is not None
        assert self._tokens is not None
        signs, self._features = self.signs(self._features.reshape(n, slices, -1)), None
        cells, self._tokens = self.outline(self._tokens[:, 1:]), None
        grid = self.network.config.grid
        cells = cells.reshape(n, slices, grid, grid, self.cells, self.cells).transpose(3, 4)
        return logits, signs, cells.reshape(n, slices, grid * self.cells, grid * self.cells)


@dataclass(slots=True)
class _Run:
    options: ExpansionOptions
    judge: _Judge
    ema: _Judge
    optimizer: torch.optim.Optimizer
    device: str
    precision: str
    total: int | None
    cases: str = ""
    step: int = 0
    elapsed_s: float = 0.0
    rate: float = 0.0

    @classmethod
    def begin(cls, options: ExpansionOptions, *, total: int | None) -> _Run:
        device, precision = resolve(options.device, options.precision)
        judge, ema = _Judge(options.network), _Judge(options.network)
        ema.load_state_dict(judge.state_dict())
        judge.to(device)
        ema.to(device).eval().requires_grad_(False)
        kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
        optimizer = kind(judge.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
        return cls(options, judge, ema, optimizer, device, precision, total)

    @property
    def network(self) -> ViT:
        return self.judge.network

    @property
    def progress(self) -> float:
        return self.elapsed_s / (60 * self.options.minutes) if self.total is None else self.step / self.total

    def descend(self, batch: Batch) -> tuple[float, float, float]:
        """One step; losses of outcome, signs and outlines."""
        options = self.options
        cosine = 0.5 * (1 + math.cos(math.pi * min(self.progress, 1.0)))
        self.rate = options.least_rate + (options.learning_rate - options.least_rate) * cosine
        self.rate *= min((self.step + 1) / (options.warm_up + 1), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        parts = self._gradient(batch, self.precision) or self._gradient(batch, "f32")
        if parts is None:
            raise CannotStart(f"step {self.step}: the gradient is not a number")
        self.optimizer.step()
        self.step += 1
        decay = min(options.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, value in zip(self.ema.parameters(), self.judge.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        return parts

    def _gradient(self, batch: Batch, precision: str) -> tuple[float, float, float] | None:
        """Fill the gradients; None when they are not finite."""
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, precision):
            logits, signs, cells = self.judge(batch.crops.to(self.device))
        outcome = _cross_entropy(*_mean(logits.float()), batch.targets.to(self.device)).mean()
        wanted = batch.signs.to(self.device)
        known = torch.isfinite(wanted)
        voiced = _cross_entropy(*_any(signs.float()), torch.where(known, wanted, 0.0))
        told = (voiced * known).sum() / known.sum().clamp(min=1)
        drawn = functional.binary_cross_entropy_with_logits(cells.float(), batch.outlines.to(self.device))
        whole = outcome + self.options.signs_weight * told + self.options.outline_weight * drawn
        whole.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.judge.parameters(), 1.0)
        losses = (float(outcome.detach()), float(told.detach()), float(drawn.detach()))
        return losses if bool(torch.isfinite(norm)) else None

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
            parts={"judge": self.judge, "ema": self.ema, "optimizer": self.optimizer},
        )


def _mean(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of the mean (axis 1) of probabilities, and of what that leaves of 1."""
    yes, no = (torch.logsumexp(functional.logsigmoid(x), 1) for x in (logits, -logits))
    return yes - math.log(logits.shape[1]), no - math.log(logits.shape[1])


def _any(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of the probability that any (axis 1) is so, each on its own, and that none is."""
    none = functional.logsigmoid(-logits).sum(1)
    return torch.log(-torch.expm1(none.clamp(max=-1e-30))), none


def _cross_entropy(yes: Tensor, no: Tensor, target: Tensor) -> Tensor:
    return -(target * yes + (1 - target) * no)


def _told(bleed: LabelledBleed) -> bytes:
    """What makes it another one to learn from: what is drawn around, and what is said of it."""
    outcome = np.array([bleed.expands, bleed.probability, *bleed.signs, *bleed.mask_zyx.shape], np.float64)
    return outcome.tobytes() + np.packbits(bleed.mask_zyx).tobytes()
