"""`ichor facts` and `ichor array`: what Ichor would see in a folder, by the same steps that a received study goes."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ichor.cli.dicom_files import ASSOCIATION, FolderSpool, LeftOut, instances_below
from ichor.cli.series_table import table
from ichor.errors import ConfigError, IchorError, Unreadable
from ichor.messages import AssociationClosed
from ichor.reasons import Reason
from ichor.series.grid import build_grid
from ichor.series.manifest import build_manifest
from ichor.series.nifti import write_nifti
from ichor.series.rules import Rule
from ichor.series.senders import Sender
from ichor.series.summary import SeenSeries, summary
from ichor.series.volume import build_volumes
from ichor.types import Evidence, Grade, Instance, Manifest, ManifestRef, Slot
from listener.series_state import SeriesState
from listener.study import StudyAssembly

# What a folder holds is all there is: one object is the whole series, and no series says anything of another.
_FOLDER = Sender(lone_objects=1)
_CALLING = ASSOCIATION.upper()
_TOLD = 5  # files named for each reason
_MOST_LOOKS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What lies in a folder."""

    series: tuple[SeenSeries, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def unread(self) -> bool:
        """Is there anything of which nobody knows what is in it?"""
        return any(item.unread for item in self.left_out)


def facts(folder: Path, *, as_json: bool, rules: Sequence[Rule]) -> int:
    """Print every series; 0, or 1 when there is no DICOM object, or a file or folder that cannot be read.

    Raises
    ------
    ConfigError
        When there is no such folder.
    """
    seen = look_at(folder, rules=rules)
    summaries = [_summary(series) for series in seen.series]
    if as_json:
        print(json.dumps(summaries, indent=2, allow_nan=False))
    else:
        print(table(summaries), end="")
    _tell(seen.left_out)
    if not summaries:
        return _nothing(folder, unread=seen.unread)
    return int(seen.unread)


def array(folder: Path, *, out: Path, only: str | None, rules: Sequence[Rule]) -> int:
    """Write every whole series as NIfTI, with its JSON beside it; 0 when what was asked for is written, else 1.

    Without ``only``, series that are no images, or cannot be an array, are named and change nothing about the answer;
    one that fails unexpectedly is named, too, and so is a file or folder that cannot be read, and the answer is 1.

    Raises
    ------
    ConfigError
        When there is no such folder.
    IchorError
        When ``out`` cannot be written.
    """
    seen = look_at(folder, rules=rules)
    _tell(seen.left_out)
    chosen = [s for s in seen.series if only in (None, s.series_instance_uid)]
    if not chosen:
        if only is None or not seen.series:
            return _nothing(folder, unread=seen.unread)
        print(f"ichor array: no series {only} below {folder}", file=sys.stderr)
        return 1
    spool = FolderSpool(folder if folder.is_dir() else folder.parent)
    written: set[str] = set()
    failed = seen.unread
    for series in chosen:
        uid = series.series_instance_uid
        try:
            if uid in written:
                raise Unreadable("another study has a series of this UID")
            made = _write(series, spool=spool, out=out)
        except Unreadable as error:
            print(f"{uid}: not written: {error.reason}", file=sys.stderr)
            failed |= series.failed
            continue
        except IchorError:
            raise
        except Exception as error:  # noqa: BLE001 - the loop's edge: one series of a stranger never stops the others
            print(f"{uid}: not written: {_unexpected(error)}", file=sys.stderr)
            failed = True
            continue
        written.add(uid)
        print(f"{uid}: {', '.join(path.name for path in made)}")
    return 0 if written and not failed else 1


def look_at(folder: Path, *, rules: Sequence[Rule]) -> Seen:
    """Every series below a folder, assembled as if one association had brought it all and been released.

    Raises
    ------
    ConfigError
        When there is no such folder.
    """
    if not folder.exists():
        raise ConfigError(f"{folder}: no such folder")
    studies: defaultdict[str, list[Instance]] = defaultdict(list)
    left_out = []
    for found in instances_below(folder):
        if isinstance(found, LeftOut):
            left_out.append(found)
        else:
            studies[found.study_instance_uid].append(found)
    series = [s for uid, instances in studies.items() for s in _assembled_or_named(uid, instances, rules=rules)]
    return Seen(series=tuple(series), left_out=tuple(left_out))


def _assembled_or_named(study_uid: str, instances: Sequence[Instance], *, rules: Sequence[Rule]) -> list[SeenSeries]:
    """A study; where that fails, a series that fails by itself is named, and the others are assembled without it."""
    try:
        return _assembled(study_uid, instances, rules=rules)
    except Exception:  # noqa: BLE001 - looked into below
        by_series: defaultdict[str, list[Instance]] = defaultdict(list)
        for instance in instances:
            by_series[instance.series_instance_uid].append(instance)
    alone: list[SeenSeries] = []
    for members in by_series.values():
        try:
            alone += _assembled(study_uid, members, rules=rules)
        except Exception as error:  # noqa: BLE001 - the loop's edge: one series of a stranger never stops the others
            alone.append(_failed(members, error))
    sound = {s.series_instance_uid for s in alone if not s.failed}
    try:
        together = _assembled(study_uid, [i for i in instances if i.series_instance_uid in sound], rules=rules)
    except Exception:  # noqa: BLE001 - then each by itself is what there is
        return alone
    return together + [s for s in alone if s.failed]


def _failed(instances: Sequence[Instance], error: Exception) -> SeenSeries:
    """A series of which no more is told than what cannot fail."""
    reason = _unexpected(error)
    print(f"{instances[0].series_instance_uid}: {reason}", file=sys.stderr)
    bare = [
        replace(i, geometry=None, pixels=None, slot=Slot(kind=i.kind), tiling=None, frames=(), sequence=None)
        for i in instances
    ]
    return SeenSeries(
        series_instance_uid=bare[0].series_instance_uid,
        study_instance_uid=bare[0].study_instance_uid,
        instances=tuple(bare),
        grid=build_grid(()),
        grade=Grade.OPEN,
        evidence=(),
        reason=reason,
        study_refusal=reason,
        verdict=None,
        failed=True,
    )


def _unexpected(error: Exception) -> str:
    # The text of a foreign error may quote a header.
    return f"{Reason.CANNOT_BE_JUDGED}: {type(error).__name__}"


def _summary(series: SeenSeries) -> dict[str, Any]:
    try:
        told = summary(series)
        json.dumps(told, allow_nan=False)
    except Exception as error:  # noqa: BLE001 - the loop's edge: one series of a stranger never stops the others
        return summary(_failed(series.instances, error))
    return told


def _assembled(study_uid: str, instances: Sequence[Instance], *, rules: Sequence[Rule]) -> list[SeenSeries]:
    counts: defaultdict[str, int] = defaultdict(int)
    for instance in instances:
        counts[instance.series_instance_uid] += 1
    study = StudyAssembly(
        uid=study_uid, pipelines=(), study_wait=0.0, senders={_CALLING: _FOLDER}, learns=False, rules=rules
    )  # fmt: skip
    study.receive(instances, association=ASSOCIATION, now=0.0)
    study.close(
        AssociationClosed(
            study_instance_uid=study_uid, association=ASSOCIATION, released=True,
            calling_ae=_CALLING, counts=counts, closed_at=0.0,
        )
    )  # fmt: skip
    # Nothing more will come: let all the time pass that the assembler would wait.
    now, looks = 0.0, 0
    study.look(now, put_manifest=_nowhere)
    while (due := study.due) is not None and looks < _MOST_LOOKS:
        now, looks = max(now, due), looks + 1
        study.look(now, put_manifest=_nowhere)
    made_by_ichor: defaultdict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        if instance.made_by_ichor:
            made_by_ichor[instance.series_instance_uid].append(instance)
    refusal = Reason.TWO_PATIENTS if study.two_patients else None
    return [_seen(state, study_refusal=refusal) for state in study.series.values()] + [
        _ours(made) for uid, made in made_by_ichor.items() if uid not in study.series
    ]


def _seen(state: SeriesState, *, study_refusal: str | None) -> SeenSeries:
    status = state.status()
    return SeenSeries(
        series_instance_uid=state.uid,
        study_instance_uid=state.instances[0].study_instance_uid,
        instances=tuple(state.instances),
        grid=state.grid,
        grade=state.grade,
        evidence=status.evidence,
        reason=study_refusal or status.reason,
        study_refusal=study_refusal,
        notes=state.decision.notes,
        verdict=state.verdict,
        conflict=state.conflict,
    )


def _ours(instances: Sequence[Instance]) -> SeenSeries:
    return SeenSeries(
        series_instance_uid=instances[0].series_instance_uid,
        study_instance_uid=instances[0].study_instance_uid,
        instances=tuple(instances),
        grid=build_grid(instances),
        grade=Grade.REGULAR,
        evidence=(Evidence(what="association", detail="its association is released"),),
        reason=Reason.MADE_BY_ICHOR,
        verdict=None,
    )


def _nowhere(_: Manifest) -> ManifestRef:
    raise AssertionError("no pipeline, no job, no manifest")


def _write(series: SeenSeries, *, spool: FolderSpool, out: Path) -> list[Path]:
    if not series.has_images:
        raise Unreadable(series.reason or Reason.NO_PIXELS)
    if series.array_refusal is not None:
        raise Unreadable(series.array_refusal)
    said = json.dumps(summary(series), indent=2, allow_nan=False) + "\n"
    manifest = build_manifest(
        series.instances, revision=1, grade=series.grade, notes=series.notes, grid=series.grid
    )  # fmt: skip
    volumes = build_volumes(manifest, spool=spool, grid=series.grid)
    try:
        out.mkdir(parents=True, exist_ok=True)
        made = list(write_nifti(volumes, out, stem=series.series_instance_uid))
        beside = out / f"{series.series_instance_uid}.json"
        beside.write_text(said)
    except OSError as error:
        raise IchorError(f"--out {out}: {error.strerror}") from error
    return [*made, beside]


def _tell(left_out: Sequence[LeftOut]) -> None:
    alike: dict[tuple[str, str], list[Path]] = {}
    for item in left_out:
        alike.setdefault((item.noun, item.reason), []).append(item.path)
    for (noun, reason), paths in alike.items():
        files = f"1 {noun}" if len(paths) == 1 else f"{len(paths)} {noun}s"
        named = ", ".join(str(path) for path in paths[:_TOLD]) + (", ..." if len(paths) > _TOLD else "")
        print(f"left out: {files}, {reason}: {named}", file=sys.stderr)


def _nothing(folder: Path, *, unread: bool) -> int:
    print(f"ichor: no DICOM object below {folder}{' that could be read' if unread else ''}", file=sys.stderr)
    return 1
