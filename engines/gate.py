"""The acceptance gate: a runtime serves only if it computes what the reference computes. Judges no accuracy on heads."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.runtime import Arrays, Runtime

F32 = npt.NDArray[np.float32]

GATE_VERSION = 1  # one more when the inputs change
MOST_ERROR_OVER_STD = 1e-3
LEAST_AGREEMENT = 0.999
MOST_PROBABILITY_ERROR = 0.01


@dataclass(frozen=True, slots=True)
class GateCase:
    """One input, candidate against reference.

    Attributes
    ----------
    error_over_std : largest difference of logits over the reference's standard deviation (at least a tenth of the
        deviation over all inputs: a flat input may have next to none of its own; for crops, of which each has one
        logit only, at least 1).
    agreement : share of outputs with the same decision (sign of the logit; of a crop, where it is off 0 by more than
        the error allowed).
    probability_error : largest difference of probabilities; for crops also of the attention, where 1 is its largest
        value.
    """

    name: str
    error_over_std: float
    agreement: float
    probability_error: float
    finite: bool

    @property
    def passed(self) -> bool:
        return (
            self.finite
            and self.error_over_std <= MOST_ERROR_OVER_STD
            and self.agreement >= LEAST_AGREEMENT
            and self.probability_error <= MOST_PROBABILITY_ERROR
        )


@dataclass(frozen=True, slots=True)
class GateReport:
    """The verdict, and what it rests on."""

    model_sha256: str
    candidate: str
    reference: str
    processor: str
    cases: tuple[GateCase, ...]

    @property
    def accepted(self) -> bool:
        return bool(self.cases) and all(case.passed for case in self.cases)

    @property
    def reason(self) -> str:
        """Empty when accepted; else the first input that failed and by how much."""
        for case in self.cases:
            if not case.passed:
                return (
                    f"{self.candidate} differs from {self.reference} on {case.name}: error {case.error_over_std:.1e} of "
                    f"std, agreement {case.agreement:.5f}, probability error {case.probability_error:.1e}, "
                    f"{'finite' if case.finite else 'not finite'}"
                )
        return "" if self.cases else "no case was compared"


def compare(candidate: Runtime, reference: Runtime, *, processor: str) -> GateReport:
    """Run both on `gate_inputs` of the model's shape.

    Raises
    ------
    ValueError
        The two did not load the same model file.
    """
    if candidate.sha256 != reference.sha256:
        raise ValueError("candidate and reference hold different models")
    ((name, shape),) = reference.input_shapes.items()
    of_crops = len(shape) == 4
    names: list[str] = []
    pairs: list[tuple[Arrays, Arrays]] = []
    for case, array in gate_inputs((shape[0], shape[2], shape[3]) if of_crops else (shape[2], shape[3], shape[4])):
        inputs = {name: array[:, None] if of_crops else array[None, None]}
        names.append(case)
        pairs.append((reference.run(inputs), candidate.run(inputs)))
    cases = _crop_cases(names, pairs) if of_crops else _volume_cases(names, pairs)
    return GateReport(reference.sha256, _title(candidate), _title(reference), processor, cases)


def compare_once(candidate: Runtime, reference: Runtime, *, processor: str, folder: Path) -> GateReport:
    """`compare`, or its stored report for the same model, runtimes, versions and processor in `folder`."""
    limits = f"{MOST_ERROR_OVER_STD} {LEAST_AGREEMENT} {MOST_PROBABILITY_ERROR}"
    key = [str(GATE_VERSION), limits, candidate.sha256, _title(candidate), _title(reference), processor]
    digest = hashlib.sha256("\n".join(key).encode()).hexdigest()[:24]
    path = folder / f"gate-{digest}.json"
    stored = _read(path)
    if stored is not None and stored.model_sha256 == candidate.sha256:
        return stored
    report = compare(candidate, reference, processor=processor)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    temporary.rename(path)
    return report


def gate_inputs(shape_zyx: tuple[int, int, int]) -> Iterator[tuple[str, F32]]:
    """Named inputs in HU, always the same ones: flat, extreme, noise, edges, and head-like."""
    rng = np.random.default_rng(20)
    for value in (0.0, -1000.0, 3071.0):
        yield f"flat {value:.0f} HU", np.full(shape_zyx, value, np.float32)
    yield "extreme values", rng.choice(np.array([-32768, -1024, 0, 3071, 32767], np.float32), shape_zyx)
    yield "noise around brain", rng.normal(35, 15, shape_zyx).astype(np.float32)
    yield "noise from air to bone", rng.uniform(-1000, 2000, shape_zyx).astype(np.float32)
    yield "steps", _steps(shape_zyx)
    for index, blood_hu in enumerate((0.0, 52.0, 70.0)):
        noise = rng.normal(0, 4 + 2 * index, shape_zyx).astype(np.float32)
        yield f"head, inside {blood_hu:.0f} HU", _head(shape_zyx, blood_hu) + noise


def _steps(shape_zyx: tuple[int, int, int]) -> F32:
    z, y, x = np.indices(shape_zyx, sparse=True)
    levels = np.array([-1000, -100, 0, 20, 35, 60, 80, 120, 400, 1500], np.float32)
    image: F32 = levels[(z // 2 + y // 24 + x // 16) % len(levels)]
    return image


def _head(shape_zyx: tuple[int, int, int], blood_hu: float) -> F32:
    """Ellipses in one another: skin, bone, brain, ventricle, and one bleed."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape_zyx), indexing="ij")

    def inside(a: float, b: float, *, at: tuple[float, float, float] = (0.0, 0.0, 0.0), c: float = 1.8) -> F32:
        near: F32 = ((z - at[0]) / c) ** 2 + ((y - at[1]) / a) ** 2 + ((x - at[2]) / b) ** 2 < 1
        return near

    head = np.full(shape_zyx, -1000, np.float32)
    head[inside(0.92, 0.90)] = 30
    head[inside(0.85, 0.82)] = 1100
    head[inside(0.77, 0.74)] = 34
    head[inside(0.25, 0.10)] = 6
    head[inside(0.22, 0.20, at=(0.1, 0.1, 0.35), c=0.7)] = blood_hu
    return head


def _volume_cases(names: list[str], pairs: list[tuple[Arrays, Arrays]]) -> tuple[GateCase, ...]:
    logits = [(expected, found) for one, other in pairs for expected, found in [(*one.values(), *other.values())]]
    overall = float(np.std(np.concatenate([expected.ravel() for expected, _ in logits])))
    least = max(0.1 * overall, 1e-12)
    return tuple(_case(name, *pair, least_std=least) for name, pair in zip(names, logits, strict=True))


def _crop_cases(names: list[str], pairs: list[tuple[Arrays, Arrays]]) -> tuple[GateCase, ...]:
    # Where next to nothing is attended to, rounding decides where: held to a hundredth of what other inputs get.
    floor = max(0.01 * max(float(one["attention"].max()) for one, _ in pairs), 1e-12)
    cases = []
    for name, (one, other) in zip(names, pairs, strict=True):
        expected, found, seen, looked = one["logits"], other["logits"], one["attention"], other["attention"]
        case = _case(name, expected, found, least_std=1.0)
        if not (np.isfinite(seen).all() and np.isfinite(looked).all()):
            case = replace(case, finite=False)
        elif case.finite:
            close = np.abs(expected) <= MOST_ERROR_OVER_STD
            attention_error = float(np.abs(seen - looked).max()) / max(float(seen.max()), floor)
            case = replace(
                case,
                agreement=float(np.mean(((expected > 0) == (found > 0)) | close)),
                probability_error=max(case.probability_error, attention_error),
            )
        cases.append(case)
    return tuple(cases)


def _case(name: str, expected: F32, found: F32, *, least_std: float) -> GateCase:
    finite = bool(np.isfinite(expected).all() and np.isfinite(found).all())
    if not finite:
        return GateCase(name, float("inf"), 0.0, 1.0, False)
    return GateCase(
        name,
        error_over_std=float(np.abs(expected - found).max()) / max(float(expected.std()), least_std),
        agreement=float(np.mean((expected > 0) == (found > 0))),
        probability_error=float(np.abs(_probability(expected) - _probability(found)).max()),
        finite=True,
    )


def _probability(logits: F32) -> npt.NDArray[np.float64]:
    probability: npt.NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -500, 500)))
    return probability


def _title(runtime: Runtime) -> str:
    return f"{runtime.name} {runtime.precision}"


def _read(path: Path) -> GateReport | None:
    """A stored report, or None when there is none that can be read: then the gate is simply run again."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        cases = tuple(GateCase(**case) for case in stored.pop("cases"))
        return GateReport(**stored, cases=cases)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
