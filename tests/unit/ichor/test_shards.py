"""Into which shard a study falls: for ever the same, evenly, and with one shard as it was before there were any."""

from __future__ import annotations

from collections import Counter

from ichor.messages import Envelope
from ichor.shards import WHOLE, Shard, by_topic, shard_of, shards


def test_a_study_lies_in_the_same_shard_on_every_machine_and_in_every_version() -> None:
    found = {uid: shard_of(uid, 8).number for uid in ("1.2.1", "1.2.2", "1.2.840.113619.2.5.1762583153")}
    assert found == {"1.2.1": 0, "1.2.2": 7, "1.2.840.113619.2.5.1762583153": 3}


def test_one_shard_has_everything_under_the_names_of_before() -> None:
    assert shard_of("1.2.3", 1) == WHOLE == Shard()
    assert (WHOLE.topic, WHOLE.group, WHOLE.others) == ("instances", "assembler", ())
    assert WHOLE.has("1.2.3")


def test_every_study_is_of_one_shard_and_none_has_much_more_than_another() -> None:
    uids = [f"1.2.826.0.1.{n}" for n in range(8000)]
    every = shards(8)
    assert all(sum(shard.has(uid) for shard in every) == 1 for uid in uids[:200])
    counts = Counter(shard_of(uid, 8).number for uid in uids)
    assert sorted(counts) == list(range(8))
    assert max(counts.values()) < 1.15 * min(counts.values())


def test_shards_share_no_topic_and_no_group_with_each_other_or_another_division() -> None:
    every = [shard for count in (1, 2, 8, 16) for shard in shards(count)]
    assert len({shard.topic for shard in every}) == len({shard.group for shard in every}) == len(every)
    assert shards(2)[0].others == (shards(2)[1],)


def test_envelopes_go_to_the_topics_of_their_studies_in_order() -> None:
    told = [
        Envelope(id=f"{n}", source="test", type="ichor.test.v1", time=0.0, subject=f"1.2.{1 + n % 2}")
        for n in range(6)
    ]  # fmt: skip
    assert {topic: [e.id for e in some] for topic, some in by_topic(told, 4).items()} == {
        "instances.0-of-4": ["0", "2", "4"],
        "instances.3-of-4": ["1", "3", "5"],
    }
    assert by_topic(told, 1) == {"instances": told}
    assert by_topic([], 4) == {}
