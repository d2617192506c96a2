"""The runtimes report nothing to anybody and leave no identity behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_runtimes_leave_nothing_in_the_home_folder_and_load_no_reporter(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from engines.catalogue import load_model\n"
        "load_model('haematoma-phantom', folder=pathlib.Path(sys.argv[1]), threads=1)\n"
        "print(sorted(m for m in sys.modules if 'telemetry' in m and sys.modules[m] is not None))"
    )
    home = tmp_path / "home"
    home.mkdir()
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "ORT_"))} | {"HOME": str(home)}
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cache")], env=environ, capture_output=True, text=True, check=True
    )
    assert [p for p in home.rglob("*") if p.is_file()] == []
    assert "openvino_telemetry" not in out.stdout
