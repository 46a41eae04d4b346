"""The audit log: who ran a command that changes something, on what, when, and how it ended."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Thread
from typing import TYPE_CHECKING

from snapengine.cli.failures import describe
from snapengine.cli.output import Output
from snapengine.errors import SnapEngineError, UsageError
from snapengine.instants import render
from snapengine.model import AuditRecord, Level

if TYPE_CHECKING:
    from snapengine.engine import Engine
    from snapengine.views import View

IDENTITY_SECONDS = 5.0
"""How long a command may wait to learn its AWS identity; networks without a way to STS are common."""

STARTED = "started"
OK = "ok"
INTERRUPTED = "interrupted"


@dataclass(slots=True)
class Audit:
    """The line to be, while its command runs."""

    actor: str
    """Who it is that changes something."""
    detail: str = ""


@contextmanager
def audited(
    engine: Engine,
    out: Output,
    action: str,
    target: str,
    *,
    detail: str = "",
    ask_aws: bool = True,
    started: bool = True,
) -> Iterator[Audit]:
    """Write an audit line before what happens inside, and one when it has ended, however it ends: of a
    process that is killed in between, the first stays. `detail` says what is about to be done; `started`
    is false for what makes the log itself.

    Nothing is done unless the first line can be written. A change whose last line cannot be is an error,
    and says that the change was made; a failure whose line cannot be written stays that failure, and a
    warning is added.
    """
    began = engine.clock()
    who = actor(engine, ask_aws=ask_aws)
    audit = Audit(who, detail)
    if started:
        try:
            engine.store.append_audit(AuditRecord(began, who, action, target, STARTED, detail))
        except SnapEngineError as lost:
            raise SnapEngineError(
                f"{action} {target} was not begun, as its audit line could not be written: {lost}"
            ) from lost
    try:
        yield audit
    except BaseException as error:
        _note_failure(
            engine, out, AuditRecord(_after(began, engine), who, action, target, "", audit.detail), error
        )
        raise
    try:
        engine.store.append_audit(AuditRecord(_after(began, engine), who, action, target, OK, audit.detail))
    except SnapEngineError as lost:
        raise SnapEngineError(
            f"{action} {target} was done, but its audit line could not be written: {lost} "
            "The command may be run again."
        ) from lost


def at_level(
    engine: Engine, out: Output, make: Callable[[Level], View], level: Level, *, fixed: bool = False
) -> View:
    """The view that `make` gives at a level. Where the bucket has to be listed for it, and what was missing
    is stored, audit lines say so; a `fixed` view is what it is, and nothing is listed for it."""
    if level != "verified" or fixed:
        return make(level)
    view = make("provisional")
    if view.completeness.level == level:
        return view
    target = f"{view.bucket}/{view.prefix}" if view.prefix else view.bucket
    with audited(engine, out, "reconcile", target, detail=f"for a verified view of {render(view.ref.at)}"):
        return make(level)


@contextmanager
def attempted(
    engine: Engine, out: Output, action: str, target: str, *, ask_aws: bool = True
) -> Iterator[None]:
    """Write an audit line of what fails inside, before anything is changed. Bad usage leaves none, as
    nothing was tried."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, UsageError):
            who = actor(engine, ask_aws=ask_aws)
            _note_failure(engine, out, AuditRecord(engine.clock(), who, action, target, ""), error)
        raise


def _note_failure(engine: Engine, out: Output, line: AuditRecord, error: BaseException) -> None:
    said = str(error)
    detail = f"{line.detail}; error: {said}" if line.detail and said else line.detail or said
    try:
        engine.store.append_audit(replace(line, outcome=outcome_of(error), detail=detail))
    except SnapEngineError as lost:
        out.warn(f"The audit log has no line of this failure, as it could not be written: {lost}")


def _after(began: int, engine: Engine) -> int:
    """Now, and later than the first line: lines of one millisecond are in no order."""
    return max(engine.clock(), began + 1)


def outcome_of(error: BaseException) -> str:
    """`interrupted`, or `failed: ` and the error's code."""
    code, _, _ = describe(error)
    return INTERRUPTED if code == INTERRUPTED else f"failed: {code}"


def actor(engine: Engine, *, ask_aws: bool) -> str:
    """The setting `actor`; else the AWS identity, if AWS is to be asked and answers; else user@host."""
    if engine.settings.actor:
        return engine.settings.actor
    return (_aws_identity(engine) if ask_aws else None) or f"{_user()}@{socket.gethostname()}"


def _aws_identity(engine: Engine) -> str | None:
    found: list[str] = []

    def ask() -> None:
        try:
            client = engine.client("sts")
            found.append(str(client.get_caller_identity()["Arn"]))
        except Exception:  # noqa: BLE001, S110  # no identity, whatever the reason: user@host says who it was
            pass

    # A thread, as the SDK's own limits allow a call to last minutes; a daemon, so as not to outlast us.
    asking = Thread(target=ask, name="snapengine-identity", daemon=True)
    asking.start()
    asking.join(IDENTITY_SECONDS)
    return found[0] if found else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid-{os.getuid()}"
