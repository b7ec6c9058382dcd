"""Why the stack does not start, or stops: always one sentence a person can act on, never a traceback.

StackError
├── CannotInstall     a tool or package is missing, or is not the one that was pinned
├── NotAllowed        asked for something that is refused: an address, a port, a half-configured account
├── PortInUse         somebody else listens where we must
├── DiskFull          no room left where `var/` is
├── AlreadyRunning    another stack owns this `var/`
├── NotReady          a process runs and does not answer
└── ProcessStopped    a process ended that should not have
"""

from __future__ import annotations


class StackError(Exception):
    """The message is the sentence to show."""


class CannotInstall(StackError):
    pass


class NotAllowed(StackError):
    pass


class PortInUse(StackError):
    pass


class DiskFull(StackError):
    pass


class AlreadyRunning(StackError):
    pass


class NotReady(StackError):
    pass


class ProcessStopped(StackError):
    pass
