"""`ichor evaluate`: models, through their pipeline, on heads they were never trained on. Computes no figure itself."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from engines import user_data
from engines.catalogue import MODELS, has_model, load_model, load_model_card
from engines.classification import Classifier, crops_of
from engines.evaluation import CaseFigures, case_figures, segmentation_figures
from engines.expansion_evaluation import AttentionShare, Judged, attention_share, expansion_figures
from engines.growth_evaluation import growth_figures
from engines.segmentation import Segmenter
from ichor.arrays import MaskArray, Volume
from ichor.cli.evaluation_page import Evaluation, Measured, goals_of, into_card, write
from ichor.cli.evaluation_pairs import phantom_pairs
from ichor.cli.labelled import head_volume, read_dicom
from ichor.cli.training import NETWORKS, say
from ichor.errors import ConfigError, IchorError, NotBuilt, Unreadable
from ichor.pipeline import Classification, Engine
from ichor.types import Stage
from phantoms.head import training_head
from pipelines import expansion, haematoma

ACCEPTANCE_FROM_SEED = 20_000
"""Phantoms of these seeds are never trained on and never looked at while training."""
THRESHOLD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """One scan with its truth: labels on the volume's grid; expansion as drawn or told, the law's probability if there is one."""

    key: str
    patient: str
    volume: Volume
    labels_zyx: npt.NDArray[np.integer]
    expands: bool | None
    law: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What a site would get of one scan: the pipeline's masks, its mesh volume, its probability of expansion."""

    mask_zyx: npt.NDArray[np.bool_]
    volume_ml: float
    said: float | None


def run(options: argparse.Namespace) -> int:
    """Write figures.json, page.txt and plots into ``--out``; on phantoms 1 when a goal is missed, else 0."""
    if options.name not in NETWORKS:
        raise NotBuilt(f"network {options.name!r}: not built in this version of Ichor (built: {', '.join(NETWORKS)})")
    own = options.data is not None
    models = options.models or MODELS
    name = options.model or _only_model(models, options.name)
    segmenter = load_model(name, folder=options.out / "engines", models=models).segmenter
    judge_name = f"{options.name}-expansion-{name.rpartition('-')[2]}"
    judge = _judge(judge_name, models=models, folder=options.out / "engines")
    options.out.mkdir(parents=True, exist_ok=True)
    cases: list[CaseFigures] = []
    raw: list[CaseFigures] = []
    judged: list[Judged] = []
    unjudged = 0
    refused: dict[str, str] = {}
    heads_refused = 0
    for one in _own(options, refused) if own else _phantoms(options):
        # Expansion needs more haematomas than overlap does heads: the further ones count for expansion alone.
        extra = not own and len(cases) >= options.heads
        if extra and (judge is None or len(judged) >= options.bleeds):
            break
        if extra and one.expands is None:
            continue
        outlined, looked = _Outlined(segmenter), None if judge is None else _Looked(judge)
        try:
            found = _through_the_pipeline(one, outlined, looked)
        except Unreadable as error:
            refused[one.key] = error.reason
            heads_refused += not extra
            if not own and heads_refused > options.heads:
                break
            continue
        if not extra:
            cases.append(_figures(one, found.mask_zyx, reported_ml=found.volume_ml))
            raw.append(_figures(one, outlined.probability >= THRESHOLD))
            say(_line(cases[-1]))
        if looked is not None and one.expands is not None:
            if found.said is None:
                unjudged += 1
            else:
                judged.append(
                    Judged(
                        key=one.key,
                        patient=one.patient,
                        said=found.said,
                        came=one.expands,
                        law=one.law,
                        attention=looked.attention(one),
                    )
                )
    if not cases:
        raise IchorError(f"no case could be measured ({len(refused)} refused)")
    pairs = [] if own else list(phantom_pairs(segmenter, count=options.pairs))
    told = Evaluation(
        model=f"{name}, {segmenter.description}",
        judge=f"no judge installed ({judge_name})" if judge is None else f"{judge.name}, {judge.description}",
        data=_told_data(options) if own else f"phantoms of seeds from {ACCEPTANCE_FROM_SEED}",
        pipeline=segmentation_figures(cases),
        network=segmentation_figures(raw),
        expansion=expansion_figures(judged) if judged else None,
        unjudged=unjudged,
        heads_refused=len(refused) if own else heads_refused,
        scans_refused=len(refused),
        growth=growth_figures(pairs) if pairs else None,
        refused={**refused, **{f"pair {one.key}": one.refusal for one in pairs if one.refusal is not None}},
    )
    goals = {} if own else goals_of(told)
    write(told, Measured(cases=cases, judged=judged, pairs=pairs), goals=goals, out=options.out)
    if options.card:
        growth = {} if told.growth is None else {"growth": asdict(told.growth)}
        figures = {
            **asdict(told.pipeline),
            "refused": told.heads_refused,
            "set": told.data,
            "network_alone": asdict(told.network),
            **growth,
        }
        into_card(models / f"{name}.json", figures)
        if told.expansion is not None:
            into_card(models / f"{judge_name}.json", {**asdict(told.expansion), "set": told.data})
    return 0 if all(goals.values()) else 1


def _only_model(folder: Path, network: str) -> str:
    cards = [load_model_card(path.stem, models=folder) for path in sorted(folder.glob(f"{network}-*.json"))]
    names = [card.name for card in cards if card.facts.get("kind", "segmentation") == "segmentation"]
    if len(names) != 1:
        found = f"several ({', '.join(names)}): name one with --model" if names else "none"
        raise ConfigError(f"--models {folder}: one network {network}-... that outlines is needed; {found}")
    return names[0]


def _told_data(options: argparse.Namespace) -> str:
    seen = {
        "train": "the network was TRAINED on all of them",
        "val": "looked at while training",
        "all": "among them those that the network was TRAINED on",
    }
    return ", ".join([options.data.name, f"split {options.split}", *filter(None, [seen.get(options.split)])])


def _judge(name: str, *, models: Path, folder: Path) -> Classifier | None:
    """The judge of expansion as it serves; None where there is none."""
    if not has_model(name, models=models):
        return None
    engine = load_model(name, folder=folder, models=models).engine
    if not isinstance(engine, Classifier):
        raise ConfigError(f"--models {models}: {name} does not classify")
    return engine


def _phantoms(options: argparse.Namespace) -> Iterator[Labelled]:
    """Heads as they come; ends, should ever so many be refused or so few judged."""
    for index in range(2 * options.heads + 5 * options.bleeds + 1):
        head = training_head(ACCEPTANCE_FROM_SEED + index)
        yield Labelled(
            key=str(head.seed),
            patient=str(head.seed),
            volume=head_volume(head),
            labels_zyx=head.mask_zyx,
            expands=head.expands,
            law=None if head.expands is None else head.expansion_probability,
        )


def _own(options: argparse.Namespace, refused: dict[str, str]) -> Iterator[Labelled]:
    """The cases of the split; those that cannot be read go into `refused` with the reason."""
    needed = () if options.split == "all" else (options.split,)
    for case in user_data.find_cases(options.data, needed=needed):
        if options.split not in (case.split, "all"):
            continue
        try:
            labelled = user_data.read_case(case, read_dicom=read_dicom)
        except ConfigError as error:
            refused[case.name] = str(error).removeprefix(f"case {case.name}: ")
            continue
        yield Labelled(
            key=case.name,
            patient=case.patient,
            volume=labelled.volume,
            labels_zyx=ndimage.label(labelled.mask_zyx, structure=np.ones((3, 3, 3)))[0],
            expands=case.expands,
            law=None,
        )


class _Outlined:
    """A segmenter that keeps its last answer, so that the bare network is measured without a second run."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self.name, self.sha256, self.description = segmenter.name, segmenter.sha256, segmenter.description
        self.probability: npt.NDArray[np.float32] = np.zeros((0, 0, 0), np.float32)

    def segment(self, volume: Volume) -> npt.NDArray[np.float32]:
        self.probability = self._segmenter.segment(volume)
        return self.probability


class _Looked:
    """A classifier that keeps what it was asked and where it looked."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self.name, self.sha256, self.description = classifier.name, classifier.sha256, classifier.description
        self._last: tuple[MaskArray, Classification] | None = None

    def classify(self, volume: Volume, mask_zyx: MaskArray) -> Classification | None:
        answer = self._classifier.classify(volume, mask_zyx)
        self._last = None if answer is None else (mask_zyx, answer)
        return answer

    def attention(self, one: Labelled) -> AttentionShare | None:
        """How much of the attention lies on the true haematomas that the one judged overlaps."""
        if self._last is None:
            return None
        mask_zyx, answer = self._last
        crops_zyx = crops_of(one.volume, mask_zyx)
        if crops_zyx is None:
            return None
        meant = np.setdiff1d(one.labels_zyx[mask_zyx > 0], [0])
        return attention_share(
            answer.attention_zyx,
            np.isin(one.labels_zyx, meant),
            crops_zyx=crops_zyx,
            spacing_yx_mm=one.volume.pixel_spacing,
        )


def _untimed(stage: Stage) -> AbstractContextManager[None]:  # noqa: ARG001 - the name is part of Timing
    return nullcontext()


def _through_the_pipeline(one: Labelled, outlined: _Outlined, looked: _Looked | None) -> _Found:
    engines: dict[str, Engine] = {haematoma.MODEL: outlined}
    if looked is not None:
        engines[expansion.MODEL] = looked
    findings = haematoma.PIPELINE.run({haematoma.ROLE: one.volume}, engines, _untimed)
    mask = np.zeros(one.labels_zyx.shape, bool)
    for group in findings.groups:
        if group.segmentation is not None:
            mask |= group.segmentation.mask_zyx > 0
    told = {m.name: m.value for m in findings.measurements}
    return _Found(mask_zyx=mask, volume_ml=told["haematoma_volume"], said=told.get(expansion.MEASUREMENT))


def _figures(one: Labelled, mask: npt.NDArray[np.bool_], *, reported_ml: float | None = None) -> CaseFigures:
    dy, dx = one.volume.pixel_spacing
    return case_figures(
        mask, one.labels_zyx, voxel_ml=one.volume.slice_extents * dy * dx / 1000, key=one.key, patient=one.patient,
        reported_ml=reported_ml,
    )  # fmt: skip


def _line(figures: CaseFigures) -> str:
    dice = "-" if figures.dice is None else f"{figures.dice:.3f}"
    return f"{figures.key}: true {figures.true_ml:.1f} mL, reported {figures.reported_ml:.1f} mL, Dice {dice}"
