"""pynetdicom as a sender in tests. Not the modality that speaks by hand: see unit/listener/modality.py."""

from __future__ import annotations

from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association

from ichor.checkpoint import hold_while_sending


def associate(entity: AE, port: int, *, called: str = "ICHOR", **options: Any) -> Association:
    """An association with 127.0.0.1 that loses no response, however late its thread comes on; it may be refused."""
    association = entity.associate("127.0.0.1", port, ae_title=called, **options)
    if association.is_established:
        hold_while_sending(association)
    return association
