"""Which SOP classes are for storage. Not a list of what Ichor can measure: it stores them all."""

from __future__ import annotations

from functools import cache

from pydicom._uid_dict import UID_dictionary


@cache
def _known() -> dict[str, bool]:
    return {
        uid: kind == "SOP Class" and "Storage" in keyword and "StorageCommitment" not in keyword
        for uid, (_, kind, _, _, keyword) in UID_dictionary.items()
    }


def is_storage_class(uid: str) -> bool:
    """True for a storage class of PS3.6, retired ones too, and for every private or unknown UID."""
    return _known().get(uid, True)


def storage_classes() -> list[str]:
    """Every storage class that PS3.6 names."""
    return [uid for uid, storage in _known().items() if storage]
