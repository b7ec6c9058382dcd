"""What a step is, and what it may use.

A step does one thing one can say aloud. `do` and `undo` tolerate being run twice, at any instant after a crash: in `do` "already
exists" is success, in `undo` "not found" is, and only what this Operation made is removed. A step writes to the database
only inside `run.transaction()`, which ends the run when another worker has taken over, and calls out only outside of it. It
never sleeps: it raises NotYet.

StepError
├── NotYet        come back later; nothing went wrong, and it is no attempt
└── StepFailed    it cannot be done; `code` and message are for the tenant
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, ClassVar, Protocol

from django.utils import timezone

from hosting.cloudflare.port import Cloudflare
from hosting.models import Operation


class StepError(Exception):
    pass


class NotYet(StepError):
    """`after_s` from now it is worth another look. The message says what is waited for."""

    def __init__(self, after_s: float, message: str = "") -> None:
        super().__init__(message)
        self.after_s = after_s


class StepFailed(StepError):
    def __init__(self, code: str, message: str, *, is_permanent: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.is_permanent = is_permanent


class Hold(Protocol):
    """A claimed Operation, as the engine holds it."""

    tenant_id: str
    operation_id: str

    def transaction(self) -> Any: ...
    def assure(self) -> None: ...
    def say(self, message: str) -> None: ...
    def cloudflare(self, account_id: str, *, is_priority: bool) -> Cloudflare: ...


class Run:
    """What a step is given: the Operation it works for, a fenced transaction, and Cloudflare."""

    def __init__(self, hold: Hold, operation: Operation, *, started_at: datetime) -> None:
        self._hold = hold
        self.tenant_id = hold.tenant_id
        self.operation_id = hold.operation_id
        self.server_id = operation.server_id
        self.environment_id = operation.environment_id
        self.input: dict[str, Any] = operation.input
        self.context: dict[str, Any] = dict(operation.context)
        self.requested_by = operation.requested_by
        self.started_at = started_at  # of the step's first attempt

    @contextmanager
    def transaction(self) -> Iterator[Operation]:
        """As the tenant, with the Operation's row locked. Raises LostLease when it is no longer ours."""
        with self._hold.transaction() as operation:
            yield operation

    def remember(self, operation: Operation, **values: Any) -> None:
        """Adds to the Operation's context, in the transaction `operation` came from. Names and ids, never secrets."""
        self.context.update(values)
        operation.context = self.context
        operation.save(update_fields=["context"])

    def cloudflare(self, account_id: str) -> Cloudflare:
        return self._hold.cloudflare(account_id, is_priority=bool(self.context.get("is_priority")))

    def assure(self) -> None:
        """Makes sure the Operation is ours for another while. Raises LostLease. Every call to Cloudflare does it by itself."""
        self._hold.assure()

    def say(self, message: str) -> None:
        """What people see beside the step while it runs."""
        self._hold.say(message)

    def waited_s(self) -> float:
        return (timezone.now() - self.started_at).total_seconds()


class Step(ABC):
    """`bound`: attempts before it gives up; None: never. `can_be_left`: behind the pivot, giving up does not stop the rest.
    `leaves_error`: … but the Operation then ends as failed."""

    name: ClassVar[str]
    bound: ClassVar[int | None] = 6
    can_be_left: ClassVar[bool] = False
    leaves_error: ClassVar[bool] = False

    @abstractmethod
    def do(self, run: Run) -> None: ...

    def undo(self, run: Run) -> None:  # noqa: B027 - nothing is what most have to undo
        """Most steps leave nothing behind that another step does not take away."""
