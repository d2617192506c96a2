"""A real Apache Kafka for the tests: KRaft, one node or three, from Maven artifacts. Not a fake, and no container.

``ICHOR_TEST_KAFKA=host:port`` names another broker to test against, with any of its topics under a prefix of the tests.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from absent import absent

if TYPE_CHECKING:
    from ichor.bus.kafka import KafkaBus
    from ichor.clock import Clock

PATIENCE = 300.0  # seconds of a machine that does much else; never waited for when all is well
USER, PASSWORD = "ichor", "only for tests"
_POM = Path(__file__).with_name("kafka_pom.xml")
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ichor-kafka"
# Little work before it serves, and little memory: it lives for seconds.
_JAVA = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
_PROPERTIES = """\
process.roles=broker,controller
node.id={node}
{quorum}
listeners=PLAINTEXT://127.0.0.1:{plain},SASL_SSL://127.0.0.1:{secure},SASL_PLAINTEXT://127.0.0.1:{sasl},CONTROLLER://127.0.0.1:{control}
advertised.listeners=PLAINTEXT://127.0.0.1:{plain},SASL_SSL://127.0.0.1:{secure},SASL_PLAINTEXT://127.0.0.1:{sasl}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SASL_PLAINTEXT:SASL_PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
user_{user}="{password}";
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
user_{user}="{password}";
ssl.keystore.type=PEM
ssl.keystore.location={folder}/server.pem
log.dir={folder}/log
default.replication.factor={copies}
min.insync.replicas={least}
offsets.topic.replication.factor={copies}
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.cleaner.dedupe.buffer.size=2097152
broker.session.timeout.ms={session}
"""


class Broker:
    """A broker on ports of its own that can be stopped and started again; what it has been told stays.

    ``control``: ports of the controllers of a quorum by node, this one's (``node``) among them; None: it is alone.
    """

    def __init__(
        self, folder: Path, *, java: str, classpath: str, free_port: Callable[[], int], node: int = 1,
        control: Mapping[int, int] | None = None, cluster_id: str = "",
    ) -> None:  # fmt: skip
        self.folder, self.node = folder, node
        self._java = (java, *_JAVA, "-cp", classpath)
        self._port, self._secure, self._sasl = free_port(), free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        pem = folder / "server.pem"
        _run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
             "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key.pem"),
             "-out", str(folder / "ca.pem")]
        )  # fmt: skip
        pem.write_text((folder / "key.pem").read_text() + (folder / "ca.pem").read_text())
        (folder / "password").write_text(PASSWORD)
        port = control[node] if control else free_port()
        voters = ",".join(f"{n}@127.0.0.1:{p}" for n, p in (control or {}).items())
        bootstrap = f"controller.quorum.bootstrap.servers=127.0.0.1:{port}"
        (folder / "server.properties").write_text(
            _PROPERTIES.format(
                node=node,
                quorum=f"controller.quorum.voters={voters}" if control else bootstrap,
                copies=len(control or "1"),
                least=2 if control else 1,
                session=15_000 if control else 60_000,  # of a quorum: so long nobody leads what a dead one led
                control=port,
                plain=self._port,
                secure=self._secure,
                sasl=self._sasl,
                folder=folder,
                user=USER,
                password=PASSWORD,
            )
        )
        name = cluster_id or uuid.uuid4().hex[:22]
        _run([*self._java, "kafka.tools.StorageTool", "format", *([] if control else ["--standalone"]), "-t", name,
              "--add-scram", f'SCRAM-SHA-512=[name={USER},password="{PASSWORD}"]', "-c", str(folder / "server.properties")])  # fmt: skip

    @property
    def servers(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def secure(self) -> str:
        """TLS by ``ca.pem``, SASL PLAIN or SCRAM-SHA-512 with `USER` and the content of ``password``."""
        return f"127.0.0.1:{self._secure}"

    @property
    def sasl(self) -> str:
        """As `secure`, without TLS."""
        return f"127.0.0.1:{self._sasl}"

    @property
    def pid(self) -> int:
        """Of the broker's process, while it runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self.begin()
        self.wait()

    def begin(self) -> None:
        """Start it; it may not serve yet, as one of a quorum waits for another."""
        with (self.folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._java, "kafka.Kafka", str(self.folder / "server.properties")], stdout=log, stderr=log
            )

    def wait(self) -> None:
        """Until it serves."""
        assert self._process is not None
        until = time.monotonic() + PATIENCE
        while not _listens(self._port):
            assert self._process.poll() is None, (self.folder / "broker.log").read_text(errors="replace")[-2000:]
            assert time.monotonic() < until, "the broker does not start"
            time.sleep(0.1)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE)
            self._process = None


class Quorum:
    """Three brokers that are controllers, too: each record is on two of them before it counts."""

    def __init__(self, brokers: Sequence[Broker]) -> None:
        self.brokers = list(brokers)

    @property
    def servers(self) -> str:
        return ",".join(broker.servers for broker in self.brokers)

    def start(self) -> None:
        for broker in self.brokers:
            broker.begin()
        for broker in self.brokers:
            broker.wait()

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """All at once. Who is asked to end, not killed, waits for a controller, which the last one has not."""
        for broker in self.brokers:
            broker.stop(how)

    def led_by(self, topic: str) -> Broker:
        """The broker that leads a topic, by its whole name."""
        node = self._described(topic)["leader_id"]
        return next(broker for broker in self.brokers if broker.node == node)

    def leads(self, broker: Broker, topic: str) -> bool:
        """Whether the others say that it leads the topic, or nobody; also when none of them answers."""
        return self._asked(lambda: self.led_by(topic) is broker, otherwise=True)

    def is_whole(self, topic: str) -> bool:
        """Whether each broker has all of the topic; False when none answers."""
        return self._asked(lambda: len(self._described(topic)["isr_nodes"]) == len(self.brokers), otherwise=False)

    def _asked(self, question: Callable[[], bool], *, otherwise: bool) -> bool:
        import kafka.errors

        try:
            return question()
        except (kafka.errors.KafkaError, StopIteration):
            return otherwise

    def _described(self, topic: str) -> dict[str, Any]:
        """The one partition of a topic."""
        import kafka

        admin = kafka.KafkaAdminClient(bootstrap_servers=self.servers.split(","), bootstrap_timeout_ms=5000)
        try:
            (described,) = admin.describe_topics([topic])
        finally:
            admin.close()
        (part,) = described["partitions"]
        return part


@pytest.fixture(scope="session")
def make_broker(
    peer: Callable[[str, str], str], free_port: Callable[[], int]
) -> Iterator[Callable[[], Broker]]:  # fmt: skip
    """``make_broker()``: a broker that is not started yet; skips without Java or Maven."""
    made: list[Broker] = []

    def make() -> Broker:
        java, jars = peer("java", "openjdk-17-jre-headless"), classpath(peer("mvn", "maven"))
        # In memory where it can be: the controller syncs all the time, and a busy disk would stop it.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        folder = Path(tempfile.mkdtemp(prefix="ichor-kafka-", dir=memory))
        broker = Broker(folder, java=java, classpath=jars, free_port=free_port)
        made.append(broker)
        return broker

    yield make
    for broker in made:
        broker.stop(signal.SIGKILL)
        shutil.rmtree(broker.folder, ignore_errors=True)


@pytest.fixture
def quorum(peer: Callable[[str, str], str], free_port: Callable[[], int]) -> Iterator[Quorum]:
    """Three brokers that serve; 750 MB."""
    java, jars = peer("java", "openjdk-17-jre-headless"), classpath(peer("mvn", "maven"))
    control = {node: free_port() for node in (1, 2, 3)}
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder, name = Path(tempfile.mkdtemp(prefix="ichor-kafka-", dir=memory)), uuid.uuid4().hex[:22]
    made = []
    for node in control:
        (folder / str(node)).mkdir()
        made.append(
            Broker(
                folder / str(node), java=java, classpath=jars, free_port=free_port, node=node, control=control,
                cluster_id=name,
            )
        )  # fmt: skip
    three = Quorum(made)
    try:
        three.start()
        yield three
    finally:
        three.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def broker(make_broker: Callable[[], Broker]) -> Broker:
    """One that serves all tests."""
    made = make_broker()
    made.start()
    return made


@pytest.fixture(scope="session")
def kafka_servers(request: pytest.FixtureRequest) -> str:
    """``host:port`` of a broker that runs."""
    named = os.environ.get("ICHOR_TEST_KAFKA")
    if named:
        return named
    running: Broker = request.getfixturevalue("broker")
    return running.servers


@pytest.fixture(scope="session")
def kafka_bus(
    kafka_servers: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., KafkaBus]:  # fmt: skip
    """``kafka_bus(prefix, clock=..., **settings)``: a bus whose topics nobody else has."""
    from ichor.bus.kafka import KafkaBus
    from ichor.config import KafkaSettings

    folder = tmp_path_factory.mktemp("kafka")

    def open_bus(
        prefix: str, *, clock: Clock | None = None, servers: str = kafka_servers, **settings: object
    ) -> KafkaBus:
        made = KafkaSettings(prefix=prefix, **{"timeout": 60.0, **settings})
        return KafkaBus(f"kafka://{servers}", made, folder, clock=clock)

    return open_bus


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex[:12]}."


def classpath(mvn: str) -> str:
    """Paths of the broker's jars, which Maven resolves once."""
    kept = _CACHE / f"{hashlib.sha256(_POM.read_bytes()).hexdigest()[:16]}.classpath"
    if kept.exists() and all(Path(jar).exists() for jar in kept.read_text().strip().split(":")):
        return kept.read_text().strip()
    _CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_CACHE) as scratch:
        found = Path(scratch) / "classpath"
        done = subprocess.run(
            [mvn, "-q", "-B", "-f", str(_POM), "dependency:build-classpath", "-DincludeScope=runtime",
             f"-Dmdep.outputFile={found}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0 or not found.exists():
            message = f"Maven could not fetch Apache Kafka: {(done.stdout + done.stderr).strip()[-300:]}"
            absent(message)
        found.replace(kept)
    return kept.read_text().strip()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
