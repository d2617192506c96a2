"""Settings: one typed tree, read once. File < environment (``ICHOR_LISTENER__PORT``) < flags.

An error names the key, the value and what is allowed. A setting of the contract that is not built yet is refused by
name (`NotBuilt`), never accepted and ignored.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ichor.errors import ConfigError, NotBuilt
from ichor.series.rules import RULES, SOUND, Check, Rule, check_fits, extended, rank_fits
from ichor.types import Priority

_PREFIX = "ICHOR_"
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

# Keys of docs/contract.md that this version does not have: (path, allowed value when there is one, what brings it).
_NOT_BUILT: tuple[tuple[tuple[str, ...], Any], ...] = ((("destinations", "commitment"), False),)


def _duration(value: Any) -> Any:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", value)
        if match is None:
            raise ValueError('a duration like "500ms", "10s", "5m", "2h" or "7d"')
        return float(match[1]) * _SECONDS[match[2]]
    return value


def _size(value: Any) -> Any:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)B\s*", value)
        if match is None:
            raise ValueError('a size like "512MB", "2GB" or "0B"')
        return int(float(match[1]) * 1000 ** " kMGT".index(match[2] or " "))
    return value


def _ae_title(value: str) -> str:
    # PS3.5 section 6.2, AE: 1-16 characters, no backslash or control characters, not only spaces.
    if not (1 <= len(value) <= 16 and value.isascii() and value.isprintable() and "\\" not in value and value.strip()):
        raise ValueError("an AE title: 1 to 16 printable ASCII characters without a backslash")
    return value.strip()


# A bucket's name goes into host names; parts of a prefix are what keys are made of.
_BUCKET, _LEVEL = "[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}"


def _store_url(value: str) -> str:
    if not re.fullmatch(rf"file:|(file:(//)?)?/[^/].*|s3://{_BUCKET}(/{_LEVEL})*", value):
        raise ValueError('"file:" (below data), "file:/FOLDER" or "s3://BUCKET/PREFIX", which all machines share')
    return value


def _bus_url(value: str) -> str:
    if re.fullmatch(r"sqlite:|kafka://[^,/\s]+:\d+(,[^,/\s]+:\d+)*", value) is None:
        raise ValueError('"sqlite:" or "kafka://host:port,host:port"')
    return value


Seconds = Annotated[float, BeforeValidator(_duration), Field(ge=0)]
Bytes = Annotated[int, BeforeValidator(_size), Field(ge=0)]
AETitle = Annotated[str, AfterValidator(_ae_title)]
Port = Annotated[int, Field(ge=0, le=65535)]


def _model_file(value: Path) -> Path:
    if value.suffix != ".onnx":
        raise ValueError("an .onnx file, its card (.json) beside it")
    return value


ModelFile = Annotated[Path, AfterValidator(_model_file)]


def is_loopback(host: str) -> bool:
    """True for 127.0.0.0/8, ::1 and localhost."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class TLSSettings(_Table):
    """PEM files; ``ca`` given: clients need a certificate that one of its authorities signed."""

    cert: Path
    key: Path
    ca: Path | None = None


class StowSettings(_Table):
    """HTTP door for STOW-RS; HTTPS by the listener's certificate when there is ``[listener.tls]``."""

    host: str = "127.0.0.1"
    port: Port = 8042
    token_file: str = ""


class ListenerSettings(_Table):
    ae_title: AETitle = "ICHOR"
    host: str = "127.0.0.1"
    port: Port = 11112
    durability: Literal["instance", "association", "none"] = "instance"
    stat_ae_titles: tuple[AETitle, ...] = ()
    commitment: bool = False
    tls: TLSSettings | None = None
    stow: StowSettings | None = None
    # Most associations at once, the last tenth for senders that have none; further ones are rejected for the moment.
    associations: Annotated[int, Field(ge=1, le=2000)] = 200
    # Free space where spool or receipts log lie, the lesser: below disk_low no new association, below disk_full no object either.
    disk_low: Bytes = 1_000_000_000
    disk_full: Bytes = 250_000_000
    # A-ASSOCIATE-RQ after the connection; the rest of a PDU; anything on an association.
    request_timeout: Annotated[Seconds, Field(gt=0)] = 30.0
    network_timeout: Annotated[Seconds, Field(ge=1)] = 60.0
    idle_timeout: Annotated[Seconds, Field(gt=0)] = 600.0
    # That receive: one is bound by the interpreter's lock.
    processes: Annotated[int, Field(ge=1, le=32)] = min(2, os.cpu_count() or 1)

    @model_validator(mode="after")
    def _watermarks_in_order(self) -> ListenerSettings:
        if self.disk_full > self.disk_low:
            raise ValueError(
                "disk_full: at most disk_low, so that associations are rejected before objects are refused"
            )
        return self

    @model_validator(mode="after")
    def _titles_apart(self) -> ListenerSettings:
        if self.ae_title in self.stat_ae_titles:
            raise ValueError(
                f"stat_ae_titles: only titles beside ae_title; {self.ae_title!r} is both, and all would be STAT"
            )
        return self


class SenderSettings(_Table):
    ae_title: AETitle
    host: str
    port: Port | None = None  # where reports of storage commitment go; absent: none can
    priority: Priority | None = None
    # Most of its associations at once; absent: as many as the listener takes but the last tenth.
    associations: Annotated[int, Field(ge=1)] | None = None
    # User identity (PS3.7 D.3.3.7) that it must present; the file holds the passcode.
    username: Annotated[str, Field(max_length=64)] = ""
    passcode_file: str = ""

    @model_validator(mode="after")
    def _whole_identity(self) -> SenderSettings:
        if self.passcode_file and not self.username:
            raise ValueError("username: required with passcode_file")
        return self

    def passcode(self) -> str | None:
        """The passcode, read from its file; None when there is none.

        Raises
        ------
        ConfigError
            When the file cannot be read or is empty.
        """
        return _token(self.passcode_file, f"senders.passcode_file of {self.ae_title}")


class ConsoleSettings(_Table):
    host: str = "127.0.0.1"
    port: Port = 8080
    token_file: str = ""


class KafkaSettings(_Table):
    """How Kafka is reached and named; used where ``bus.url`` is ``kafka://``."""

    # Of topics and consumer groups; never empty: Kafka has others', which are none of Ichor's.
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "ichor."
    replication: Annotated[int, Field(ge=0)] = 0  # of topics that Ichor makes; 0: as the broker does
    create_topics: bool = True
    message_bytes: Annotated[Bytes, Field(ge=200_000, le=1_000_000_000)] = 16_000_000
    timeout: Annotated[Seconds, Field(ge=1)] = 5.0  # of one request
    # A name that stays when this process comes back: it then takes up its own jobs at once. Each process has its own.
    member: Annotated[str, Field(max_length=128)] = ""
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    username: str = ""
    password_file: str = ""
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"

    @model_validator(mode="after")
    def _whole(self) -> KafkaSettings:
        if (self.ca or self.cert or self.key) and not self.tls:
            raise ValueError("tls: must be true with ca, cert or key")
        if bool(self.username) != bool(self.password_file):
            raise ValueError("username: required with password_file, and password_file with it")
        return self

    def password(self) -> str | None:
        """The password, read from its file; None when there is none.

        Raises
        ------
        ConfigError
            When the file cannot be read or is empty.
        """
        return _token(self.password_file, "bus.kafka.password_file")


class BusSettings(_Table):
    url: Annotated[str, AfterValidator(_bus_url)] = "sqlite:"
    kafka: KafkaSettings = KafkaSettings()


class S3Settings(_Table):
    """How an object store is reached; its credentials come from the environment, as every AWS SDK takes them."""

    endpoint: Annotated[str, Field(pattern=r"^(https?://[^/\s@]+)?$")] = ""  # empty: Amazon's
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{0,40}$")] = ""  # empty: of the environment


class StoreSettings(_Table):
    """Where received objects and results lie: below ``data``, or in a folder or a bucket that several machines share."""

    url: Annotated[str, AfterValidator(_store_url)] = "file:"
    # Of a shared store: what this receiver is called, and after how long without a sign one is taken for lost.
    receiver: Annotated[str, Field(pattern=r"^([0-9A-Za-z][0-9A-Za-z_-]{0,39})?$")] = ""
    lost_after: Annotated[Seconds, Field(ge=600)] = 3600.0
    s3: S3Settings = S3Settings()

    @property
    def folder(self) -> Path | None:
        """The shared folder; None when there is none."""
        path = self.url.removeprefix("file:")
        return Path(path) if path and not self.is_bucket else None

    @property
    def is_bucket(self) -> bool:
        return self.url.startswith("s3:")

    @property
    def is_shared(self) -> bool:
        """Not all lies below ``data``."""
        return self.url != "file:"


class StudySettings(_Table):
    wait: Seconds = 10.0
    # The report "not analysed" for a study that should have been analysed and could not be.
    not_analysed_report: bool = True


class AssembleSettings(_Table):
    """How studies are divided among assemblers."""

    # Each shard is owned by one `ichor assemble` at a time. The same for every role; fixed once there is state.
    shards: Annotated[int, Field(ge=1, le=256)] = 1


class RetentionSettings(_Table):
    spool: Seconds = 7 * 86400.0
    results: Seconds = 30 * 86400.0


class DestinationSettings(_Table):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
    ae_title: AETitle
    host: str
    port: Port
    commitment: bool = False


class CheckSettings(_Table):
    """One check of a site's own rule; see `ichor.series.rules.Check`."""

    fact: str
    relation: str
    value: Any
    reason: Annotated[str, Field(min_length=1, max_length=120)] = ""
    known: bool = False

    @model_validator(mode="after")
    def _can_be_made(self) -> CheckSettings:
        check_fits(self.check())
        return self

    def check(self) -> Check:
        reason = self.reason or f"not so: {self.fact} {self.relation} {self.value}"
        value = tuple(self.value) if isinstance(self.value, list) else self.value
        return Check(fact=self.fact, relation=self.relation, value=value, reason=reason, known=self.known)


class RankSettings(_Table):
    """How a fact orders the candidates of a site's own rule."""

    fact: str
    prefer: Any
    step: float = 1.0

    @model_validator(mode="after")
    def _can_be_made(self) -> RankSettings:
        rank_fits(self.fact, self.prefer, step=self.step)
        return self


class RuleSettings(_Table):
    """A site's own rule of routing, or one of ours that is switched off by its name (``off = true``)."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    role: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")] = ""
    off: bool = False
    meant: tuple[CheckSettings, ...] = ()
    usable: tuple[CheckSettings, ...] = ()
    rank: tuple[RankSettings, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> RuleSettings:
        if self.off and (self.role or self.meant or self.usable or self.rank):
            raise ValueError("off = true: then nothing but the name")
        if not self.off and not (self.role and self.meant):
            raise ValueError("role and meant: required, unless off = true")
        return self

    def rule(self) -> Rule:
        """The rule; what cannot be measured at all is refused before its own checks."""
        return Rule(
            name=self.name,
            role=self.role,
            about="the site's own",
            meant=tuple(c.check() for c in self.meant),
            usable=(*SOUND, *(c.check() for c in self.usable)),
            rank=tuple((r.fact, r.prefer, r.step) for r in self.rank),
        )


class Settings(_Table):
    """The whole tree; see docs/contract.md for what each key means."""

    data: Path = Path("var/ichor")
    listener: ListenerSettings = ListenerSettings()
    senders: tuple[SenderSettings, ...] = ()
    console: ConsoleSettings = ConsoleSettings()
    bus: BusSettings = BusSettings()
    store: StoreSettings = StoreSettings()
    study: StudySettings = StudySettings()
    assemble: AssembleSettings = AssembleSettings()
    retention: RetentionSettings = RetentionSettings()
    destinations: tuple[DestinationSettings, ...] = ()
    rules: tuple[RuleSettings, ...] = ()
    models: Mapping[str, ModelFile] = {}

    @model_validator(mode="after")
    def _safe_off_loopback(self) -> Settings:
        if not is_loopback(self.listener.host) and not self.senders:
            raise ValueError("senders: required when listener.host is not loopback; list who may send as [[senders]]")
        if (stow := self.listener.stow) is not None and not is_loopback(stow.host):
            if not self.senders:
                raise ValueError("senders: required when listener.stow.host is not loopback")
            if not stow.token_file:
                raise ValueError("listener.stow.token_file: required when listener.stow.host is not loopback")
        if not is_loopback(self.console.host) and not self.console.token_file:
            raise ValueError("console.token_file: required when console.host is not loopback")
        names = [d.name for d in self.destinations]
        if len(names) != len(set(names)):
            raise ValueError("destinations: two have the same name")
        try:
            self.routing()
        except ValueError as error:
            raise ValueError(f"rules: {error}") from error
        return self

    @model_validator(mode="after")
    def _shared_bytes_can_be_seen(self) -> Settings:
        if self.store.is_shared and self.listener.durability != "instance":
            raise ValueError('store.url: a shared store needs listener.durability = "instance"')
        if self.store.is_bucket and self.assemble.shards > 1:
            # The locks by which assemblers own shards would be those of one machine.
            raise ValueError(
                "assemble.shards: must be 1 where images lie in a bucket; open series need a shared folder"
            )
        return self

    @model_validator(mode="after")
    def _commitments_can_be_kept(self) -> Settings:
        if self.listener.commitment:
            if self.listener.durability != "instance":
                raise ValueError('listener.commitment: needs listener.durability = "instance"')
            if not any("port" in sender.model_fields_set for sender in self.senders):
                raise ValueError("listener.commitment: needs [[senders]] with the port where reports go")
        return self

    def routing(self) -> tuple[Rule, ...]:
        """Rules of routing: the site's own and ours."""
        if not self.rules:
            return RULES
        return extended([r.rule() for r in self.rules if not r.off], without=[r.name for r in self.rules if r.off])

    def token(self) -> str | None:
        """The console's token, read from its file; None when there is none.

        Raises
        ------
        ConfigError
            When the file cannot be read or is empty.
        """
        return _token(self.console.token_file, "console.token_file")

    def stow_token(self) -> str | None:
        """As `token`, of ``[listener.stow]``."""
        stow = self.listener.stow
        return _token(stow.token_file, "listener.stow.token_file") if stow is not None else None


def _token(file: str, key: str) -> str | None:
    if not file:
        return None
    try:
        token = Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key} = {file!r}: {getattr(error, 'strerror', None) or 'not text'}") from error
    if not token:
        raise ConfigError(f"{key} = {file!r}: the file is empty")
    return token


def load(
    config: Path | None = None, *, environ: Mapping[str, str] = os.environ, flags: Mapping[str, Any] | None = None
) -> Settings:
    """Read settings from a TOML file, the environment and flags (``{"listener.port": 104}``), later ones winning.

    Raises
    ------
    ConfigError
        Names the key, the value and what is allowed.
    NotBuilt
        Names a setting of the contract that this version does not have.
    """
    tree: dict[str, Any] = {}
    if config is not None:
        try:
            tree = tomllib.loads(config.read_text())
        except OSError as error:
            raise ConfigError(f"--config {config}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"--config {config}: not valid TOML: {error}") from error
    for name, text in environ.items():
        if name.startswith(_PREFIX):
            _assign(tree, name.removeprefix(_PREFIX).lower().split("__"), parse_value(text), name)
    for key, value in (flags or {}).items():
        if value is not None:
            _assign(tree, key.split("."), value, key)
    _refuse_not_built(tree)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(e) for e in error.errors())) from error


def parse_value(text: str) -> Any:
    """An environment value as TOML where it is (numbers, booleans, lists), else as the string it is."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _assign(tree: dict[str, Any], path: Sequence[str], value: Any, name: str) -> None:
    node: Any = tree
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(node, list):  # ICHOR_DESTINATIONS__0__PORT
            if not part.isdigit() or int(part) > len(node):
                raise ConfigError(f"{name}: {part!r} is not an index into {'.'.join(path[:depth])}")
            if int(part) == len(node):
                node.append({})
            if last:
                node[int(part)] = value
            node = node[int(part)]
        elif isinstance(node, dict):
            if last:
                node[part] = value
            else:
                follows_index = path[depth + 1].isdigit()
                node = node.setdefault(part, [] if follows_index else {})
        else:
            raise ConfigError(f"{name}: {'.'.join(path[:depth])} is not a table")


def _refuse_not_built(tree: Mapping[str, Any]) -> None:
    for path, allowed in _NOT_BUILT:
        table = tree.get(path[0], {})
        for entry in table if isinstance(table, list) else [table]:
            if isinstance(entry, dict) and path[1] in entry and entry[path[1]] != allowed:
                raise NotBuilt(f"{'.'.join(path)} = {entry[path[1]]!r}: not built in this version of Ichor")


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    if not where:
        return message
    if error["type"] == "extra_forbidden":
        return f"{where}: no such setting"
    if error["type"] == "missing":
        return f"{where}: required"
    return f"{where} = {error['input']!r}: {message}"
