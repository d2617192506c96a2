"""One study, time moved by hand: which grade when, which job when, what reopens it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from contract.arrivals import make_slice
from contract.series_kinds import Where, enhanced_several, enhanced_volumes, perfusion

from ichor.messages import AssociationClosed, ContentAnnounced
from ichor.pipeline import PipelineSpec
from ichor.reasons import Reason
from ichor.series.evidence import DEFAULT_QUIET, LONGEST_QUIET, SETTLE, Sender
from ichor.types import Findings, Grade, Instance, Job, Kind, Manifest, ManifestRef, Priority, Slot
from listener.study import Step, StudyAssembly
from listener.view import identities_of, newest_identity, view_of

WAIT = 10.0


def _never(*_: object) -> Findings:
    raise AssertionError("nothing runs here")


PIPELINE = PipelineSpec(name="haematoma", version="1", requires=("ncct_head",), run=_never)


class Play:
    """A study with a clock of its own; keeps every job and manifest."""

    def __init__(self, senders: dict[str, Sender] | None = None) -> None:
        self.now = 1000.0
        self.senders = {} if senders is None else senders
        self.study = StudyAssembly(uid="1.2.3", pipelines=(PIPELINE,), study_wait=WAIT, senders=self.senders)
        self.jobs: list[Job] = []
        self.manifests: list[Manifest] = []
        self.steps: list[Step] = []

    def bring(self, instances: Iterable[Instance], association: str = "a1", each: float = 0.01) -> None:
        for instance in instances:
            self.now += each
            self.study.receive(
                [replace(instance, received_at=self.now, association=association)],
                association=association,
                now=self.now,
            )
            self.look()

    def release(self, association: str = "a1", *, released: bool = True, **counts: int) -> None:
        stored = {uid: len(series.members) for uid, series in self.study.series.items()}
        stored.update({uid.replace("_", "."): n for uid, n in counts.items()})
        self.study.close(
            AssociationClosed(
                study_instance_uid="1.2.3", association=association, released=released, calling_ae="CT1",
                counts=stored, closed_at=self.now,
            )
        )  # fmt: skip
        self.look()

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.study.due) is not None and due <= end:
            self.now = max(self.now, due)
            self.look()
        self.now = end
        self.look()

    def look(self) -> None:
        step = self.study.look(self.now, put_manifest=self._put)
        self.steps.append(step)
        self.jobs += step.jobs

    def _put(self, manifest: Manifest) -> ManifestRef:
        self.manifests.append(manifest)
        uid = manifest.series_instance_uid
        return ManifestRef(key=uid, sha256=str(len(self.manifests)), series_instance_uid=uid,
                           instances=len(manifest.instances))  # fmt: skip

    def grade(self, series: str = "1.2.3.1") -> Grade:
        return self.study.series[series].grade

    def announce(self, *uids: str, unknown: int = 0) -> None:
        self.study.announce(
            ContentAnnounced(
                study_instance_uid="1.2.3", association="c1", calling_ae="CT1", sop_instance_uids=uids, unknown=unknown
            )
        )
        self.look()


def head(count: int = 12, **how: object) -> list[Instance]:
    return [make_slice(number=n + 1, **how) for n in range(count)]  # type: ignore[arg-type]


PROVEN = {"CT1": Sender(series=30, counts_right=5)}


def test_regular_at_release_gives_the_job_at_once() -> None:
    play = Play()
    play.bring(head())
    assert play.grade() is Grade.OPEN
    play.release()
    assert play.grade() is Grade.REGULAR
    (job,) = play.jobs
    assert job.queued_at == play.now
    assert job.inputs["ncct_head"].instances == 12
    assert (job.revision, job.refusal) == (1, None)


def test_a_count_from_a_proven_sender_starts_the_job_at_once_and_is_counted_by_the_release() -> None:
    play = Play(dict(PROVEN))
    play.bring(make_slice(number=n + 1, count=12) for n in range(12))
    play.wait(0.02)
    assert play.grade() is Grade.QUIET
    assert play.study.receiving
    assert len(play.jobs) == 1
    play.release()
    assert play.grade() is Grade.COUNTED
    assert len(play.jobs) == 1


def test_what_is_told_once_more_as_its_receiver_was_lost_changes_nothing() -> None:
    play = Play()
    play.bring(head())
    play.release()
    play.bring(head(), "recovered")
    play.release("recovered", released=False)
    play.wait(2 * LONGEST_QUIET)
    assert play.grade() is Grade.REGULAR
    assert len(play.jobs) == 1
    assert view_of(play.study, now=play.now).open is False


def test_a_cut_off_series_is_counted_only_after_the_longest_quiet_time() -> None:
    play = Play(dict(PROVEN))
    play.bring(make_slice(number=n + 1, count=12) for n in range(12))
    play.release(released=False)
    play.wait(LONGEST_QUIET - 1)
    assert play.grade() is Grade.QUIET
    play.wait(2.0)
    assert play.grade() is Grade.COUNTED


def test_doubts_of_a_sender_delay_a_right_count_and_do_not_withhold_it() -> None:
    doubted = Sender(series=30, counts_right=5, counts_wrong=4, several=3, parts=2)
    play = Play({"CT1": doubted})
    play.bring(make_slice(number=n + 1, count=12) for n in range(12))
    play.wait(SETTLE + 0.1)
    assert play.grade() is Grade.OPEN
    play.release()
    assert play.grade() is Grade.COUNTED
    splitting = Play({"CT1": replace(doubted, splits=1)})
    splitting.bring(make_slice(number=n + 1, count=12) for n in range(12))
    splitting.release()
    splitting.wait(LONGEST_QUIET - 1)
    assert splitting.grade() is Grade.QUIET
    splitting.wait(2.0)
    assert splitting.grade() is Grade.COUNTED


def test_a_count_from_an_unknown_sender_starts_the_job_at_release_or_after_a_while() -> None:
    released, silent = Play(), Play()
    for play in (released, silent):
        play.bring(make_slice(number=n + 1, count=12) for n in range(12))
        assert play.grade() is Grade.OPEN
    released.release()
    assert released.grade() is Grade.COUNTED
    silent.wait(SETTLE)
    assert silent.grade() is Grade.QUIET


def test_one_acquisition_of_two_is_not_counted_while_the_other_comes() -> None:
    play = Play()
    first = [make_slice(number=n + 1, count=6, acquisition=1) for n in range(6)]
    second = [make_slice(number=n + 7, count=6, acquisition=2) for n in range(6)]
    play.bring(first)
    play.wait(0.5)
    assert play.grade() is Grade.OPEN
    play.bring(second)
    play.release()
    assert play.grade() is Grade.COUNTED
    # What was learned: the next series of this sender is not believed at its first acquisition.
    again = Play(play.senders)
    again.bring(first)
    again.wait(SETTLE + 1)
    assert again.grade() is Grade.OPEN


def test_work_on_a_false_count_is_amended_and_the_sender_distrusted() -> None:
    play = Play(dict(PROVEN))
    play.bring(make_slice(number=n + 1, count=6) for n in range(6))
    play.wait(1.0)
    assert play.grade() is Grade.QUIET
    play.bring(make_slice(number=n + 7, count=6) for n in range(6))
    play.release()
    assert play.grade() is Grade.OPEN
    assert play.senders["CT1"].doubts_counts
    play.wait(play.senders["CT1"].quiet)
    assert play.grade() is Grade.QUIET
    assert [job.revision for job in play.jobs] == [1, 2]
    assert play.jobs[-1].inputs["ncct_head"].instances == 12
    again = Play(play.senders)
    again.bring(make_slice(number=n + 1, count=6) for n in range(6))
    again.wait(2.0)
    assert again.grade() is Grade.OPEN


def test_a_series_below_its_count_is_short_and_names_what_is_missing() -> None:
    play = Play()
    play.bring(s for s in [make_slice(number=n + 1, count=12) for n in range(12)] if s.instance_number != 5)
    play.release()
    assert play.grade() is Grade.OPEN
    play.wait(DEFAULT_QUIET)
    assert play.grade() is Grade.SHORT
    (job,) = play.jobs
    assert job.refusal == f"{Reason.SHORT}: 11 of 12 images, missing at 25.0 mm along the normal"
    assert job.inputs == {}
    assert job.sources[0].instances == 11


def test_a_gap_without_a_count_is_short_after_the_quiet_time() -> None:
    play = Play()
    play.bring(s for s in head() if s.instance_number != 5)
    play.release()
    assert (play.grade(), play.jobs) == (Grade.OPEN, [])
    play.wait(DEFAULT_QUIET)
    assert play.grade() is Grade.SHORT
    assert play.jobs[0].refusal is not None
    assert "25.0" in play.jobs[0].refusal


def test_a_hole_that_the_count_agrees_with_is_analysed_and_named() -> None:
    play = Play()
    slices = [replace(s, counts=(("ImagesInAcquisition", 11),)) for s in head() if s.instance_number != 5]
    play.bring(slices)
    play.release()
    play.wait(DEFAULT_QUIET)
    assert play.grade() is Grade.QUIET
    assert play.manifests[-1].notes == ("gap of 10.0 mm between the slices at 20.0 and 30.0 mm",)
    said = {e.what: e.detail for e in play.study.series["1.2.3.1"].decision.evidence}
    assert ("missing" in said, said["gap"]) == (False, "at 25.0 mm along the normal")


def test_a_late_slice_reopens_and_amends() -> None:
    play = Play()
    slices = head()
    play.bring(slices[:-1])
    play.release()
    assert play.jobs[0].inputs["ncct_head"].instances == 11
    play.wait(60)
    play.bring(slices[-1:], "a2")
    assert play.grade() is Grade.OPEN
    assert view_of(play.study, now=play.now).open
    play.release("a2")
    assert play.grade() is Grade.OPEN  # this sender splits series
    play.wait(60)
    assert play.grade() is Grade.QUIET
    assert [j.revision for j in play.jobs] == [1, 2]
    assert play.jobs[1].inputs["ncct_head"].instances == 12
    assert play.study.revision == 2
    assert [g for s in play.steps for g in s.amended] == [Grade.REGULAR]


def test_the_same_message_twice_changes_nothing() -> None:
    play = Play()
    play.bring(head())
    play.release()
    view = view_of(play.study, now=play.now)
    for instance in [m.instance for m in play.study.series["1.2.3.1"].members.values()]:
        play.study.receive([instance], association="a1", now=play.now)
    play.release()
    assert view_of(play.study, now=play.now) == view
    assert len(play.jobs) == 1


def test_an_image_whose_bytes_were_lost_and_came_again_is_read_where_it_lies_now() -> None:
    play = Play()
    images = head()
    play.bring(images[:5])
    again = replace(images[2], location="elsewhere")
    play.bring([again])
    play.bring(images[5:])
    play.study.receive([images[2]], association="a1", now=play.now)  # the first message, repeated
    play.release()
    (manifest,) = play.manifests
    places = {i.sop_instance_uid: i.location for i in manifest.instances}
    assert places == {i.sop_instance_uid: i.location for i in [*images, again]}


def test_after_an_abort_only_silence_or_the_whole_again_completes() -> None:
    play = Play()
    slices = head()
    play.bring(slices[:6])
    play.release(released=False)
    play.bring(slices[6:], "a2")
    play.release("a2", **{"1_2_3_1": 6})
    assert play.grade() is Grade.OPEN
    play.wait(DEFAULT_QUIET)
    assert play.grade() is Grade.QUIET
    assert play.senders["CT1"].splits == 0
    whole = Play()
    whole.bring(slices[:6])
    whole.release(released=False)
    whole.bring(slices[6:], "a2")
    whole.release("a2", **{"1_2_3_1": 12})
    assert whole.grade() is Grade.REGULAR


def test_an_open_series_that_could_be_better_is_waited_for_and_no_longer_than_study_wait() -> None:
    better = [make_slice(series="1.2.3.2", number=n + 1, association="a2") for n in range(30)]
    play = Play(dict(PROVEN))
    play.bring(better[:5], "a2")
    play.bring([make_slice(number=n + 1, count=12) for n in range(12)], "a1")
    play.wait(0.1)
    assert play.grade() is Grade.QUIET
    assert play.jobs == []
    decided = play.study.series["1.2.3.1"].decided_at
    for number in range(5, 24):
        play.bring(better[number : number + 1], "a2", each=0.5)
    play.wait(1)
    assert [j.queued_at for j in play.jobs] == [pytest.approx(decided + WAIT, abs=0.5)]
    assert play.jobs[0].inputs["ncct_head"].series_instance_uid == "1.2.3.1"
    play.bring(better[24:], "a2")
    play.release("a2")
    assert play.jobs[-1].inputs["ncct_head"].series_instance_uid == "1.2.3.2"
    assert play.jobs[-1].revision == 2


@pytest.mark.parametrize("change", [{"kernel": "H70h"}, {"slot": Slot(kind=Kind.LOCALIZER)}, {"kernel": None}])
def test_an_open_series_that_cannot_be_better_delays_nothing(change: dict[str, object]) -> None:
    play = Play(dict(PROVEN))
    play.bring([make_slice(series="1.2.3.2", number=n + 1, **change) for n in range(5)], "a2")  # type: ignore[arg-type]
    play.bring([make_slice(number=n + 1, count=12) for n in range(12)], "a1")
    play.wait(0.05)
    assert len(play.jobs) == 1


def test_a_corrected_name_gives_a_new_job_once_all_headers_are_corrected() -> None:
    play = Play()
    play.bring(head())
    play.release()
    old = newest_identity(play.study)
    corrected = head(identity="corrected")
    play.bring(corrected[:6], "a2")
    assert len(play.jobs) == 1
    assert newest_identity(play.study) == "corrected" != old
    play.bring(corrected[6:], "a2")
    assert [j.revision for j in play.jobs] == [1, 2]
    assert {i.identity_sha256 for i in play.manifests[-1].instances} == {"corrected"}
    assert play.grade() is Grade.REGULAR
    play.release("a2")
    play.wait(60)
    assert len(play.jobs) == 2


def test_an_unreadable_object_is_no_second_patient_and_no_other_identity() -> None:
    play = Play()
    plain = make_slice(number=13)
    unread = replace(
        plain, identity_sha256="", patient_sha256="0" * 64, geometry=None, pixels=None, defect=Reason.CUT_SHORT
    )
    play.bring([*head(), unread])
    play.release()
    play.wait(60)
    assert play.study.series["1.2.3.1"].identities == ("i",)
    assert newest_identity(play.study) == "i"
    assert [j.refusal for j in play.jobs] == [Reason.CUT_SHORT]
    play.bring(head(identity="corrected"), "a2")
    assert not play.study.series["1.2.3.1"].mixed
    assert newest_identity(play.study) == "corrected"


def test_a_redelivered_old_header_does_not_win() -> None:
    play = Play()
    play.bring(head())
    play.release()
    old = [m.instance for m in play.study.series["1.2.3.1"].members.values()]
    play.bring(head(identity="corrected"), "a2")
    play.study.receive(old, association="a1", now=play.now)
    play.look()
    assert newest_identity(play.study) == "corrected"
    assert len(play.jobs) == 2


def test_other_pixels_under_one_uid_are_not_analysed() -> None:
    play = Play()
    slices = head()
    play.bring(slices)
    play.bring([replace(slices[3], file_sha256="other", content_sha256="other")])
    play.release()
    (job,) = play.jobs
    assert job.refusal == Reason.DUPLICATE_OTHER_BYTES
    assert job.sources[0].instances == 12


def test_two_patients_are_not_analysed_and_told_once() -> None:
    play = Play()
    play.bring(head()[:6])
    play.bring([replace(s, patient_sha256="7" * 32 + "0" * 32) for s in head()[6:]])
    play.release()
    play.wait(30)
    (job,) = play.jobs
    assert job.refusal == Reason.TWO_PATIENTS


def test_what_is_said_of_two_patients_goes_out_under_no_identity() -> None:
    play = Play()
    one, other = "a" * 64, "b" * 64
    play.bring(replace(s, identity_sha256=one) for s in head()[:6])
    play.bring(replace(s, patient_sha256="7" * 32 + "0" * 32, identity_sha256=other) for s in head()[6:])
    play.release()
    play.wait(30)
    (job,) = play.jobs
    assert identities_of(play.study) == {job.job_id: ()}
    # The other patient's images are taken back under the first one's name: what is made then may go out.
    play.bring(replace(s, identity_sha256=one, file_sha256=f"new-{n}") for n, s in enumerate(head()[6:]))
    play.wait(30)
    assert play.jobs[-1] is not job
    assert play.jobs[-1].refusal is None
    assert identities_of(play.study)[play.jobs[-1].job_id] == (one,)


def test_a_missing_patient_id_or_issuer_contradicts_nobody() -> None:
    play = Play()
    slices = head()
    whose = slices[0].patient_sha256
    slices[1] = replace(slices[1], patient_sha256="0" * 64)
    slices[2] = replace(slices[2], patient_sha256=whose[:32] + "8" * 32)
    play.bring(slices)
    play.release()
    assert play.jobs[0].refusal is None
    play.bring([replace(make_slice(number=99), patient_sha256=whose[:32] + "9" * 32)], "a2")
    play.release("a2")
    play.wait(60)
    assert play.jobs[-1].refusal == Reason.TWO_PATIENTS


def test_one_lossy_series_is_refused_when_nothing_else_can_come() -> None:
    play = Play()
    slices = [replace(s, pixels=replace(s.pixels, lossy=True), defect=Reason.LOSSY) for s in head() if s.pixels]
    play.bring(slices)
    assert play.jobs == []
    play.release()
    assert play.jobs[0].refusal == Reason.LOSSY


def test_our_own_objects_start_nothing_and_reopen_nothing() -> None:
    play = Play()
    play.bring(head())
    play.release()
    view = view_of(play.study, now=play.now)
    ours = make_slice(series="1.2.3.7", number=1, made_by_ichor=True)
    play.bring([ours], "a9")
    play.release("a9", **{"1_2_3_7": 1})
    assert replace(view_of(play.study, now=play.now), at=view.at) == view
    empty = Play()
    empty.bring([ours])
    assert empty.study.series == {}


def test_without_a_candidate_the_reason_says_what_there_was() -> None:
    play = Play()
    play.bring(make_slice(number=n + 1, kernel="H70h") for n in range(8))
    play.bring([make_slice(series="1.2.3.2", number=1, slot=Slot(kind=Kind.LOCALIZER))])
    play.release()
    view = view_of(play.study, now=play.now)
    assert (view.open, view.jobs) == (False, ())
    assert view.reason == "no pipeline applies: bone kernel, a localizer"


def test_the_most_urgent_object_gives_the_priority() -> None:
    play = Play()
    slices = head()
    play.bring([slices[0], replace(slices[1], priority=Priority.STAT), replace(slices[2], priority=Priority.LOW)])
    play.bring(slices[3:])
    play.release()
    assert play.jobs[0].priority is Priority.STAT


def test_quiet_time_is_learned_from_pauses_within_series() -> None:
    sender = Sender(series=40)
    assert sender.quiet < DEFAULT_QUIET
    assert sender.after_pause(12.0).quiet == pytest.approx(18.0)
    assert sender.after_pause(3600.0).quiet == sender.quiet


def uids(slices: Iterable[Instance]) -> list[str]:
    return [s.sop_instance_uid for s in slices]


def test_what_a_sender_asks_to_commit_is_a_count_once_nothing_follows() -> None:
    play = Play()
    play.bring(head())
    play.announce(*uids(head()))
    assert play.grade() is Grade.OPEN  # it may ask for what it has sent so far
    play.wait(DEFAULT_QUIET)
    assert play.grade() is Grade.COUNTED
    (said,) = [e for e in play.study.series["1.2.3.1"].decision.evidence if e.what == "announced"]
    assert said.detail == "the sender asked to commit 12 of 12 images here"


def test_a_regular_series_is_counted_later_and_gives_no_second_job() -> None:
    play = Play()
    play.bring(head())
    play.release()
    assert play.grade() is Grade.REGULAR
    play.announce(*uids(head()))
    play.wait(DEFAULT_QUIET)
    assert play.grade() is Grade.COUNTED
    assert len(play.jobs) == 1


def test_announced_objects_that_never_come_make_the_only_series_short() -> None:
    play = Play()
    play.bring(head()[:-1])
    play.announce(*uids(head()[:-1]), unknown=1)
    play.release()
    assert play.grade() is Grade.OPEN
    play.wait(DEFAULT_QUIET)
    assert play.grade() is Grade.SHORT
    assert play.jobs[-1].refusal is not None
    assert "1 of the objects that the sender announced" in play.jobs[-1].refusal


def test_a_sender_that_asks_part_by_part_is_not_believed_again() -> None:
    play = Play()
    play.bring(head()[:6])
    play.announce(*uids(head()[:6]))
    play.bring(head()[6:])
    play.release()
    assert play.senders["CT1"].announced_wrong == 1
    again = Play(play.senders)
    again.bring(head()[:6])
    again.announce(*uids(head()[:6]))
    again.wait(60)
    assert again.grade() is Grade.QUIET


class CountedUid(str):
    """A UID that counts how often it is looked up, or walked into a set."""

    __slots__ = ()
    looked_up = 0

    def __hash__(self) -> int:
        CountedUid.looked_up += 1
        return super().__hash__()


def look_ups(images: int, *, unknown: int) -> int:
    """By a sender that opens an association for each image and asks to commit after each."""
    play = Play()
    CountedUid.looked_up = 0
    for n in range(images):
        image = make_slice(number=n + 1)
        image = replace(image, sop_instance_uid=CountedUid(image.sop_instance_uid))
        play.bring([image], association=f"a{n}")
        play.release(f"a{n}")
        play.announce(image.sop_instance_uid, unknown=unknown)
    assert play.study.series["1.2.3.1"].split
    return CountedUid.looked_up


@pytest.mark.parametrize("unknown", [0, 1])
def test_a_request_to_commit_after_each_image_costs_each_image_the_same(unknown: int) -> None:
    few, many = look_ups(100, unknown=unknown), look_ups(300, unknown=unknown)
    assert few >= 100
    assert many <= 3.3 * few


def test_what_is_announced_is_counted_by_series_as_images_come_and_move() -> None:
    play = Play()
    images = head(6) + [replace(i, series_instance_uid="1.2.3.2", sop_instance_uid=f"1.2.9.{n}")
                        for n, i in enumerate(head(4))]  # fmt: skip
    known = [i.sop_instance_uid for i in images]
    announced = play.study.announced
    play.bring(images[:3])
    play.announce(*known[:2], *known[6:8], "1.2.99", unknown=2)
    play.bring(images[3:])

    def here() -> tuple[int, int, int]:
        first = announced.of("1.2.3.1", images_of_study=len(play.study.home), alone=False)
        second = announced.of("1.2.3.2", images_of_study=len(play.study.home), alone=False)
        assert first is not None
        assert second is not None
        assert first.absent == second.absent
        return first.here, second.here, first.absent

    # Of 6 images that nobody named 2 may be those that were unknown: only 1.2.99 is absent.
    assert here() == (2, 2, 1)
    moved = replace(images[0], series_instance_uid="1.2.3.2", file_sha256="moved", received_at=play.now + 1)
    play.study.receive([moved], association="a1", now=play.now + 1)
    assert here() == (1, 3, 1)
    play.announce(*known, "1.2.99")
    assert here() == (5, 5, 1)
    assert not announced.names_all("1.2.3.1", images=6)
    assert announced.names_all("1.2.3.1", images=5)


def test_a_time_series_with_empty_slots_is_short_and_names_them() -> None:
    play = Play()
    images = perfusion(np.random.default_rng(3), Where("1.2.3", "1.2.3.1", "CT1"), "none").images
    lost = images[len(images) // 2]
    play.bring(i for i in images if i is not lost)
    play.release()
    play.wait(DEFAULT_QUIET)
    assert play.grade() is Grade.SHORT
    assert lost.geometry is not None
    assert lost.geometry.position_lps is not None
    decision = play.study.series["1.2.3.1"].decision
    assert decision.reason is not None
    assert f"slice at {lost.geometry.position_lps[2]:.1f} mm of time {lost.temporal_position} of" in decision.reason
    assert any(e.what == "missing" for e in decision.evidence)


def test_an_empty_slot_makes_a_series_short_whatever_its_count_says() -> None:
    (image,) = enhanced_volumes(np.random.default_rng(3), Where("1.2.3", "1.2.3.1", "CT1"), "none").images
    assert image.pixels is not None
    frames = image.frames[:4] + image.frames[5:]
    play = Play()
    play.bring([replace(image, frames=frames, pixels=replace(image.pixels, frames=len(frames)))])
    play.release()
    play.wait(DEFAULT_QUIET)
    assert play.grade() is Grade.SHORT
    assert play.study.series["1.2.3.1"].decision.reason == "missing slice at 16.0 mm of time 1 of " + str(
        len(image.frames) // len({f.geometry.position_lps for f in image.frames})
    )


def test_images_of_another_series_complete_a_count_only_where_they_state_it_too() -> None:
    for stated, short in ((4, True), (9, False)):
        play = Play()
        play.bring(make_slice(number=n + 1, count=9) for n in range(5))
        play.bring(make_slice(series="1.2.3.2", number=n + 1, count=stated) for n in range(4))
        play.release()
        play.wait(DEFAULT_QUIET)
        assert (play.grade() is Grade.SHORT) == short


def test_the_first_of_several_enhanced_objects_is_not_counted() -> None:
    images = enhanced_several(np.random.default_rng(3), Where("1.2.3", "1.2.3.1", "CT1"), "none").images
    play = Play()
    play.bring(images[:1])
    play.wait(SETTLE + 1)
    assert play.grade() is Grade.OPEN
    play.bring(images[1:])
    play.release()
    assert play.grade() is Grade.REGULAR
    assert play.senders["CT1"].several_objects == 1


def test_one_object_of_several_volumes_is_counted_when_it_is_released() -> None:
    images = enhanced_volumes(np.random.default_rng(3), Where("1.2.3", "1.2.3.1", "CT1"), "none").images
    play = Play()
    play.bring(images)
    assert play.grade() is Grade.OPEN
    play.release()
    assert play.grade() is Grade.COUNTED


def test_a_split_is_forgiven_after_many_whole_series() -> None:
    sender = Sender().after_split()
    assert sender.splits_series
    for _ in range(200):
        sender = sender.after_series()
    assert not sender.splits_series
    assert sender.after_split().splits_series


def test_receivers_clocks_decide_nothing() -> None:
    grades = []
    for skew in (0.0, 7200.0, -7200.0):
        play = Play()
        for n, image in enumerate(head()):
            at = play.now + (skew if n % 2 else 0.0)
            play.study.receive([replace(image, received_at=at)], association="a1", now=play.now)
            play.now += 0.01
            play.look()
        play.release()
        grades.append((play.grade(), play.study.series["1.2.3.1"].decided_at))
    assert grades[0] == grades[1] == grades[2]
    assert grades[0][0] is Grade.REGULAR
