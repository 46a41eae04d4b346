"""Notes of the views that runs see, in our table and in MLflow: made beside the training, whole by its end.

A note is claimed in the table at once; its digest, its counts and all that MLflow is told follow in a thread.
What fails warns, and is tried again when the run ends. Nothing here raises into training.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import partial, wraps
from threading import RLock
from typing import TYPE_CHECKING, Any

from snapengine.cautions import RunNotNoted, SnapEngineWarning, caution
from snapengine.errors import LogDamaged, VersionGone
from snapengine.model import RunNote
from snapengine.run_notes import QUERY_LIMIT, cut, query_tag, view_name
from snapengine.tracking.active import Run, without_credentials
from snapengine.tracking.forking import GATE

if TYPE_CHECKING:
    from snapengine.engine import Engine
    from snapengine.model import SnapshotRef
    from snapengine.selections import Chosen
    from snapengine.views import View

_log = logging.getLogger("snapengine.tracking")
_THREADS = 4
_AGAIN = "It is tried again when the run ends."


class Job:
    """One view that one run saw, and how far it is noted."""

    def __init__(
        self, engine: Engine, run: Run, view: View, *, own: bool, context: str | None, pin: bool = False
    ) -> None:
        self._engine = engine
        self._view: View | None = view
        self.run = run
        self.context = context
        self.note = note_of(run, view, own=own, now=engine.clock())
        self.steps: dict[str, Callable[[], None]] = {"the table": self._keep, "MLflow": self._tell}
        """What is left to do, by where."""
        if pin:
            self.steps["S3"] = partial(self._hold, view)
        self.failed: dict[str, Exception] = {}
        self._queries: set[str] = set()
        """The keys of the tags of conditions."""
        self.coming: list[Future[None]] = []

    def __str__(self) -> str:
        return f"That run {self.run.run_id} saw {self.note.reference}"

    def claim(self) -> None:
        """Keep in the table that the run sees this view, before anything is known of its rows."""
        try:
            self._put()
        except Exception as error:  # noqa: BLE001  # whatever it is, training goes on; it is told, and tried again
            self.failed["the table"] = error
            warn(f"{self} could not be noted in the table yet: {_said(error)} {_AGAIN}")

    def _put(self) -> None:
        with GATE:
            kept = self._engine.store.put_note(self.note)
        if not kept:
            raise LogDamaged(f"The table has {self.note.reference} noted with another digest.")

    def go_on(self, silent: Exception | None = None) -> None:
        """Take the steps that are left, each whatever becomes of the others; those of MLflow not where its
        server is known to be `silent`."""
        for name in list(self.steps):
            if silent is not None and name.startswith("MLflow"):
                self.failed.setdefault(name, silent)
            else:
                self._take(name)

    def _take(self, name: str) -> None:
        step = self.steps.get(name)
        if step is None:  # another thread took it
            return
        try:
            step()
        except Exception as error:  # noqa: BLE001  # whatever it is, training goes on; it is told, and tried again
            self.failed[name] = error
        else:
            self.steps.pop(name, None)
            self.failed.pop(name, None)

    def tell_query(self, key: str, value: str) -> Callable[[], None] | None:
        """Have MLflow told of a condition, by a run's tag: what does so. None if it was asked before."""
        name = f"MLflow's tag {key}"
        if key in self._queries:
            return None
        self._queries.add(key)
        self.steps[name] = partial(self._tell_tag, key, value)
        return partial(self._take, name)

    def _tell_tag(self, key: str, value: str) -> None:
        from snapengine.tracking.telling import tell_tag

        with _gate(self.run.uri):
            tell_tag(self.run.uri, self.run.run_id, key, value)

    def begin(self) -> None:
        """The same for the first time. Where the table does not know of the view, MLflow is told of it before
        its digest is computed, as the run may not last as long."""
        if self.failed:
            self.steps = {"MLflow's tags": self._tell_tags, **self.steps}
        self.go_on()
        if "MLflow" in self.failed:
            warn(f"{self} could not be noted in MLflow yet: {_said(self.failed['MLflow'])} {_AGAIN}")

    def _whole(self) -> RunNote:
        view = self._view
        if view is None:
            return self.note
        from snapengine.tracking.facts import facts_of

        with GATE:
            facts = facts_of(view, GATE.give_way)
            self.note = replace(
                self.note,
                digest=facts.digest,
                objects=facts.objects,
                bytes=facts.bytes,
                query=_query(view),
            )
        self._view = None  # whoever trains may be done with it
        return self.note

    def _keep(self) -> None:
        self._whole()
        self._put()

    def _tell_tags(self) -> None:
        from snapengine.tracking.telling import tell_tags

        with _gate(self.run.uri):
            tell_tags(self.run.uri, self.note)

    def _hold(self, view: View) -> None:
        from snapengine.pinning import pin

        gone = pin(self._engine, view, creator=f"run:/{self.run.run_id}").gone
        if gone:
            raise VersionGone(f"{len(gone):,} of its versions are gone from S3, {gone[0].key!r} among them.")

    def _tell(self) -> None:
        from snapengine.tracking.telling import tell_input

        self._whole()
        self._tell_tags()
        with _gate(self.run.uri):
            tell_input(self.run.uri, self.note, self.context)


def _gate(uri: str) -> AbstractContextManager[Any]:
    """For telling MLflow: a store in this process has locks; over HTTP a fork would wait for the server."""
    return nullcontext() if uri.startswith(("http://", "https://")) else GATE


def note_of(run: Run, view: View, *, own: bool, now: int) -> RunNote:
    """What is known at once: all but digest, counts and query."""
    return RunNote(
        run_id=run.run_id,
        bucket=view.bucket,
        name=view_name(view.ref, own=own),
        reference=view.reference,
        started_at=run.started_at,
        noted_at=now,
        experiment=run.experiment,
        tracking=without_credentials(run.uri),
    )


def _query(view: View) -> str | None:
    """The condition, unless it may hold what identifies somebody."""
    chosen = view.chosen
    if chosen is None or chosen.identifying or chosen.query is None:
        return None
    return cut(chosen.query, QUERY_LIMIT)


def _said(error: Exception) -> str:
    """Its first line, as a sentence."""
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    return text if text.endswith(".") else f"{text}."


def _no_answer(error: Exception) -> bool:
    """Whether nobody answered: MLflow raises its own error while it handles that of the connection."""
    return isinstance(error, OSError) or isinstance(error.__context__, OSError)


def note_now(engine: Engine, run: Run, view: View, context: str | None) -> RunNote:
    """Note it while the caller waits; raises what keeps it from the table or from MLflow."""
    settled = run.at == view.ref.at and view.ref.epoch == engine.store.agree_on_epoch(
        run.run_id, view.bucket, view.ref.at, view.ref.epoch
    )
    job = Job(engine, run, view, own=settled, context=context)
    for step in job.steps.values():
        step()
    return job.note


class Notebook:
    """The jobs of this process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._jobs: dict[tuple[str, str, str], Job] = {}
        self._pool: ThreadPoolExecutor | None = None

    def begin(
        self,
        engine: Engine,
        run: Run,
        view: View,
        *,
        own: bool,
        context: str | None = None,
        pin: bool = False,
    ) -> Job:
        """Note a view once in a run, and `pin` it in S3. Returns when that it is seen is kept."""
        key = (run.uri, run.run_id, view.reference)
        with self._lock:
            if key in self._jobs:
                return self._jobs[key]
            job = self._jobs[key] = Job(engine, run, view, own=own, context=context, pin=pin)
        watch_ends()
        job.claim()
        import snapengine.tracking.facts  # here, as a fork must not find a thread importing

        with suppress(ImportError):  # an MLflow too old for inputs: the job's own import fails, and is told
            import snapengine.tracking.telling  # noqa: F401  # only to have it loaded

        self._submit(job, job.begin)
        return job

    def tell_query(
        self, engine: Engine, run: Run, view: View, part: SnapshotRef, chosen: Chosen, *, own: bool
    ) -> None:
        """Note a condition by which metadata of a `part` of a view was asked for, once in a run."""
        job = self.begin(engine, run, view, own=own)
        key, value = query_tag(view_name(part, own=own), chosen.extractor or "", chosen.query or "")
        with self._lock:
            step = job.tell_query(key, value)
        if step is not None:
            self._submit(job, step)

    def _submit(self, job: Job, call: Callable[[], None]) -> None:
        with self._lock, suppress(RuntimeError):  # the interpreter is ending: no thread begins any more
            self._pool = self._pool or ThreadPoolExecutor(_THREADS, thread_name_prefix="snapengine-note")
            job.coming.append(self._pool.submit(call))

    def finish(self, run_id: str | None = None) -> None:
        """Wait for what a run (None: any) has noted, and try once more what failed."""
        with self._lock:
            jobs = [job for (_, of, _), job in self._jobs.items() if run_id in {None, of}]
        silent: dict[str, Exception] = {}  # by tracking URI: MLflow waits minutes for each view otherwise
        for job in jobs:
            for coming in list(job.coming):
                coming.result()
            if job.steps:
                job.go_on(silent.get(job.run.uri))
                for name, error in list(job.failed.items()):
                    if name.startswith("MLflow") and _no_answer(error):
                        silent[job.run.uri] = error
            if (unheld := job.failed.pop("S3", None)) is not None:
                warn(
                    f"{job.note.reference} is not pinned: {_said(unheld)} Pin it later: "
                    f"`snapengine pin '{job.note.reference}'`."
                )
            if job.failed:
                told = " And ".join(f"in {name}: {_said(error)}" for name, error in job.failed.items())
                warn(
                    f"{job} is not noted {told} Note it later: "
                    f"`snapengine runs note {job.run.run_id} '{job.note.reference}'`."
                )
        with self._lock:
            self._jobs = {key: job for key, job in self._jobs.items() if job not in jobs}

    def forget(self) -> None:
        """In a process that was forked: its threads stayed behind, and the notes are its parent's."""
        self.__init__()  # type: ignore[misc]  # a lock that a thread of the parent held would never be free


def warn(text: str) -> None:
    """Warn; where warnings are errors, log instead: a note is no reason for training to end."""
    try:
        caution(text, RunNotNoted)
    except SnapEngineWarning:
        _log.warning(text)


NOTEBOOK = Notebook()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=NOTEBOOK.forget)
_watching = False


def watch_ends() -> None:
    """From now on a run's notes are whole before MLflow is told of its end.

    MLflow has no hook for that: `MlflowClient.set_terminated` is what every way to end a run goes through.
    """
    global _watching  # noqa: PLW0603  # once a process
    with NOTEBOOK._lock:
        if _watching:
            return
        _watching = True
    from mlflow import MlflowClient

    ended: Any = MlflowClient.set_terminated

    @wraps(ended)
    def set_terminated(self: MlflowClient, run_id: str, *args: Any, **options: Any) -> Any:
        try:
            NOTEBOOK.finish(run_id)
        except Exception:  # noqa: BLE001  # whatever it is, the run is to end
            _log.exception("What run %s saw could not be noted", run_id)
        finally:  # also where somebody interrupts the wait
            result = ended(self, run_id, *args, **options)
        return result

    MlflowClient.set_terminated = set_terminated  # type: ignore[method-assign]  # there is no hook
    atexit.register(NOTEBOOK.finish)
