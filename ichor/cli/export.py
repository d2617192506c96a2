"""`ichor export`: the stored objects of a study or series as DICOM files. Copies bytes, decodes nothing."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ichor.cli.folder import DataFolder
from ichor.cli.stores import open_spool
from ichor.errors import ConfigError, IchorError
from ichor.store.journal import JournalReader, JournalRow
from ichor.store.protocol import SpoolReader
from ichor.uids import is_valid_uid


def export(uid: str, *, out: Path, folder: DataFolder) -> int:
    """Write ``out/<study>/<series>/<sop>.dcm`` for everything stored under ``uid``; 1 when something is missing.

    Of several versions under one SOP Instance UID the later ones, in order of arrival, are named ``<sop>-2.dcm`` and
    so on. The data sets are byte-identical to what was sent. An equal file that is there already is left alone.

    Raises
    ------
    ConfigError
        When ``uid`` is not a UID.
    CannotStart
        When nothing has ever been received here.
    IchorError
        When ``out`` cannot be written, or holds another file under one of the names.
    """
    if not is_valid_uid(uid):
        raise ConfigError(f"export {uid}: a Study or Series Instance UID")
    journal = JournalReader(folder.journal, receipts=folder.receipts)
    try:
        rows = journal.by_study(uid) or journal.by_series(uid)
    finally:
        journal.close()
    if not rows:
        print(f"ichor export: no stored object of study or series {uid}", file=sys.stderr)
        return 1
    return _export(rows, out, open_spool(folder))


def _export(rows: Sequence[JournalRow], out: Path, spool: SpoolReader) -> int:
    versions: Counter[tuple[str, str, str]] = Counter()
    seen: set[tuple[str, str]] = set()
    written = missing = 0
    for row in rows:
        stored = row.stored
        key = (stored.study_instance_uid, stored.series_instance_uid, stored.sop_instance_uid)
        try:
            with spool.open(stored.location) as file:
                content = file.read()
        except KeyError:
            missing += 1
            versions[key] += 1
            continue
        # What is in the receipts log only may be the same bytes again: the journal has not sorted that out yet.
        sha256 = stored.file_sha256 or hashlib.sha256(content).hexdigest()
        if (stored.sop_instance_uid, sha256) in seen:
            continue
        seen.add((stored.sop_instance_uid, sha256))
        versions[key] += 1
        suffix = f"-{versions[key]}" if versions[key] > 1 else ""
        _write(out / key[0] / key[1] / f"{key[2]}{suffix}.dcm", content)
        written += 1
    again = sum(count - 1 for count in versions.values())
    print(f"exported {written} objects to {out}" + (f" ({again} of them further versions)" if again else ""))
    if missing:
        print(f"ichor export: {missing} objects are not in the spool any more (retention)", file=sys.stderr)
    return 1 if missing else 0


def _write(target: Path, content: bytes) -> None:
    """The whole file or none, never over another one."""
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        try:
            os.link(draft, target)
        except FileExistsError:
            if target.read_bytes() != content:
                raise IchorError(f"{target} exists with other content; export to another folder") from None
        finally:
            draft.unlink()
    except OSError as error:
        raise IchorError(f"{error.filename or target}: {error.strerror}") from error
