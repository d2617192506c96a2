"""What the Kafka bus asks of a cluster, in our own types and errors. Makes all clients of kafka-python.

Clients are made when first needed (threads do not survive a fork) and made anew after an error. kafka-python ships no
types: nothing of it leaves this module but the consumer that `ichor.bus.kafka_tail` polls, and the admin client that
`ichor.bus.kafka_topics` asks.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import kafka
from kafka import errors
from kafka.protocol.consumer import OffsetSpec
from kafka.structs import OffsetAndMetadata, TopicPartition

from ichor import metrics
from ichor.bus.kafka_causes import Causes
from ichor.bus.kafka_topics import TopicState, topics_of
from ichor.errors import CannotStart, IchorError, TransientError

if TYPE_CHECKING:
    from ichor.config import KafkaSettings

_BACKOFF_MS = 50
# Longer than it takes to fill a batch: it leaves when all its records are in (flush), so that it is written whole.
_LINGER_MS = 1000
_SPARE_BYTES = 65536  # of a record's batch beside its value
_REFUSED = (errors.SaslAuthenticationFailedError, errors.AuthorizationError)
_LATE = (errors.KafkaTimeoutError, errors.RequestTimedOutError)
_UNREADABLE = (ssl.SSLError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_UNUSABLE = (errors.UnsupportedSaslMechanismError, errors.IllegalSaslStateError, errors.KafkaConfigurationError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A record to append. ``at``: POSIX seconds, the record's time; ``order``: nanoseconds, order among topics."""

    value: bytes
    key: str | None = None
    at: float
    order: int = 0


class Record(Protocol):
    """A record as the consumer gives it."""

    topic: str
    offset: int
    value: bytes | None
    timestamp: int  # milliseconds
    headers: Sequence[tuple[str, bytes]]


# Of every topic: nothing ends by itself, whatever the brokers do with topics that say nothing.
_KEPT = {"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete"}

_CAUSES = Causes(not_these=_LATE)


class Gone(IchorError):
    """A record that the log does not hold any more."""


def order_of(record: Record) -> int:
    """Nanoseconds that order records of several topics; the record's time where somebody else wrote it."""
    for name, value in record.headers:
        if name == "order" and value.isdigit():
            return int(value)
    return record.timestamp * 1_000_000


class Cluster:
    """A Kafka cluster; any thread may ask. Topics are named without prefix, all have one partition.

    Raises
    ------
    TransientError
        From every method, when Kafka is away, slow or lacks a topic.
    CannotStart
        From every method, when Kafka refuses who asks, or cannot be asked with these settings.
    """

    def __init__(self, url: str, settings: KafkaSettings) -> None:
        self.servers = url.removeprefix("kafka://")
        self.settings = settings
        self.ledger_prefix = "group."
        self._pid = os.getpid()
        self._known: set[str] = set()
        self._writing = threading.Lock()  # one batch at a time, so that it holds one call's records and all of them
        self._asking = threading.RLock()
        self._producer: Any = None
        self._admin: Any = None
        self._fetcher: Any = None
        _CAUSES.listen()

    def append(self, topic: str, entries: Sequence[Entry]) -> list[int]:
        """Append durably; offsets. All or none, as long as they fit into ``message_bytes`` together.

        Raises
        ------
        IchorError
            When one is larger than ``message_bytes``, or than the topic takes.
        """
        largest = max(len(entry.value) for entry in entries)
        if largest + _SPARE_BYTES > self.settings.message_bytes:
            raise IchorError(
                f"a message of {largest} bytes for {topic} is larger than bus.kafka.message_bytes = "
                f"{self.settings.message_bytes}"
            )
        self.ensure([topic])
        with self._writing, self._told(topic), self._rebuilt("_producer"):
            if self._producer is None:
                self._producer = kafka.KafkaProducer(
                    **self._common(), acks="all", enable_idempotence=True, compression_type="gzip",
                    linger_ms=_LINGER_MS, batch_size=self.settings.message_bytes,
                    max_request_size=self.settings.message_bytes, max_block_ms=self._milliseconds,
                    metrics_enabled=False, delivery_timeout_ms=self._milliseconds + _LINGER_MS,
                )  # fmt: skip
            sent = [
                self._producer.send(
                    self._name(topic), entry.value, key=entry.key.encode() if entry.key else None, partition=0,
                    timestamp_ms=int(entry.at * 1000), headers=[("order", str(entry.order).encode())],
                )
                for entry in entries
            ]  # fmt: skip
            self._producer.flush(self.settings.timeout + 2 * _LINGER_MS / 1000)
            return [one.get(0.1).offset for one in sent]

    def ensure(self, topics: Sequence[str]) -> None:
        """Make topics that are not there; CannotStart for one that has several partitions."""
        missing = [topic for topic in dict.fromkeys(topics) if topic not in self._known]
        if not missing:
            return
        with self.asked() as admin, self._told(missing[0]):
            there = {one["name"]: len(one["partitions"]) for one in admin.describe_topics() if not one["error_code"]}
            for topic in missing:
                count = there.get(self._name(topic), 1)
                if count != 1:
                    raise CannotStart(f"Kafka topic {self._name(topic)} has {count} partitions: Ichor needs one")
            absent = [self._name(topic) for topic in missing if self._name(topic) not in there]
            if absent and not self.settings.create_topics:
                kept = ", ".join(f"{key}={value}" for key, value in _KEPT.items())
                raise TransientError(
                    f"Kafka has no topic {absent[0]}, and bus.kafka.create_topics is false: make it with one partition, "
                    f"{kept}"
                )
            if absent:
                made = {
                    "num_partitions": 1,
                    "replication_factor": self.settings.replication or -1,
                    "configs": _KEPT | {"max.message.bytes": str(self.settings.message_bytes)},
                }
                with contextlib.suppress(errors.TopicAlreadyExistsError):
                    admin.create_topics(dict.fromkeys(absent, made), wait_for_metadata=True)
        self._known.update(missing)

    def groups(self) -> list[str]:
        """Groups that have subscribed something."""
        head = self._name(self.ledger_prefix)
        with self.asked() as admin, self._told(self.ledger_prefix):
            return sorted(name.removeprefix(head) for name in admin.list_topics() if name.startswith(head))

    def topics(self) -> list[TopicState]:
        """All with the prefix; who asks needs DescribeConfigs."""
        with self.asked() as admin, self._told(""):
            return topics_of(admin, self.settings.prefix)

    def ends(self, topics: Sequence[str]) -> dict[str, tuple[int, int]]:
        """First offset and the one after the last of each topic."""
        if not topics:
            return {}
        with self.asked() as admin, self._told(topics[0]):
            places = {topic: TopicPartition(self._name(topic), 0) for topic in topics}
            first = admin.list_partition_offsets(dict.fromkeys(places.values(), OffsetSpec.EARLIEST))
            last = admin.list_partition_offsets(dict.fromkeys(places.values(), OffsetSpec.LATEST))
            return {topic: (first[place].offset, last[place].offset) for topic, place in places.items()}

    def offset_at(self, topic: str, at: float) -> int | None:
        """Offset of the first record of that time (POSIX seconds) or later."""
        with self.asked() as admin, self._told(topic):
            place = TopicPartition(self._name(topic), 0)
            offset = admin.list_partition_offsets({place: int(at * 1000)})[place].offset
            return None if offset < 0 else int(offset)

    def trim(self, topic: str, before: int) -> None:
        """Delete the records before an offset."""
        with self.asked() as admin, self._told(topic):
            admin.delete_records({TopicPartition(self._name(topic), 0): before})

    def commit(self, group: str, offsets: Mapping[str, int]) -> None:
        """Write offsets down where Kafka's tools look for them: nothing of Ichor reads them.

        Raises
        ------
        TransientError
            Kafka refuses them, or has no coordinator of the group yet.
        """
        with self.asked() as admin, self._told(group):
            places = {
                TopicPartition(self._name(topic), 0): OffsetAndMetadata(offset, "", -1)
                for topic, offset in offsets.items()
            }
            answers = admin.alter_group_offsets(self.settings.prefix + group, places)
        refused = sorted({error.__name__ for error in answers.values() if error is not errors.NoError})
        if refused:
            raise TransientError(f"Kafka refuses the offsets of group {group}: {', '.join(refused)}")

    def fetch(self, topic: str, offset: int) -> Record:
        """One record.

        Raises
        ------
        Gone
            When it was deleted.
        """
        place = TopicPartition(self._name(topic), 0)
        with self._asking, self._told(topic), self._rebuilt("_fetcher"):
            if self._fetcher is None:
                self._fetcher = self.consumer(records=1)
            self._fetcher.assign([place])
            self._fetcher.seek(place, offset)
            try:
                found = self._fetcher.poll(timeout_ms=self._milliseconds).get(place, [])
            except errors.OffsetOutOfRangeError as error:
                raise Gone(f"{topic} holds no record {offset} any more") from error
            if not found:
                raise TransientError(f"Kafka at {self.servers} did not give record {offset} of {topic} in time")
            if found[0].offset != offset:
                raise Gone(f"{topic} holds no record {offset} any more")
            return found[0]  # type: ignore[no-any-return]

    def consumer(self, *, records: int = 500) -> Any:
        """A consumer without a group, which belongs to one thread."""
        with self._told(""):
            return kafka.KafkaConsumer(
                **self._common(), group_id=None, enable_auto_commit=False, auto_offset_reset="none",
                max_poll_records=records, fetch_max_wait_ms=min(1000, self._milliseconds // 2), metrics_enabled=False,
            )  # fmt: skip

    def places(self, positions: Mapping[str, int]) -> dict[Any, int]:
        """Topics as kafka-python names their partitions."""
        return {TopicPartition(self._name(topic), 0): offset for topic, offset in positions.items()}

    def topic_of(self, name: str) -> str:
        """The topic without its prefix."""
        return name.removeprefix(self.settings.prefix)

    def close(self) -> None:
        for name in ("_producer", "_admin", "_fetcher"):
            self._drop(name)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """kafka-python's errors as ours, for who polls a consumer."""
        with self._told(""):
            yield

    @contextlib.contextmanager
    def asked(self) -> Iterator[Any]:
        """kafka-python's admin client, for one thread at a time; dropped after an error, which is kafka-python's own."""
        with self._asking, self._rebuilt("_admin"):
            if self._admin is None:
                with self._told(""):
                    self._admin = kafka.KafkaAdminClient(**self._common())
            yield self._admin

    @property
    def _milliseconds(self) -> int:
        return int(self.settings.timeout * 1000)

    def _name(self, topic: str) -> str:
        return self.settings.prefix + topic

    @contextlib.contextmanager
    def _rebuilt(self, name: str) -> Iterator[None]:
        """After an error the client is dropped: a new one starts clean."""
        if os.getpid() != self._pid:
            raise RuntimeError("this bus was opened before a fork: threads must not cross one")
        try:
            yield
        except (errors.KafkaError, IchorError, OSError) as error:
            if not isinstance(error, Gone):
                self._drop(name)
            raise

    def _drop(self, name: str) -> None:
        client = getattr(self, name)
        setattr(self, name, None)
        if client is not None:
            with contextlib.suppress(errors.KafkaError, OSError, RuntimeError):
                client.close(timeout=0) if name == "_producer" else client.close()

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """kafka-python's errors as ours; whether Kafka answered is counted where something is asked of it."""
        try:
            with self._translated(what):
                yield
        except (TransientError, CannotStart):
            metrics.BUS_AWAY.set(1)
            raise
        if what:
            metrics.BUS_AWAY.set(0)

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        where = f"Kafka at {self.servers}"
        try:
            _CAUSES.last = None
            try:
                yield
            except errors.KafkaTimeoutError as error:
                raise _CAUSES.last if isinstance(_CAUSES.last, errors.KafkaError) else error from error
        except _REFUSED as error:
            who = f"user {self.settings.username!r}" if self.settings.username else "an unnamed user"
            if isinstance(error, errors.AuthorizationError):
                raise CannotStart(f"{where} does not let {who} do this with {self._name(what)}: ACLs") from error
            raise CannotStart(
                f"{where} refuses the credentials of {who}: bus.kafka.username, password_file, mechanism"
            ) from error
        except _UNUSABLE as error:
            raise CannotStart(f"{where} cannot be asked so: {_line(error)}") from error
        except (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError) as error:
            raise IchorError(
                f"a message for {self._name(what)} is larger than that topic takes: raise its max.message.bytes"
            ) from error
        except errors.UnknownTopicOrPartitionError as error:
            self._known.clear()
            raise TransientError(f"{where} has no topic {self._name(what)}") from error
        except errors.OffsetOutOfRangeError:
            raise  # the tail's business
        except errors.KafkaConnectionError as error:
            # A broker that refuses a password seems to hang up: kafka-python 3.0.12 does not see its answer.
            names = "tls, username, password_file, mechanism" if self.settings.username else "tls"
            hint = f"; if it stays so, see bus.kafka.{names}" if "disconnected" in str(error) else ""
            raise TransientError(f"{where}: {_line(error)}{hint}") from error
        except errors.KafkaError as error:
            raise TransientError(f"{where}: {_line(error)}") from error
        except ssl.SSLError as error:
            raise CannotStart(
                f"{where}: bus.kafka.ca, cert or key cannot be used: {error.strerror or error}"
            ) from error
        except OSError as error:
            raise TransientError(f"{where}: {_line(error)}") from error

    def _tls(self) -> ssl.SSLContext:
        settings, key = self.settings, "ca"
        try:
            context = ssl.create_default_context(cafile=settings.ca or None)
            key = "cert or key"
            if settings.cert:
                context.load_cert_chain(settings.cert, settings.key or None, password="")
        except _UNREADABLE as error:
            raise CannotStart(f"bus.kafka.{key} cannot be used: {error.strerror or error}") from error
        return context

    def _common(self) -> dict[str, Any]:
        settings = self.settings
        common: dict[str, Any] = {
            "bootstrap_servers": self.servers.split(","),
            "client_id": "ichor",
            "request_timeout_ms": self._milliseconds,
            "bootstrap_timeout_ms": self._milliseconds,
            "retry_backoff_ms": _BACKOFF_MS,
            "reconnect_backoff_ms": _BACKOFF_MS,
            "reconnect_backoff_max_ms": 1000,
        }
        if settings.tls:
            common["ssl_context"] = self._tls()
        if settings.username:
            common |= {
                "sasl_mechanism": settings.mechanism,
                "sasl_plain_username": settings.username,
                "sasl_plain_password": settings.password() or "",
            }
        protocol = ("SASL_" if settings.username else "") + ("SSL" if settings.tls else "PLAINTEXT")
        return common | {"security_protocol": protocol}


def _line(error: BaseException) -> str:
    """The error in one line."""
    name, text = type(error).__name__, " ".join(str(error).split())
    return (text if name in text else f"{name}: {text}")[:300]
