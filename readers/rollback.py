"""Makes a bucket show again what a view shows, by adding versions and markers: nothing of its past goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Final, TextIO

from botocore.exceptions import BotoCoreError, ClientError

from readers.export_copying import Copied, Copier, DestinationChanged, Place
from readers.export_evidence import Stored, described, same_bytes, stored, verdict
from readers.export_order import done_ahead
from readers.export_outcomes import problem_of
from readers.rollback_outcomes import SAMPLES, Outcome, Planned, Restoring
from readers.rollback_steps import NOT_TO_BE_HAD, TO_DO, Step, may_predate, predates, step_of_line, steps
from snapengine.aws_errors import code_of, translate
from snapengine.buckets.asking import asking
from snapengine.buckets.listing import list_versions
from snapengine.completeness import settled_until
from snapengine.errors import NotYetComplete, Refused, SnapEngineError, UsageError, VersionArchived
from snapengine.model import NULL_VERSION, VERSION_DELETED, Epoch, ObjectVersion, Observation
from snapengine.resolver import key_history

if TYPE_CHECKING:
    from snapengine.engine import Engine
    from snapengine.views import View

WORKERS: Final = 24
_UNKNOWN: Final = (
    "what S3 shows there since before the instant is unknown to the log, which may have missed more; "
    "reconcile the bucket, then roll it back"
)

_UNDATED: Final = (
    "S3 does not say whether what it shows there came to be before the instant, and the log does not know "
    "it; let a worker catch up, or reconcile the bucket, then roll it back"
)

_ABSENT: Final = {"404", "NoSuchKey", "NoSuchVersion"}
_CHANGED: Final = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}

_LISTED: Final = (
    "Workers had not read all events of the instant. What is known from listings alone is dated early: by up "
    "to a second, by hours if it came in parts. So the view may show what came after the instant."
)


def caught_up(view: View) -> bool:
    """Whether workers had read the events of the view's instant, and of a while after it."""
    settled = settled_until(view.completeness.watermarks)
    return settled is not None and view.ref.at <= settled


def check_caught_up(view: View) -> None:
    """Raise `NotYetComplete` unless they had."""
    if not caught_up(view):
        raise NotYetComplete(
            f"{view} is not known well enough to roll a bucket back to. {_LISTED} Let a worker "
            "catch up, or take it as it is with `--require provisional`."
        )


class Rollback:
    """One rollback of one bucket to one view; inside a `with`, as it has threads and a file with its plan."""

    def __init__(self, engine: Engine, view: View, restoring: Restoring | None = None) -> None:
        """Raises `UsageError` for a slice and for a narrowed view, which say nothing of the other keys."""
        if view.ref.start is not None or view.ref.selection:
            raise UsageError(
                f"{view.reference} does not show all keys of an instant, and the others would be deleted. "
                "Give an instant, or a view that is neither a slice nor narrowed."
            )
        self.view = view
        self._engine = engine
        self._epoch = self._newest = engine.epoch(view.bucket, view.epoch)
        self.bucket = view.bucket
        self._restoring = restoring
        self._client = engine.client("s3")
        self._copier = Copier(self._client)
        self._stopped: Refused | None = None
        self._plan: TextIO = TemporaryFile("w+", encoding="ascii")  # noqa: SIM115  # closed with the rollback

    def __enter__(self) -> Rollback:
        return self

    def __exit__(self, *_: object) -> None:
        self._copier.close()
        self._plan.close()

    def plan(self, tell: Callable[[Step], None] = lambda _: None) -> Planned:
        """Compare the view with a listing of the bucket made now; changes nothing. Tells each step but those
        that are `same`, `equal` or `absent`.

        Raises `Refused` unless versioning is enabled: a copy would destroy what it replaces.
        """
        self._check_versioning()
        planned = Planned(self.view.reference, warnings=self._warnings())
        self._newest = self._engine.epoch(self.bucket, None)
        self._plan.seek(0)
        self._plan.truncate()
        pages = list_versions(self._client, self.bucket, prefix=self.view.prefix)
        entries = (entry for page in pages for entry in page.entries)
        found = steps(self.view.versions(), entries, self.view.ref.at)
        with closing(done_ahead(self._looked_at, found, WORKERS)) as looked_at:
            for _, step in looked_at:
                planned.counts[step.kind] += 1
                if step.kind not in TO_DO + NOT_TO_BE_HAD:
                    continue
                self._plan.write(step.line())
                if step.kind == "copy" and step.version is not None:
                    planned.bytes += step.version.size or 0
                samples = planned.samples.setdefault(step.kind, [])
                if len(samples) < SAMPLES:
                    samples.append(step)
                tell(step)
        return planned

    def carry_out(self, tell: Callable[[Outcome], None] = lambda _: None) -> Counter[str]:
        """Do what the last plan said, telling each outcome in key order; how many there are of each.

        What was changed since the plan is left as it is. It may be run again at any time: what is done is in
        no new plan.
        """
        self._check_versioning()
        self._plan.seek(0)
        counts: Counter[str] = Counter()
        with closing(done_ahead(self._act, map(step_of_line, self._plan), WORKERS)) as done:
            for _, outcome in done:
                counts[outcome.fate] += 1
                tell(outcome)
        return counts

    def _check_versioning(self) -> None:
        with asking(f"bucket {self.bucket}"):
            status = self._client.get_bucket_versioning(Bucket=self.bucket).get("Status", "off")
        if status != "Enabled":
            raise Refused(
                f"Versioning of bucket {self.bucket} is {status.lower()}: what is copied onto a key would "
                "destroy what it shows now. Enable versioning first, or export the view to another place."
            )

    def _warnings(self) -> list[str]:
        level = self.view.completeness
        found = [] if caught_up(self.view) else [_LISTED]
        if level.history != "recorded" or level.level == "provisional":
            found.append(
                f"Keys that the view does not know are deleted, and it is {level.level}: {level.reason}"
            )
        return found

    # The plan

    def _looked_at(self, step: Step) -> Step:
        """The step once S3 has been asked about what a listing does not tell."""
        if unknown := self._unknown(step):
            return replace(step, kind="unsure", detail=unknown)
        version = step.version
        alike = version is not None and step.latest_size == version.size and step.latest_etag is not None
        if version is None or not (step.kind == "archived" or (step.kind == "copy" and alike)):
            return step
        try:
            source = described(self._client, self.bucket, version)
            if source.archived:
                ongoing = 'ongoing-request="true"' in source.reply.get("Restore", "")
                return replace(step, kind="restoring" if ongoing else "archived")
            if alike and self._is_equal(step, version, source):
                return replace(step, kind="equal", detail="")
        except SnapEngineError as error:
            problem = problem_of(error, version, "")
            kind = problem.kind if problem.kind in {"gone", "archived", "denied"} else "unreadable"
            return replace(step, kind=kind, detail=problem.detail)
        return replace(step, kind="copy", detail="")

    def _unknown(self, step: Step) -> str:
        """Why the view is no measure of a key: S3 shows something since before the instant, or may, that the
        view's epoch does not know. What that knows was judged with the rest, and what came after it has been
        removed since."""
        if step.kind not in TO_DO:
            return ""
        at, latest = self.view.ref.at, (step.latest_id, step.latest_etag)
        if predates(step, at):
            return "" if self._entries(step.key, *latest, self._epoch) else _UNKNOWN
        if may_predate(step, at):
            return self._undated(step.key, *latest)
        under = (step.under_id, step.under_etag)
        if step.under_id is None or step.under_early:
            return self._undated(step.key, *under) if step.under_early else ""
        return "" if self._entries(step.key, *under, self._epoch) else _UNKNOWN

    def _undated(self, key: str, version_id: str | None, etag: str | None) -> str:
        """Of what is dated early: known, or known by now to have come after the view's instant."""
        later = self._entries(key, version_id, etag, self._newest)
        known = any(each.event_time > self.view.ref.at for each in later)
        return "" if known or self._entries(key, version_id, etag, self._epoch) else _UNDATED

    def _entries(self, key: str, version_id: str | None, etag: str | None, epoch: Epoch) -> list[Observation]:
        """What an epoch knows of a version or marker that S3 shows."""
        return [
            each
            for each in key_history(self._engine, self.bucket, key, epoch)
            if each.version_id == version_id
            and each.kind != VERSION_DELETED
            and (each.version_id != NULL_VERSION or each.etag == etag)
        ]

    def _is_equal(self, step: Step, version: ObjectVersion, source: Stored) -> bool:
        """Whether the latest version, of the same size and another ETag, has the version's bytes."""
        latest = ObjectVersion(
            step.key, str(step.latest_id), step.latest_size, step.latest_etag, self.view.ref.at
        )
        found = verdict(source, stored(self._head(step.key, VersionId=step.latest_id)))
        if found != "unknown":
            return found != "different"
        return same_bytes(
            lambda start, end: self.view.read_version(version, start, end),
            lambda start, end: self.view.read_version(latest, start, end),
            source.size,
        )

    # Carrying it out

    def _act(self, step: Step) -> Outcome:
        if self._stopped is not None:
            raise self._stopped
        if step.kind == "archived":
            return self._archived(step)
        if step.kind not in TO_DO:
            why = self.view.why_gone(step.version) if step.kind == "gone" and step.version else None
            detail = f"{step.detail}. {why}" if why else step.detail
            return Outcome(step.kind, step, detail=detail)  # type: ignore[arg-type]  # these are fates, too
        try:
            if (early := self._guarded(step)) is not None:
                return early
            outcome = self._copied(step, step.version) if step.version is not None else self._marked(step)
        except VersionArchived as error:
            return self._archived(replace(step, detail=str(error)))
        except SnapEngineError as error:
            return _problem(step, error)
        if outcome.fate in {"copied", "marked"}:
            self._check_added(step.key, outcome.new_version_id)
        return outcome

    def _check_added(self, key: str, version_id: str | None) -> None:
        """Raise `Refused`, and have nothing more be done, if S3 gave what it put no version id of its own: it
        took the place of the key's `null` version. No condition of a request prevents that."""
        if version_id == NULL_VERSION:
            self._stopped = Refused(
                f"What was put at s3://{self.bucket}/{key} has no version id of its own: versioning is not "
                "enabled any more, or not everywhere yet. Stopped there: it takes the place of a key's "
                "`null` version. Enable versioning, wait 15 minutes, and run it again."
            )
            raise self._stopped
        if version_id is None:  # not every server tells
            self._check_versioning()

    def _guarded(self, step: Step) -> Outcome | None:
        """None if the key shows what it showed to the plan; else what became of it."""
        latest_id, etag, size = self._shown(step.key)
        planned = (step.latest_id, step.latest_etag)
        if etag is None and step.latest_etag is None and latest_id in {None, step.latest_id}:
            return None  # a marker, or nothing; not every server names the marker
        if etag is not None and (latest_id or step.latest_id, etag) == planned:
            return None
        wanted = step.version
        done = etag is None if wanted is None else etag and (etag, size) == (wanted.etag, wanted.size)
        if done:
            return Outcome("there", step, latest_id)
        return Outcome(
            "changed", step, latest_id, detail="It was changed since the plan, and is left as it is."
        )

    def _shown(self, key: str) -> tuple[str | None, str | None, int | None]:
        """The latest version's id, ETag and size; of a marker its id at most."""
        try:
            reply = self._client.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if code_of(error) not in _ABSENT:
                raise translate(error, f"s3://{self.bucket}/{key}") from error
            headers = error.response["ResponseMetadata"].get("HTTPHeaders", {})
            return headers.get("x-amz-version-id"), None, None
        except BotoCoreError as error:
            raise translate(error, f"s3://{self.bucket}/{key}") from error
        return reply.get("VersionId"), reply["ETag"].strip('"'), reply["ContentLength"]

    def _copied(self, step: Step, version: ObjectVersion) -> Outcome:
        condition = {"IfMatch": f'"{step.latest_etag}"'} if step.latest_etag else {"IfNoneMatch": "*"}
        try:
            done: Copied = self._copier.copy(
                self.bucket, version, Place(self.bucket, step.key, condition, in_place=True)
            )
        except DestinationChanged as changed:  # by somebody else, or by a copy whose reply was lost
            return self._guarded(step) or _problem(step, changed)
        return Outcome("copied", step, done.stored.version_id, done.checked)

    def _marked(self, step: Step) -> Outcome:
        try:
            reply = self._client.delete_object(
                Bucket=self.bucket, Key=step.key, IfMatch=f'"{step.latest_etag}"'
            )
        except ClientError as error:
            if code_of(error) in _CHANGED | _ABSENT:
                again = self._guarded(step)
                return again or Outcome("changed", step, detail="S3 says that it was changed meanwhile.")
            raise translate(error, f"s3://{self.bucket}/{step.key}") from error
        except BotoCoreError as error:
            raise translate(error, f"s3://{self.bucket}/{step.key}") from error
        return Outcome("marked", step, reply.get("VersionId"))

    def _archived(self, step: Step) -> Outcome:
        """Ask for the version's restoration, if that was asked for."""
        if self._restoring is None or step.version is None:
            return Outcome("archived", step, detail=step.detail)
        request: dict[str, Any] = {"GlacierJobParameters": {"Tier": self._restoring.tier}}
        if step.stored_class != "INTELLIGENT_TIERING":  # which brings it back for good
            request["Days"] = self._restoring.days
        try:
            self._client.restore_object(
                Bucket=self.bucket,
                Key=step.key,
                VersionId=step.version.version_id,
                RestoreRequest=request,
            )
        except (ClientError, BotoCoreError) as error:
            if not (isinstance(error, ClientError) and code_of(error) == "RestoreAlreadyInProgress"):
                return _problem(step, translate(error, f"s3://{self.bucket}/{step.key}"))
        return Outcome("restoring", step, detail="It is being restored: run it again when S3 has it.")

    def _head(self, key: str, **options: Any) -> Any:
        try:
            return self._client.head_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED", **options)
        except (ClientError, BotoCoreError) as error:
            raise translate(error, f"s3://{self.bucket}/{key}") from error


def _problem(step: Step, error: SnapEngineError) -> Outcome:
    """Raises what concerns all keys."""
    version = step.version or ObjectVersion(step.key, "", None, None, 0)
    problem = problem_of(error, version, "")
    fate: Any = "changed" if problem.kind == "conflict" else problem.kind
    return Outcome(fate, step, detail=problem.detail)
