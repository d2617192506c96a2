"""The roles: each by its name; and what those of `ichor receive` are spared, libraries that they never use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ichor.cli import roles
from ichor.cli.folder import DataFolder
from ichor.config import Settings

_PRELOAD = """
import sys
from ichor.cli import roles
assert not {"numpy", "pydicom"} & set(sys.modules), "before preload"
roles.preload(("receive", "receive-2", "relay", "stow"))
from pydicom.datadict import private_dictionaries
from listener import receiver, relay, stow
print(sys.modules["numpy"], len(private_dictionaries))
"""


def test_receiving_loads_neither_numpy_nor_the_dictionary_of_private_elements() -> None:
    done = subprocess.run([sys.executable, "-c", _PRELOAD], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("None 0\n", 0), done.stderr


_LIMITED = """
import resource, sys
from ichor.cli.commands import main
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 3_000))
main(["facts", sys.argv[1]])
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_every_command_may_open_as_many_files_as_the_system_allows(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["3000 3000"], done.stderr


def test_a_name_that_is_no_role_builds_nothing(tmp_path: Path) -> None:
    settings, folder = Settings(data=tmp_path), DataFolder(tmp_path)
    for name in ("receive", "nothing"):
        with pytest.raises(ValueError, match=name):
            roles.build(name, settings, folder, together=True)
    names = ("receive", "receive-2", "relay", "console")
    assert tuple(roles.build_all(names, settings, folder, together=True)) == names
