"""What the processes of `ichor receive` are spared: libraries that take memory and that they never use."""

from __future__ import annotations

import subprocess
import sys

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
