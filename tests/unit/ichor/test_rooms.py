"""The arrows of the design, held: which room may import which, and who alone may use a library."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ROOMS = ("ichor", "listener", "pipelines", "engines", "dicom_out", "console", "phantoms")
# Room -> rooms it may import. ichor/cli is the composition root and not listed: it may import all.
MAY = {
    "ichor": set(),
    "listener": {"ichor"},
    "pipelines": {"ichor", "engines"},
    "engines": {"ichor"},
    "dicom_out": {"ichor"},
    "console": {"ichor"},
    "phantoms": {"ichor"},
}
# Library -> places that may import it.
ALONE = {
    "pynetdicom": ("listener/", "dicom_out/", "ichor/cli/"),
    "highdicom": ("dicom_out/",),
    "torch": ("engines/",),
    "openvino": ("engines/",),
    "onnxruntime": ("engines/",),
    "starlette": ("console/",),
    "uvicorn": ("console/",),
    "kafka": ("ichor/bus/",),
    "s3fs": ("ichor/store/bucket.py",),
    "botocore": ("ichor/store/bucket.py",),
    "sqlite3": ("ichor/bus/", "ichor/store/", "ichor/wal.py", "listener/"),
}


@cache
def imports(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
    return found


def modules(room: str) -> list[Path]:
    return [p for p in (ROOT / room).rglob("*.py") if not p.is_relative_to(ROOT / "ichor" / "cli")]


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room: str) -> None:
    assert modules(room), f"{room} is empty"
    wrong = {
        (str(path.relative_to(ROOT)), name)
        for path in modules(room)
        for name in imports(path)
        if (top := name.split(".")[0]) in ROOMS and top != room and top not in MAY[room]
    }
    assert wrong == set()


def test_only_the_composition_root_is_above_the_rooms() -> None:
    wrong = {
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in modules(room)
        if any(name == "ichor.cli" or name.startswith("ichor.cli.") for name in imports(path))
        and path.name != "__main__.py"
    }
    assert wrong == set()


@pytest.mark.parametrize("library", ALONE)
def test_a_library_stays_in_its_rooms(library: str) -> None:
    places = [p for room in ROOMS for p in (ROOT / room).rglob("*.py")]
    users = {str(p.relative_to(ROOT)) for p in places if any(n.split(".")[0] == library for n in imports(p))}
    assert {u for u in users if not u.startswith(ALONE[library])} == set()


def test_types_import_nothing_of_ours() -> None:
    assert not {n for n in imports(ROOT / "ichor" / "types.py") if n.split(".")[0] in ROOMS}


def test_serving_never_imports_torch() -> None:
    code = (
        "import sys\n"
        "from ichor.cli import roles, supervisor\n"
        "roles.preload(supervisor.roles_of(*supervisor.COMMANDS, stow=True))\n"
        "import ichor.cli.models, ichor.cli.demo, engines.segmentation\n"
        "import engines.openvino_runtime, engines.onnx_runtime\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] == 'torch'))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_tests_send_with_the_library_by_one_helper() -> None:
    # An association that is not held loses a response now and then: see `ichor.checkpoint`.
    tests = ROOT / "tests"
    wrong = {
        str(path.relative_to(tests))
        for path in tests.rglob("*.py")
        if ".associate(" in (text := path.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "associate"
    }
    assert wrong == {"requestor.py"}
