"""docs/training.md against the command line; and that no document installs a stranger's package."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ichor.cli.commands import _parser

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = re.findall(r"^    (ichor .+)$", (ROOT / "docs" / "training.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_document_installs_by_a_name_that_is_anothers(path: Path) -> None:
    assert not re.search(r"(?<!helm )install\s+(-\S+\s+)*['\"]?ichor\b", path.read_text())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_document_is_one(command: str) -> None:
    options = _parser().parse_args(shlex.split(command)[1:])
    assert options.name == "haematoma"


def test_the_document_has_the_commands_of_both_ways() -> None:
    assert len(COMMANDS) == 10
