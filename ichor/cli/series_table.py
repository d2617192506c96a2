"""What `ichor facts` prints for people: one line a series, and below it what speaks for and against. Looks at no file."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable
from typing import Any

from ichor.series.roles import Said, said_lines

_SLOTS_TOLD = 5  # missing ones of each series
_WIDTH = 110


def table(summaries: Iterable[dict[str, Any]]) -> str:
    """One line a series, and below it what speaks for and against."""
    lines: list[str] = []
    study = None
    for item in summaries:
        if item["study_instance_uid"] != study:
            study = item["study_instance_uid"]
            lines += ["", f"study {study}"] if lines else [f"study {study}"]
        lines += ["", *_series_lines(item)]
    # A header may hold what a terminal would obey.
    return "".join("".join(c if c.isprintable() else "?" for c in line) + "\n" for line in lines)


def _series_lines(item: dict[str, Any]) -> list[str]:
    roles = ", ".join(item["roles"]) or "no role"
    objects = "1 object" if item["instances"] == 1 else f"{item['instances']} objects"
    lines = [
        f"{item['modality'] or '-':<3} {item['kind']:<9} {_shape(item):<38} {item['grade']:<8} {roles:<14} "
        f"{item['series_instance_uid']}".rstrip()
    ]

    def say(label: str, *parts: str) -> None:
        for part in parts:
            lines.extend(
                textwrap.wrap(
                    part, _WIDTH, initial_indent=f"      {label:<9} ", subsequent_indent=" " * 16,
                    break_long_words=False, break_on_hyphens=False,
                )
            )  # fmt: skip
            label = ""

    form = [item["dialect"].replace("_", " "), objects, _spacing(item), f"in {item['unit']}" if item["unit"] else ""]
    say("form", ", ".join(part for part in form if part))
    if item["bvals"]:
        say("b", _b_values(item))
    if item["kind_reason"]:
        say("kind", f"{item['kind'].replace('_', ' ')}: {item['kind_reason']}")
    say("left out", *(f"{left['images']} images: {left['kind']}" for left in item["left_out"]))
    evidence = "; ".join(e["detail"] for e in item["evidence"])
    say("evidence", evidence)
    say("missing", *_missing(item))
    say("refused", *([item["refused"]] if item["refused"] else []))
    say("why", *([item["reason"]] if item["reason"] and item["reason"] != item["refused"] else []))
    say(
        "notes",
        *(note for note in item["notes"] if note not in evidence and not (item["missing"] and "missing" in note)),
    )
    say("rules", *said_lines([Said(**said) for said in item["rules"]]))
    return lines


def _shape(item: dict[str, Any]) -> str:
    if item["axes"] is None:
        return "-"
    return " x ".join(
        f"{axis['size']}" if axis["name"] in ("row", "column") else f"{axis['size']} {axis['name']}"
        for axis in item["axes"]
    )


def _spacing(item: dict[str, Any]) -> str:
    if item["stacks"] is None:
        return ""
    affine = item["stacks"][0]["affine_lps"]
    sides = [sum(affine[i][j] ** 2 for i in range(3)) ** 0.5 for j in (2, 1, 0)]
    return " x ".join(f"{side:.2f}" for side in sides) + " mm"


def _b_values(item: dict[str, Any]) -> str:
    volumes = Counter("not stated" if b is None else f"{b:g}" for b in item["bvals"])
    shells = [b + (f" ({count} volumes)" if count > 1 else "") for b, count in volumes.items()]
    text = ", ".join(shells[:12]) + (" and more" if len(shells) > 12 else "")
    return f"{text}; no directions: {item['gradients']}" if item["gradients"] else text


def _missing(item: dict[str, Any]) -> list[str]:
    slots = [
        ", ".join(
            f"{key.removesuffix('_mm').replace('_', ' ')} {_short(value)}"
            for key, value in slot.items()
            if key != "indices"
        )
        for slot in item["missing"]
    ]
    more = [f"and {len(slots) - _SLOTS_TOLD} more"] if len(slots) > _SLOTS_TOLD else []
    return slots[:_SLOTS_TOLD] + more


def _short(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
