"""Writes what `values.schema.json` says of `settings`: the keys that Ichor has, less those that the chart sets itself.

Keys only; values are judged by Ichor. Run it when `ichor.config` has changed: ``python helm/values_schema.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ichor.config import Settings

SCHEMA = Path(__file__).parent / "ichor" / "values.schema.json"
# Set by the chart, of what only it knows.
CHART = (
    "data", "console", "store.url", "store.receiver", "assemble.shards", "listener.port", "listener.tls", "listener.stow", "bus.url",
    *(f"bus.kafka.{key}" for key in ("prefix", "tls", "ca", "cert", "key", "username", "password_file", "mechanism", "member")),
)  # fmt: skip


def settings_schema() -> dict[str, Any]:
    """JSON Schema of the value `settings`."""
    whole = Settings.model_json_schema()
    return _keys(whole, whole.get("$defs", {}), "")


def _keys(node: dict[str, Any], tables: dict[str, Any], path: str) -> dict[str, Any]:
    if "$ref" in node:
        return _keys(tables[node["$ref"].rpartition("/")[2]], tables, path)
    for kind in node.get("anyOf", ()):  # of a table or nothing
        if "$ref" in kind:
            return _keys(kind, tables, path)
    if "properties" in node:
        inside = {key: f"{path}.{key}".removeprefix(".") for key in node["properties"]}
        kept = {
            key: _keys(value, tables, inside[key])
            for key, value in node["properties"].items()
            if inside[key] not in CHART
        }
        return {"type": "object", "additionalProperties": False, "properties": kept}
    if node.get("type") == "array":
        return {"type": "array", "items": _keys(node["items"], tables, path)} if "items" in node else {"type": "array"}
    return {"type": "boolean"} if node.get("type") == "boolean" else {}


def main() -> None:
    schema = json.loads(SCHEMA.read_text())
    schema["properties"]["settings"] = settings_schema()
    SCHEMA.write_text(json.dumps(schema, indent=1) + "\n")


if __name__ == "__main__":
    main()
