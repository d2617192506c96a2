"""One outage is one line, in however many words it is told; what a person must mend is another one."""

from __future__ import annotations

import logging

import pytest

from ichor import metrics
from ichor.errors import CannotStart, TransientError
from ichor.outage import Outage


def test_one_outage_is_one_line_and_what_a_person_must_mend_is_another(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="test")
    outage, counted = Outage(logging.getLogger("test"), role="send"), metrics.OUTAGES.labels("send")
    unforeseen = metrics.LOOP_ERRORS.labels("send")
    before, errors_before = counted._value.get(), unforeseen._value.get()
    outage.over()
    errors = (
        TransientError("Kafka at a: KafkaTimeoutError: Unable to bootstrap"),
        TransientError("Kafka at a: KafkaConnectionError: 111"),
        CannotStart("Kafka at a refuses the credentials"),
        CannotStart("Kafka at a refuses the credentials"),
        CannotStart("topic results has 3 partitions"),
        TransientError("Kafka at a: KafkaConnectionError: 111"),
    )
    for error in errors:
        outage.away(error)
    outage.over()
    outage.over()
    outage.away(errors[1])
    assert [record.getMessage() for record in caplog.records] == [
        "send waits: Kafka at a: KafkaTimeoutError: Unable to bootstrap",
        "send waits: Kafka at a refuses the credentials",
        "send waits: topic results has 3 partitions",
        "send waits: Kafka at a: KafkaConnectionError: 111",
        "send goes on",
        "send waits: Kafka at a: KafkaConnectionError: 111",
    ]
    assert counted._value.get() - before == 5
    assert unforeseen._value.get() == errors_before
    outage.away(errors[1], cause=ValueError("nobody thought of it"))
    assert unforeseen._value.get() == errors_before + 1
