"""One study as it is assembled: messages in, decisions and jobs out. Pure: time comes in, nothing is read or written.

What it needs of the world are a function and a mapping: ``put_manifest`` for the claim checks in a job, and what was
learned of each sender. `listener.assembler` gives it both and keeps it on disk.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field, replace

from ichor.messages import AssociationClosed, ContentAnnounced
from ichor.pipeline import PipelineSpec
from ichor.reasons import Reason
from ichor.series.evidence import Announced, Sender
from ichor.series.manifest import build_manifest
from ichor.series.rules import RULES, Rule
from ichor.types import Earlier, Grade, Instance, Job, Manifest, ManifestRef, Priority, Scan
from ichor.uids import content_digest, job_id_of
from listener import lessons
from listener.announced import AnnouncedObjects
from listener.scans import before, scan_of
from listener.series_state import Associations, Member, SeriesState, contradict

PutManifest = Callable[[Manifest], ManifestRef]
ScansBefore = Callable[[Scan, float], Sequence[Scan]]  # of the same patient, at most so many hours
_NOBODY = "0" * 32
_MOST_SOURCES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one look at the study brought. ``decided`` and ``amended`` name series grades, for the metrics."""

    jobs: tuple[Job, ...] = ()
    decided: tuple[Grade, ...] = ()
    amended: tuple[Grade, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What should be done for a pipeline now: inputs by role, or a refusal with the series it is about."""

    inputs: tuple[tuple[str, SeriesState], ...] = ()
    refusal: str | None = None
    sources: tuple[SeriesState, ...] = ()

    @property
    def series(self) -> tuple[SeriesState, ...]:
        return tuple(series for _, series in self.inputs) + self.sources

    def key(self, earlier: str | None = None) -> str:
        """The same for two wishes that need no second job: content, identity, what a report must name."""
        if self.refusal == Reason.TWO_PATIENTS:
            # Said once, however many more images of either come.
            return json.dumps([self.refusal])
        about = [
            (series.uid, content_digest(series.instances), series.identities, series.decision.notes)
            for series in self.series
        ]
        return json.dumps([self.refusal, [role for role, _ in self.inputs], about, *([earlier] if earlier else [])])


@dataclass(slots=True)
class StudyAssembly:
    """The assembler's mind on one study.

    Call `receive` or `close` with each message, then `look`; call `look` again at `due`.
    """

    uid: str
    pipelines: Sequence[PipelineSpec]
    study_wait: float
    senders: MutableMapping[str, Sender]
    learns: bool = True  # False: series leave ``senders`` as they are
    rules: Sequence[Rule] = RULES
    series: dict[str, SeriesState] = field(default_factory=dict)
    associations: Associations = field(default_factory=Associations)
    home: dict[str, str] = field(default_factory=dict)  # SOP Instance UID -> Series Instance UID
    patients: Counter[str] = field(default_factory=Counter)
    revision: int = 1
    settled: bool = False
    jobs: list[Job] = field(default_factory=list)
    published: dict[str, str] = field(default_factory=dict)  # pipeline -> key of what its last job was about
    changed: set[str] = field(default_factory=set)  # SOP Instance UIDs to be written
    announced: AnnouncedObjects = field(default_factory=AnnouncedObjects)
    scans_before: ScansBefore = lambda *_: ()
    scans: dict[str, Scan] = field(default_factory=dict)  # pipeline -> what other studies may compare with
    moved: dict[str, tuple[Scan | None, Scan | None]] = field(
        default_factory=dict
    )  # pipeline -> its scan, before and now
    _amended: list[Grade] = field(default_factory=list)
    _waits: list[float] = field(default_factory=list)
    _replan: bool = True  # something happened that jobs may depend on
    _to_judge: set[str] = field(default_factory=set)  # decided series whose facts changed

    # --- messages ---------------------------------------------------------------------------------------------------

    def receive(self, instances: Iterable[Instance], *, association: str, now: float) -> None:
        """Take in facts. Taking the same facts in again changes nothing."""
        for instance in instances:
            # What Ichor made starts nothing, reopens nothing and keeps nothing waiting.
            if not instance.made_by_ichor:
                self._take(instance, association=association, now=now)

    def close(self, message: AssociationClosed) -> None:
        """An association ended. One that brought nothing of this study but Ichor's own objects is not ours."""
        ours = {uid: count for uid, count in message.counts.items() if uid in self.series}
        if message.association not in self.associations:
            if not ours:
                return
            self.associations.begin(message.association, message.calling_ae)
        self.associations.end(message.association, released=message.released, stored=ours)
        self._replan = True
        for uid, series in self.series.items():
            if uid in ours or message.association in series.brought:
                series.stale = True

    def announce(self, message: ContentAnnounced) -> None:
        """A sender asked to commit what it believes to have sent: a count of every series that it names."""
        if not self.series:
            return
        self.announced.announce(message.sop_instance_uids, unknown=message.unknown, home=self.home)
        for series in self.series.values():
            series.stale = True

    def restore(self, member: Member) -> None:
        """Put back an image as it was kept; what was decided is put back by who kept it."""
        instance = member.instance
        series = self._series(instance.series_instance_uid)
        series.put(member)
        for name in member.associations:
            series.brought[name] = series.brought.get(name, 0) + 1
        self._place(instance.sop_instance_uid, series.uid)
        self.patients[instance.patient_sha256] += 1

    def reconsider(self) -> None:
        """Another study of the patient has changed: the next look plans its jobs anew."""
        self._replan = True

    def _series(self, uid: str) -> SeriesState:
        found = self.series.get(uid)
        if found is None:
            found = self.series[uid] = SeriesState(uid=uid, rules=self.rules)
        return found

    def _take(self, instance: Instance, *, association: str, now: float) -> None:
        self.associations.begin(association, instance.calling_ae)
        uid = instance.sop_instance_uid
        home = self.home.get(uid)
        if home is None:
            self._add(instance, association=association, now=now)
            return
        series = self.series[home]
        member = series.members[uid]
        if association not in member.associations:
            member.associations.add(association)
            series.brought[association] = series.brought.get(association, 0) + 1
            self.changed.add(uid)
        if instance.file_sha256 in member.files:
            self._follow(series, member, instance)
            return
        member.files.add(instance.file_sha256)
        self.changed.add(uid)
        self._more()
        if instance.content_sha256 != member.instance.content_sha256:
            member.conflict = True
            self._rejudge(series)
        elif instance.received_at >= member.instance.received_at:
            self._correct(series, member, instance, now=now)

    def _add(self, instance: Instance, *, association: str, now: float) -> None:
        series = self._series(instance.series_instance_uid)
        sender = self._sender(instance.calling_ae)
        if series.members:
            sender = lessons.of_way(series, sender, self.associations, association=association, now=now)
        if series.grade.complete:
            self._amended.append(series.grade)
        elif series.grade is Grade.SHORT:
            sender = sender.after_late_images()
        if not series.undecided:
            self._replan = True
        uid = instance.sop_instance_uid
        sender = lessons.of_stranger_to_announcement(series, sender, self.announced, sop_instance_uid=uid)
        series.put(Member(instance, files={instance.file_sha256}, associations={association}))
        series.brought[association] = series.brought.get(association, 0) + 1
        series.last_at = now
        series.reopen()
        self._learn(instance.calling_ae, lessons.of_more(series, sender))
        self._place(uid, series.uid)
        self._replan = self._replan or self.patients[instance.patient_sha256] == 0
        self.patients[instance.patient_sha256] += 1
        self.changed.add(uid)
        self._more()

    def _follow(self, series: SeriesState, member: Member, instance: Instance) -> None:
        """The same bytes, told again: where they lie now, if those that came first were lost (`Journal.take`)."""
        known = member.instance
        if instance.file_sha256 != known.file_sha256 or instance.location == known.location:
            return
        if instance.received_at > known.received_at:
            series.put(replace(member, instance=replace(known, location=instance.location)))
            self.changed.add(known.sop_instance_uid)

    def _correct(self, series: SeriesState, member: Member, instance: Instance, *, now: float) -> None:
        """The same pixels under a new header: the newest identity wins, nothing is computed again."""
        self.patients[member.instance.patient_sha256] -= 1
        self.patients[instance.patient_sha256] += 1
        before = member.instance.identity_sha256
        series.replace_identity(before, instance.identity_sha256)
        if instance.series_instance_uid != series.uid:
            series.remove(instance.sop_instance_uid)
            if not series.members:
                del self.series[series.uid]
            else:
                series.reopen()
            series = self._series(instance.series_instance_uid)
            for name in member.associations:
                series.brought[name] = series.brought.get(name, 0) + 1
            series.reopen()
            series.replace_identity(before, instance.identity_sha256)
            self._place(instance.sop_instance_uid, series.uid)
        series.put(Member(instance, member.files, member.associations, member.conflict, corrected=True))
        series.last_at = now
        self._rejudge(series)

    def _place(self, uid: str, series: str) -> None:
        self.announced.place(uid, series, before=self.home.get(uid))
        self.home[uid] = series

    def _rejudge(self, series: SeriesState) -> None:
        self._replan = True
        self._to_judge.add(series.uid)

    def _more(self) -> None:
        if self.settled:
            self.revision += 1
            self.settled = False

    def _sender(self, calling_ae: str) -> Sender:
        return self.senders.get(calling_ae, Sender())

    def _learn(self, calling_ae: str, sender: Sender) -> None:
        if self.learns:
            self.senders[calling_ae] = sender

    # --- decisions --------------------------------------------------------------------------------------------------

    def look(self, heard: float, *, now: float | None = None, put_manifest: PutManifest) -> Step:
        """Decide what can be decided when all that came until ``heard`` is known, and say which jobs follow.

        ``now``: by the clock, where it is later: there may be messages that were not taken yet.
        """
        decided = [grade for series in self.series.values() if (grade := self._decide(series, heard)) is not None]
        self._judge_again(heard)
        jobs: list[Job] = []
        if self._replan or any(heard >= until for until in self._waits):
            self._replan = False
            self._waits.clear()
            queued_at = heard if now is None else now
            found = (self._job(p, heard, queued_at=queued_at, put_manifest=put_manifest) for p in self.pipelines)
            jobs += (job for job in found if job is not None)
        self.settled = self.settled or not (self.open or self.receiving)
        amended, self._amended = self._amended, []
        return Step(jobs=tuple(jobs), decided=tuple(decided), amended=tuple(amended))

    def _judge_again(self, now: float) -> None:
        """Judge what was corrected; once, not for every image, while a correction is under way."""
        for uid in tuple(self._to_judge):
            series = self.series.get(uid)
            if series is not None and not series.undecided:
                if series.mixed and now < self._settles_at(series):
                    continue
                series.judge()
            self._to_judge.discard(uid)

    @property
    def due(self) -> float | None:
        """When `look` should be called again if no message comes before."""
        times = [t for series in self.series.values() if (t := series.due()) is not None]
        return min((*times, *self._waits), default=None)

    @property
    def receiving(self) -> bool:
        return bool(self.associations.open)

    @property
    def open(self) -> bool:
        """A series is open, or a job waits for something."""
        return bool(self._waits) or any(series.undecided for series in self.series.values())

    def _decide(self, series: SeriesState, now: float) -> Grade | None:
        """Look at one series again if there is reason to; its grade when it was decided just now."""
        due = series.due()
        if series.undecided and (series.stale or (due is not None and now >= due)):
            sender = self._sender(series.sender_ae)
            changed = series.decide(
                self.associations, sender, elsewhere=lambda: self._elsewhere(series), now=now,
                announced=self._announced_of(series),
            )  # fmt: skip
            self._replan = self._replan or changed
            if series.grade is Grade.OPEN:
                return None
            sender = sender.after_series()
            if self._stays_below_its_count(series):
                sender = sender.after_high_count()
            self._learn(series.sender_ae, sender)
            self._learn_at_end(series)
            return series.grade
        if not series.undecided and (series.stale or (due is not None and now >= due)):
            series.stale, series.confirm_at = False, None
            if series.grade in (Grade.REGULAR, Grade.QUIET):
                sender = self._sender(series.sender_ae)
                announced = self._announced_of(series)
                series.confirm(self.associations, sender, now=now, announced=announced)
            self._learn_at_end(series)
        return None

    def _announced_of(self, series: SeriesState) -> Announced | None:
        return self.announced.of(series.uid, images_of_study=len(self.home), alone=len(self.series) == 1)

    def _stays_below_its_count(self, series: SeriesState) -> bool:
        """All was sent, nothing is missing inside, and the count says more; one series of a study speaks for all."""
        if series.grade is not Grade.SHORT or series.tally.claim() is None or series.grid.missing:
            return False
        _, released = self.associations.way_of(series.uid, series.brought, images=len(series.members))
        others = (other for other in self.series.values() if other is not series)
        return released and not any(other.grade is Grade.SHORT for other in others)

    def _learn_at_end(self, series: SeriesState) -> None:
        sending = any(name in series.brought for name in self.associations.open)
        if series.grade.complete and not sending:
            sender = self._sender(series.sender_ae)
            self._learn(series.sender_ae, lessons.of_end(series, sender, announced=self._announced_of(series)))

    def _elsewhere(self, series: SeriesState) -> int:
        """Images of its acquisitions in other series, by whose headers too the count is of both together."""
        acquisitions, claim = series.tally.acquisitions, series.tally.claim()
        stated = claim.expected if claim is not None else None
        others = (other for other in self.series.values() if other is not series)
        return sum(other.tally.images_of(acquisitions, stating=stated) for other in others)

    # --- jobs -------------------------------------------------------------------------------------------------------

    def _job(
        self, pipeline: PipelineSpec, now: float, *, queued_at: float, put_manifest: PutManifest
    ) -> Job | None:  # fmt: skip
        wish = self._wish(pipeline, now)
        if wish is None:
            return None
        scan, earlier, other = self._scan(pipeline, wish)
        key = wish.key(other)
        if self.published.get(pipeline.name) == key:
            self._keep_scan(pipeline, scan)
            return None
        if not self._identity_settled(wish, now):
            # Meanwhile the last job's result is held: should the correction be taken back, it takes another.
            if pipeline.name in self.published:
                self.published[pipeline.name] = ""
            return None
        if any(job.pipeline == pipeline.name and job.revision >= self.revision for job in self.jobs):
            self.revision += 1
        refs = {series.uid: put_manifest(self._manifest(series)) for series in wish.series}
        job = Job(
            job_id=job_id_of(self.uid, pipeline.name, self.revision),
            study_instance_uid=self.uid,
            pipeline=pipeline.name,
            revision=self.revision,
            priority=self.priority,
            inputs={role: refs[series.uid] for role, series in wish.inputs},
            received_at=max(i.received_at for series in wish.series for i in series.instances),
            queued_at=queued_at,
            refusal=wish.refusal,
            sources=tuple(refs[series.uid] for series in wish.sources),
            earlier=earlier,
        )
        self._keep_scan(pipeline, scan and replace(scan, inputs=job.inputs))
        self.published[pipeline.name] = key
        self.jobs.append(job)
        return job

    def _scan(self, pipeline: PipelineSpec, wish: _Wish) -> tuple[Scan | None, Earlier | None, str | None]:
        """What others may compare with, what it is to be compared with itself, and what tells that from another."""
        if not pipeline.follow_up_hours or not wish.inputs:
            return None, None, None
        newest = next((job for job in reversed(self.jobs) if job.pipeline == pipeline.name), None)
        scan = scan_of(
            wish.series[0].instances, study_instance_uid=self.uid, pipeline=pipeline.name, about=wish.key(),
            inputs=newest.inputs if newest else {},
        )  # fmt: skip
        if scan is None:
            return None, None, None
        hours = pipeline.follow_up_hours
        found = before(scan, self.scans_before(scan, hours), hours=hours)
        return scan, *(found or (None, None))

    def _keep_scan(self, pipeline: PipelineSpec, scan: Scan | None) -> None:
        known = self.scans.get(pipeline.name)
        if scan == known:
            return
        self.moved[pipeline.name] = self.moved.get(pipeline.name, (known, None))[0], scan
        if scan is None:
            del self.scans[pipeline.name]
        else:
            self.scans[pipeline.name] = scan

    def _manifest(self, series: SeriesState) -> Manifest:
        return build_manifest(
            series.instances, revision=self.revision, grade=series.grade, notes=series.decision.notes, grid=series.grid
        )

    def _wish(self, pipeline: PipelineSpec, now: float) -> _Wish | None:
        """What the pipeline should do, None while it does not apply or has to wait (then ``_waits`` knows until when)."""
        meant = [s for s in self.series.values() if s.verdict and s.verdict.meant & set(pipeline.requires)]
        if not meant:
            return None
        meant.sort(key=lambda s: (-len(s.members), s.uid))
        if self.two_patients:
            until = max(s.last_at for s in meant) + self.study_wait
            if self.receiving and pipeline.name not in self.published and now < until:
                self._waits.append(until)
                return None
            return _Wish(refusal=Reason.TWO_PATIENTS, sources=tuple(meant[:_MOST_SOURCES]))
        chosen: list[tuple[str, SeriesState]] = []
        for role in (*pipeline.requires, *pipeline.uses):
            needed = role in pipeline.requires
            candidates = [s for s in self.series.values() if s.verdict and role in s.verdict.meant]
            best, waits = self._best(candidates, role, now)
            if waits:
                return None
            if best is not None:
                chosen.append((role, best))
            elif needed:
                return self._refusal(candidates, role, now)
        if any(s.conflict for s in meant):
            return _Wish(refusal=Reason.DUPLICATE_OTHER_BYTES, sources=tuple(s for s in meant if s.conflict))
        return _Wish(inputs=tuple(chosen))

    def _best(self, candidates: Sequence[SeriesState], role: str, now: float) -> tuple[SeriesState | None, bool]:
        """The best complete series for a role, and whether something better may still come."""

        def rank(series: SeriesState) -> tuple[tuple[float, ...], str]:
            assert series.verdict is not None
            return tuple(series.verdict.rank[role]), series.uid

        complete = [s for s in candidates if s.grade.complete and s.verdict and role in s.verdict.roles]
        coming = [s for s in candidates if s.undecided]
        if not complete:
            return None, bool(coming)
        best = min(complete, key=rank)
        until = best.decided_at + self.study_wait
        if any(rank(s)[0] <= rank(best)[0] for s in coming) and now < until:
            self._waits.append(until)
            return best, True
        return best, False

    def _refusal(self, candidates: Sequence[SeriesState], role: str, now: float) -> _Wish | None:
        """Every candidate is decided and none can be used: say why, unless the next image may change it."""
        refused = [(s, why) for s in candidates if (why := s.refusal(role)) is not None]
        if not refused:
            return None
        until = max(s.decided_at for s, _ in refused) + self.study_wait
        if self.receiving and now < until:
            self._waits.append(until)
            return None
        refused.sort(key=lambda pair: (-len(pair[0].members), pair[0].uid))
        return _Wish(refusal=refused[0][1], sources=tuple(s for s, _ in refused[:_MOST_SOURCES]))

    @property
    def two_patients(self) -> bool:
        """Two Patient IDs, or one from two issuers. An object without a Patient ID contradicts nobody."""
        known = [digest for digest, images in self.patients.items() if images > 0 and len(digest) == 64]
        issuers: dict[str, set[str]] = {}
        for digest in known:
            if digest[:32] != _NOBODY:
                issuers.setdefault(digest[:32], set()).add(digest[32:])
        return len(issuers) > 1 or any(len(found - {_NOBODY}) > 1 for found in issuers.values())

    def _identity_settled(self, wish: _Wish, now: float) -> bool:
        """False while headers contradict each other, as while a correction is under way: half a name is nobody's.

        After the sender's quiet time the job is made all the same, so that the state shows; its result is held.
        """
        mixed = list(wish.series) if contradict(wish.series) else []
        if wish.refusal == Reason.TWO_PATIENTS:
            mixed = [s for s in self.series.values() if any(m.corrected for m in s.members.values())]
        until = max((self._settles_at(s) for s in mixed), default=now)
        if now >= until:
            return True
        self._waits.append(until)
        return False

    def _settles_at(self, series: SeriesState) -> float:
        return series.last_at + self._sender(series.sender_ae).quiet

    @property
    def priority(self) -> Priority:
        """The most urgent that any of its objects asks for."""
        asked = {m.instance.priority for s in self.series.values() for m in s.members.values() if m.instance.priority}
        return min(asked, key=lambda p: p.rank, default=Priority.ROUTINE)
