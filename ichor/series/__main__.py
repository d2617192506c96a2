"""``python -m ichor.series`` prints docs/series.md: the words of ``ichor facts`` and the rules of routing, from the code."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import groupby
from typing import Any

from ichor.reasons import Reason
from ichor.series.rules import RELATIONS, RULES, SOUND, Check, Rule, SeriesFacts, fact_types
from ichor.types import AxisName, Component, Dialect, Grade, Kind

_DIALECTS: Mapping[Dialect, str] = {
    Dialect.CLASSIC: "one image per object; place and axes from standard and vendors' private attributes",
    Dialect.SIEMENS_MOSAIC: "all slices of a volume as tiles of one image (Siemens)",
    Dialect.UIH_TILED: "the same of United Imaging",
    Dialect.ENHANCED: "multi-frame with functional groups (PS3.3 C.7.6.16)",
    Dialect.MULTIFRAME: "multi-frame without functional groups: frames have no place of their own",
}
_KINDS: Mapping[Kind, str] = {
    Kind.IMAGE: "an image as acquired and reconstructed; these make the array",
    Kind.LOCALIZER: "localizer, scout, topogram",
    Kind.SECONDARY_CAPTURE: "secondary capture, screen save",
    Kind.TRACE: "trace-weighted (isotropic) diffusion image",
    Kind.ADC: "apparent diffusion coefficient",
    Kind.FA: "fractional anisotropy",
    Kind.MIP: "maximum or minimum intensity projection",
    Kind.REFORMAT: "reformat (MPR)",
    Kind.DERIVED: "any other derived image",
    Kind.REPORT: "no image: structured report, document, presentation state, waveform",
}
_AXES: Mapping[AxisName, str] = {
    AxisName.STACK: "Stack IDs, or numbers from 1",
    AxisName.COMPONENT: ", ".join(Component),
    AxisName.IMAGE_TYPE: "values 3 and later of Image Type, joined by backslashes",
    AxisName.ECHO: "echo times, ms",
    AxisName.DIFFUSION: "b-values, s/mm2, one per volume; directions are in `bvecs_lps`",
    AxisName.TIME: "seconds after the first",
    AxisName.TEMPORAL_POSITION: "Temporal Position Identifier (0020,0100), where no time is stated",
    AxisName.ACQUISITION: "Acquisition Number (0020,0012)",
    AxisName.REPETITION: "1..n, volumes that only their order tells apart",
    AxisName.SLICE: "mm along the normal, ascending; null where stacks differ",
    AxisName.ROW: "null",
    AxisName.COLUMN: "null",
}
_GRADES: Mapping[Grade, str] = {
    Grade.COUNTED: "complete: a count agrees with a grid without a gap",
    Grade.REGULAR: "complete: no count; association released, grid without a gap",
    Grade.QUIET: "complete: evidence is silent or contradicts itself; a quiet time has passed. Or a count agrees: not yet released",
    Grade.OPEN: "images may still come (never in a folder)",
    Grade.SHORT: "known to lack images; `missing` names the slots where the grid tells them",
}


def document() -> str:
    """The page as committed."""
    return "\n".join(
        [
            "# Words and rules of series",
            "",
            "Written by `python -m ichor.series`; a test holds the page to the code. "
            "`ichor facts DIR [--json]` and `ichor array` speak in these words.",
            "",
            *_terms("dialect", _DIALECTS),
            *_terms("kind", _KINDS),
            *_terms("axes: name", _AXES, column="values"),
            "Leading axes come slowest first, in the order of this table; `shape` has the sizes of all. "
            "`affine_lps` maps (column, row, slice) to mm in patient coordinates (LPS).",
            "",
            *_terms("grade", _GRADES),
            *_roles(RULES),
            *_own(),
            "## Reasons",
            "",
            "The one list; `refused`, REST, reports and `ichor why` print them as they stand, some with a detail after a colon.",
            "",
            *(f"- {reason.value}" for reason in Reason),
            "",
        ]
    )


def _terms(title: str, about: Mapping[Any, str], *, column: str = "means") -> list[str]:
    rows = [f"| `{term.value}` | {about[term]} |" for term in type(next(iter(about)))]
    return [f"## Values of `{title}`" if ":" not in title else "## Axis names", "", f"| name | {column} |", "|---|---|", *rows, ""]  # fmt: skip


def _roles(rules: Sequence[Rule]) -> list[str]:
    lines = [
        "## Roles and their rules",
        "",
        "A series is *meant* for a role when every check of the first list holds, and *plays* it when those of the second "
        "do too; else it is *refused* with the reason. Facts that nothing tells pass, but for those marked *known*. "
        "Of several rules of one role the first ranks first.",
        "",
        "Every `usable` begins with what can be measured at all: " + _checks(SOUND) + ".",
        "",
    ]
    for rule in rules:
        own = [check for check in rule.usable if check not in SOUND]
        rank = ", ".join(f"{fact} ({_wish(wish)})" for fact, wish, _ in rule.rank)
        lines += [
            f"### `{rule.role}` by `{rule.name}`",
            "",
            f"{rule.about[0].upper()}{rule.about[1:]}.",
            "",
            f"- meant: {_checks(rule.meant)}",
            f"- usable: {_checks(own)}" if own else "- usable: nothing more",
            f"- ranks by: {rank}",
            "",
        ]
    return lines


def _own() -> list[str]:
    hints = typing.get_type_hints(SeriesFacts, include_extras=True)
    rows = [f"| `{name}` | {_type(kind)} | {_about(hints[name])} |" for name, kind in fact_types().items()]
    return [
        "## Rules of a site",
        "",
        "In `ichor.toml`; what is wrong stops the start with the key, the value and what is allowed. A rule with the name of "
        "one of ours stands in its place, another comes before ours. What cannot be measured at all stays refused.",
        "",
        "```toml",
        "[[rules]]",
        'name = "t1_research"                    # shown by facts and why',
        'role = "t1"                             # one of ours, or a new one for a pipeline of the site',
        "meant = [",
        '  { fact = "modality", relation = "is", value = "MR", reason = "not an MR" },',
        '  { fact = "echo_time", relation = "at most", value = 6.5, known = true },   # known: an unknown one fails',
        "]",
        'usable = [{ fact = "coverage", relation = "at least", value = 120 }]',
        'rank = [{ fact = "coverage", prefer = "most", step = 20 }]                   # best first',
        "[[rules]]",
        'name = "t1_spin_echo"                   # one of ours',
        "off = true",
        "```",
        "",
        f"Relations: {', '.join(f'`{relation}`' for relation in RELATIONS)}.",
        "",
        "| fact | is | says |",
        "|---|---|---|",
        *rows,
        "",
    ]


def _checks(checks: Iterable[Check]) -> str:
    """Checks that fail for the same reason share it."""
    by_reason = [(reason, list(group)) for reason, group in groupby(checks, key=lambda check: check.reason)]
    return "; ".join(f"{_conditions(group)} (*{_own_text(reason)}*)" for reason, group in by_reason)


def _own_text(reason: str) -> str:
    return "its text" if reason == "*" else reason.replace("*", "\\*")


def _conditions(checks: Sequence[Check]) -> str:
    words, left = [], list(checks)
    while left:
        check = left.pop(0)
        known = ", known" if check.known else ""
        if left and left[0].fact == check.fact and (check.relation, left[0].relation) == ("at least", "at most"):
            words.append(f"`{check.fact}` {_value(check.value)} to {_value(left.pop(0).value)}{known}")
        elif check.value is None:
            words.append(f"`{check.fact}` says nothing")
        elif not check.value and check.relation in ("is", "has only") and check.value is not False:
            words.append(f"no `{check.fact}`")
        else:
            words.append(f"`{check.fact}` {check.relation} {_value(check.value)}{known}")
    return ", ".join(words)


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(_value(v) for v in value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _wish(wish: Any) -> str:
    return f"{wish} first" if wish in ("most", "least") else f"{_value(wish)} first"


def _type(kind: type) -> str:
    if issubclass(kind, StrEnum):
        return ", ".join(kind)
    return {bool: "true, false", int: "whole number", float: "number", str: "text", tuple: "list of texts"}[kind]


def _about(hint: Any) -> str:
    return str(hint.__metadata__[0]) if hasattr(hint, "__metadata__") else ""


if __name__ == "__main__":
    print(document(), end="")
