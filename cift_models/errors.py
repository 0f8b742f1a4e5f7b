"""Every error that CIFT raises on purpose.

    CiftError                     a message a person can act on; never a stack trace at the command line
    ├── InputError                what was asked cannot be done as asked
    │   ├── UnknownSymbol
    │   ├── EmptyRange            no stored data in the days that were asked for
    │   ├── FeedError             a file that is damaged, or not what it was said to be
    │   └── SettingsError         a setting that is misspelt, out of range or contradicts another
    ├── DataError                 rows that break a law of the canonical tables (time, NaN, schema)
    │   ├── SchemaMismatch        rows of another feature set or table version
    │   └── LeakError             a prediction that knew something too early
    ├── StoreError
    │   ├── StoreUnavailable      not there now; retryable
    │   ├── NotStored             the store answers, the thing is not in it
    │   └── Conflict              a compare-and-set lost; read again and decide
    ├── ReleaseError              a release that is damaged, incomplete or not allowed to be served
    └── FitError                  a fit that cannot be started (a numerical outcome is FitReport.status instead)

A driver's exception becomes one of these at the edge: `raise StoreUnavailable(...) from error`.
"""

from __future__ import annotations


class CiftError(Exception):
    """What happened, where, what was expected, what was found; `hint` says what to do.

    `retryable` is true where the same call may succeed later. Other keyword arguments are kept as attributes (evidence).
    """

    retryable = False

    def __init__(self, message: str, *, hint: str = "", **evidence: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.evidence = evidence
        for name, value in evidence.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class InputError(CiftError):
    """What was asked cannot be done as asked."""


class UnknownSymbol(InputError):
    """A symbol that no stored instrument has."""


class EmptyRange(InputError):
    """No stored data in the days that were asked for."""


class FeedError(InputError):
    """A file that is damaged, or not what it was said to be."""


class SettingsError(InputError):
    """A setting that is misspelt, out of range, or contradicts another."""


class DataError(CiftError):
    """Rows that break a law of the canonical tables."""


class SchemaMismatch(DataError):
    """Rows of another feature set or table version."""


class LeakError(DataError):
    """A prediction that knew something too early."""


class StoreError(CiftError):
    """A store that failed."""


class StoreUnavailable(StoreError):
    """The store does not answer now."""

    retryable = True


class NotStored(StoreError):
    """The store answers; the thing is not in it."""


class Conflict(StoreError):
    """A compare-and-set that lost to another writer."""


class ReleaseError(CiftError):
    """A release that is damaged, incomplete or not allowed to be served."""


class FitError(CiftError):
    """A fit that cannot be started."""
