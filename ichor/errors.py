"""The one error tree. Each leaf says what its boundary needs: a DIMSE status, or retry, reject, stop.

::

    IchorError
    ├── ConfigError                 stop, exit 2
    ├── NotBuilt                    stop, exit 2: in the contract, not in this version
    ├── CannotStart                 stop, exit 1 (folder in use, port taken, newer data)
    ├── StoreRefused                answers a C-STORE: .status
    │   ├── ClassNotSupported       0x0122
    │   ├── OutOfResources          0xA700
    │   ├── DataSetMismatch         0xA900
    │   └── CannotUnderstand        0xC000
    ├── Unreadable                  an object or series that cannot be measured: .reason, job is "not analysed"
    ├── TransientError              retry, does not count as an attempt (PACS or broker away)
    ├── WorkerFault                 the worker's fault, not the message's: hand back, restart
    └── UnknownMessage              reject: an envelope this version cannot read
"""

from __future__ import annotations

from typing import ClassVar


class IchorError(Exception):
    """Base of all; its text holds no PHI."""

    exit_code: ClassVar[int] = 1


class ConfigError(IchorError):
    """A setting is wrong: names the key, the value and what is allowed."""

    exit_code = 2


class NotBuilt(IchorError):
    """A command or setting of the contract that this version does not have."""

    exit_code = 2


class CannotStart(IchorError):
    """The environment does not let a role start."""


class StoreRefused(IchorError):
    """A C-STORE that is answered with a failing ``status``; ``reason`` is listed under refusals."""

    status: ClassVar[int] = 0xC000

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ClassNotSupported(StoreRefused):
    status = 0x0122


class OutOfResources(StoreRefused):
    status = 0xA700


class DataSetMismatch(StoreRefused):
    status = 0xA900


class CannotUnderstand(StoreRefused):
    status = 0xC000


class Unreadable(IchorError):
    """An object, series or study that cannot be measured; ``reason`` is shown to people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TransientError(IchorError):
    """Try again later; not counted as an attempt."""


class WorkerFault(IchorError):
    """This process is broken (out of memory, device fault); another one may do the same job."""


class UnknownMessage(IchorError):
    """A message of a type or schema version that this reader does not know."""
