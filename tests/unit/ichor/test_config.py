"""Settings: precedence, and errors that name the key, the value and what is allowed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ichor import config
from ichor.errors import ConfigError, NotBuilt
from ichor.series.rules import RULES, SOUND


def test_flags_win_over_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "ichor.toml"
    file.write_text('[listener]\nae_title = "FILE"\nport = 1\n[study]\nwait = "3s"\n')
    environ = {"ICHOR_LISTENER__PORT": "2", "ICHOR_LISTENER__AE_TITLE": "ENV", "PATH": "/bin"}
    settings = config.load(file, environ=environ, flags={"listener.port": 3, "data": None})
    assert (settings.listener.port, settings.listener.ae_title, settings.study.wait) == (3, "ENV", 3.0)


def test_lists_of_tables_can_come_from_the_environment() -> None:
    environ = {
        "ICHOR_DESTINATIONS__0__NAME": "pacs",
        "ICHOR_DESTINATIONS__0__AE_TITLE": "123",
        "ICHOR_DESTINATIONS__0__HOST": "127.0.0.1",
        "ICHOR_DESTINATIONS__0__PORT": "4242",
        "ICHOR_LISTENER__STAT_AE_TITLES": '["STAT1", "STAT2"]',
    }
    settings = config.load(environ=environ)
    assert settings.destinations[0].ae_title == "123"
    assert settings.destinations[0].port == 4242
    assert settings.listener.stat_ae_titles == ("STAT1", "STAT2")


def test_the_contract_file_of_the_documentation_is_read(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "ichor.toml").read_text()
    file = tmp_path / "ichor.toml"
    file.write_text(text)
    settings = config.load(file, environ={})
    assert settings.retention.spool == 7 * 86400
    assert settings.destinations[0].name == "pacs"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"listener.port": 99999}, ("listener.port", "99999", "65535")),
        ({"study.wait": "10x"}, ("study.wait", "10x", "10s")),
        ({"listner.port": 1}, ("listner", "no such setting")),
        ({"listener.ae_title": "SEVENTEEN-LETTERS"}, ("listener.ae_title", "16")),
        ({"models": {"haematoma-phantom": "weights.pt"}}, ("models.haematoma-phantom", "weights.pt", ".onnx")),
        ({"listener.durability": "maybe"}, ("listener.durability", "maybe", "association")),
        ({"listener.host": "0.0.0.0"}, ("senders", "loopback")),
        ({"listener.tls": {"cert": "x"}}, ("listener.tls.key", "required")),
        ({"listener.disk_low": "10 cups"}, ("listener.disk_low", "10 cups", "2GB")),
        ({"listener.disk_low": "1MB"}, ("listener", "disk_full", "disk_low")),
        ({"listener.stat_ae_titles": ["STAT", "ICHOR"]}, ("listener", "stat_ae_titles", "ae_title", "'ICHOR'")),
        ({"listener.associations": 0}, ("listener.associations", "0")),
        ({"senders": [{"ae_title": "A", "host": "h", "passcode_file": "f"}]}, ("senders.0", "username")),
        ({"console.host": "0.0.0.0"}, ("console.token_file",)),
    ],
)
def test_an_error_names_key_value_and_what_is_allowed(flags: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(environ={}, flags=flags)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("durability", ["instance", "association", "none"])
def test_every_level_of_durability_is_a_setting(durability: str) -> None:
    assert config.load(environ={}, flags={"listener.durability": durability}).listener.durability == durability


def test_sizes_are_written_with_their_unit() -> None:
    environ = {"ICHOR_LISTENER__DISK_LOW": "1.5GB", "ICHOR_LISTENER__DISK_FULL": "250kB"}
    listener = config.load(environ=environ).listener
    assert (listener.disk_low, listener.disk_full) == (1_500_000_000, 250_000)


RULE = {"name": "ours", "role": "t1", "meant": [{"fact": "modality", "relation": "is", "value": "MR"}]}


def test_rules_of_a_site_come_before_ours_and_keep_what_cannot_be_measured_out(tmp_path: Path) -> None:
    file = tmp_path / "ichor.toml"
    file.write_text(
        '[[rules]]\nname = "t1_ours"\nrole = "t1"\n'
        'meant = [{ fact = "echo_time", relation = "at most", value = 6, known = true }]\n'
        'usable = [{ fact = "coverage", relation = "at least", value = 120.0, reason = "half a brain" }]\n'
        'rank = [{ fact = "kernel", prefer = "soft" }, { fact = "coverage", prefer = "most", step = 20 }]\n'
        '[[rules]]\nname = "t1_spin_echo"\noff = true\n'
    )
    rules = config.load(file, environ={}).routing()
    ours = rules[0]
    assert (ours.name, ours.role, ours.meant[0].known, ours.meant[0].value) == ("t1_ours", "t1", True, 6)
    assert ours.usable[: len(SOUND)] == SOUND
    assert ours.usable[-1].reason == "half a brain"
    assert ours.rank == (("kernel", "soft", 1.0), ("coverage", "most", 20.0))
    assert [r.name for r in rules[1:]] == [r.name for r in RULES if r.name != "t1_spin_echo"]


def test_without_rules_of_a_site_ours_apply() -> None:
    assert config.load(environ={}).routing() == RULES


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "Our Rule"}, ("rules.0.name", "Our Rule")),
        ({"role": ""}, ("rules.0.role",)),
        ({"meant": []}, ("rules.0", "meant")),
        ({"meant": [{"fact": "modalty", "relation": "is", "value": "MR"}]}, ("rules.0.meant.0", "modalty", "modality")),
        ({"meant": [{"fact": "modality", "relation": "like", "value": "MR"}]}, ("rules.0.meant.0", "like", "is not")),
        ({"usable": [{"fact": "images", "relation": "at least", "value": "2"}]}, ("rules.0.usable.0", "whole number")),
        ({"rank": [{"fact": "coverage", "prefer": "high"}]}, ("rules.0.rank.0", "high", "most or least")),
        ({"off": True}, ("rules.0", "off")),
        ({"rnk": []}, ("rules.0.rnk", "no such setting")),
    ],
)
def test_a_wrong_rule_names_key_value_and_what_is_allowed(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(environ={}, flags={"rules": [{**RULE, **changes}]})
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("rules", [[RULE, RULE], [{"name": "nobody", "off": True}]])
def test_two_rules_of_one_name_and_an_unknown_one_switched_off_are_errors(rules: list[dict[str, Any]]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(environ={}, flags={"rules": rules})
    assert rules[0]["name"] in str(caught.value)


@pytest.mark.parametrize(
    ("durability", "sender", "named"),
    [
        ("none", {"port": 104}, "listener.durability"),
        ("association", {"port": 104}, "listener.durability"),
        ("instance", {}, "port"),
    ],
)
def test_storage_commitment_is_refused_where_it_could_not_be_kept_or_told(
    durability: str, sender: dict[str, Any], named: str
) -> None:
    senders = [{"ae_title": "CT1", "host": "10.1.2.3", **sender}]
    with pytest.raises(ConfigError) as caught:
        config.load(
            environ={}, flags={"listener.commitment": True, "listener.durability": durability, "senders": senders}
        )
    assert "listener.commitment" in str(caught.value)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({"destinations": [{"name": "a", "ae_title": "A", "host": "h", "port": 1, "commitment": True}]}, "commitment"),
    ],
)
def test_a_setting_that_is_not_built_is_refused_by_name(flags: dict[str, Any], name: str) -> None:
    with pytest.raises(NotBuilt) as caught:
        config.load(environ={}, flags=flags)
    assert name in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_bucket_is_a_shared_store() -> None:
    flags = {"store.url": "s3://images/some/site", "store.s3.endpoint": "https://s3.example.org:9000"}
    store = config.load(environ={}, flags=flags).store
    assert (store.is_bucket, store.is_shared, store.folder) == (True, True, None)
    with pytest.raises(ConfigError, match="durability"):
        config.load(environ={}, flags=flags | {"listener.durability": "association"})
    with pytest.raises(ConfigError, match=r"assemble\.shards"):
        config.load(environ={}, flags=flags | {"assemble.shards": 2})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("store.url", "s3://"), ("store.url", "s3://Images"), ("store.url", "s3://images/a//b"),
        ("store.url", "s3://images/../b"), ("store.url", "s3://images/a?b"), ("store.url", "gs://images"),
        ("store.s3.endpoint", "s3.example.org"), ("store.s3.endpoint", "https://key:secret@s3.example.org"),
    ],
)  # fmt: skip
def test_what_is_no_bucket_is_refused(key: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(environ={}, flags={key: value})
    assert key in str(caught.value)


def test_stow_is_off_when_absent_and_on_with_defaults_when_its_table_is_there() -> None:
    assert config.load(environ={}).listener.stow is None
    stow = config.load(environ={}, flags={"listener.stow": {}}).listener.stow
    assert stow is not None
    assert (stow.host, stow.port) == ("127.0.0.1", 8042)


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({"listener.stow.token_file": "t"}, "senders"),
        ({"senders": [{"ae_title": "A", "host": "10.1.2.3"}]}, "listener.stow.token_file"),
    ],
)
def test_stow_off_loopback_needs_a_token_and_a_list_of_senders(flags: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(environ={}, flags={"listener.stow.host": "0.0.0.0", **flags})
    assert name in str(caught.value)


def test_the_token_of_stow_is_read_from_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    settings = config.load(environ={}, flags={"listener.stow.token_file": str(tmp_path / "token")})
    assert settings.stow_token() == "secret"
    assert settings.token() is None
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"listener\.stow\.token_file"):
        settings.stow_token()


def test_the_contract_file_says_the_defaults_and_its_examples_are_settings(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "ichor.toml").read_text()
    own, defaults = config.load(_written(tmp_path, text), environ={}), config.Settings()
    assert own.model_dump(exclude={"destinations"}) == defaults.model_dump(exclude={"destinations"})
    given = tomllib.loads(text)
    for table in ("listener", "console", "bus", "store", "study", "retention"):
        optional = {"tls", "stow", "processes"} if table == "listener" else set()
        assert set(given[table]) == set(type(getattr(own, table)).model_fields) - optional
    examples = re.sub(r"^# (?=\[|[\w-]+ = )", "", text, flags=re.MULTILINE)
    whole = config.load(_written(tmp_path, examples), environ={})
    assert whole.listener.tls is not None
    assert whole.listener.stow == config.StowSettings()
    assert whole.senders[0].model_fields_set == set(config.SenderSettings.model_fields)
    assert [rule.name for rule in whole.rules] == ["t1_research"]
    assert whole.models == {"haematoma-phantom": Path("/srv/models/haematoma-own.onnx")}


def _written(folder: Path, text: str) -> Path:
    file = folder / "ichor.toml"
    file.write_text(text)
    return file


def test_kafka_is_named_by_its_servers_and_reached_as_its_table_says(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    flags = {
        "bus.url": "kafka://a:9092,b:9092",
        "bus.kafka": {"username": "ichor", "password_file": str(tmp_path / "password"), "message_bytes": "8MB"},
    }
    bus = config.load(environ={"ICHOR_BUS__KAFKA__PREFIX": "site1."}, flags=flags | {"bus.kafka.tls": True}).bus
    assert (bus.url, bus.kafka.tls, bus.kafka.message_bytes) == ("kafka://a:9092,b:9092", True, 8_000_000)
    assert bus.kafka.password() == "secret"


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({"bus.url": "kafka://host"}, "bus.url"),
        ({"bus.url": "amqp://host:1"}, "bus.url"),
        ({"bus.kafka.prefix": "a/b"}, "bus.kafka.prefix"),
        ({"bus.kafka.prefix": ""}, "bus.kafka.prefix"),
        ({"bus.kafka.ca": "ca.pem"}, "tls"),
        ({"bus.kafka.username": "ichor"}, "password_file"),
        ({"bus.kafka.mechanism": "GSSAPI"}, "bus.kafka.mechanism"),
    ],
)
def test_a_bus_that_cannot_be_reached_so_is_refused_naming_the_setting(flags: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(environ={}, flags=flags)
    assert name in str(caught.value)
