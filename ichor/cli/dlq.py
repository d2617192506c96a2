"""`ichor dlq` and `ichor replay`: look at what was given up, and have it done again. Works while nothing serves too."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from ichor.bus.protocol import Bus, DeadLetter
from ichor.clock import rfc3339
from ichor.errors import ConfigError
from ichor.uids import is_valid_uid


def dlq(verb: str, letter: str | None, *, bus: Bus) -> int:
    """``list``, ``show ID`` or ``replay ID``; 1 when there is no such letter.

    Raises
    ------
    ConfigError
        When the ID is missing, or given to ``list``.
    """
    if (letter is None) != (verb == "list"):
        raise ConfigError(f"dlq {verb}: {'takes no ID' if letter else 'an ID is needed; `ichor dlq list` prints them'}")
    letters = bus.dead_letters()
    if letter is None:
        _print_table(letters)
        return 0
    found = next((entry for entry in letters if entry.letter_id == letter), None)
    if found is None:
        print(f"ichor dlq {verb}: there is no dead letter {letter}", file=sys.stderr)
        return 1
    if verb == "show":
        print(json.dumps(_shown(found), indent=2))
    else:
        bus.replay(found.letter_id)
        print(f"replayed {_line(found)}")
    return 0


def replay_study(uid: str, *, bus: Bus) -> int:
    """Deliver again every dead letter of the study; 1 when it has none.

    Raises
    ------
    ConfigError
        When ``uid`` is not a UID.
    """
    if not is_valid_uid(uid):
        raise ConfigError(f"replay {uid}: a Study Instance UID")
    letters = [entry for entry in bus.dead_letters() if entry.envelope.subject == uid]
    for entry in letters:
        bus.replay(entry.letter_id)
        print(f"replayed {_line(entry)}")
    if not letters:
        print(f"ichor replay: study {uid} has no dead letter: nothing of it was given up", file=sys.stderr)
    return 0 if letters else 1


def _print_table(letters: Sequence[DeadLetter]) -> None:
    for entry in letters:
        print(f"{_line(entry)}  {entry.envelope.subject}\n    {rfc3339(entry.at)}  {entry.reason}")
    print(f"{len(letters)} dead letter{'s' if len(letters) != 1 else ''}")


def _line(entry: DeadLetter) -> str:
    return f"{entry.letter_id}  {entry.topic}  {entry.group}  attempts: {entry.attempts}"


def _shown(entry: DeadLetter) -> dict[str, object]:
    return {
        "id": entry.letter_id,
        "topic": entry.topic,
        "group": entry.group,
        "attempts": entry.attempts,
        "reason": entry.reason,
        "at": rfc3339(entry.at),
        "message": entry.envelope.model_dump(mode="json"),
    }
