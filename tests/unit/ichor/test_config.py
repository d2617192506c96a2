"""Settings: precedence, and errors that name the key, the value and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ichor import config
from ichor.errors import ConfigError, NotBuilt


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
        ({"listener.durability": "maybe"}, ("listener.durability", "maybe", "association")),
        ({"listener.host": "0.0.0.0"}, ("senders", "loopback")),
        ({"console.host": "0.0.0.0"}, ("console.token_file",)),
    ],
)
def test_an_error_names_key_value_and_what_is_allowed(flags: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(environ={}, flags=flags)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({"listener.tls": {"cert": "x"}}, "listener.tls"),
        ({"listener.stow": {}}, "listener.stow"),
        ({"listener.commitment": True}, "listener.commitment"),
        ({"bus.url": "kafka://h:9092"}, "bus.url"),
        ({"store.url": "s3://b/p"}, "store.url"),
        ({"destinations": [{"name": "a", "ae_title": "A", "host": "h", "port": 1, "commitment": True}]}, "commitment"),
    ],
)
def test_a_setting_that_is_not_built_is_refused_by_name(flags: dict[str, Any], name: str) -> None:
    with pytest.raises(NotBuilt) as caught:
        config.load(environ={}, flags=flags)
    assert name in str(caught.value)
    assert caught.value.exit_code == 2
