"""What the Dockerfile asks of the build's context is let through. Builds nothing: that is `test_image`'s."""

from __future__ import annotations

import re

from .conftest import CHART, ROOT


def test_every_requirements_file_that_an_image_can_be_built_with_is_let_through() -> None:
    texts = [path.read_text() for path in (ROOT / "Dockerfile", ROOT / "docs" / "cluster.md", CHART / "values.yaml")]
    named = {f"requirements/{name}.txt" for text in texts for name in re.findall(r"REQUIREMENTS=(\w+)", text)}
    assert named == {"requirements/serve.txt", "requirements/s3.txt"}
    assert all((ROOT / name).is_file() for name in named)
    assert {f"!{name}" for name in named} <= set((ROOT / ".dockerignore").read_text().split())
