"""PURE: what a plan has to do so that created versions reach extraction, or do so no more."""

from __future__ import annotations

from collections.abc import Iterator

from snapengine.buckets import queues
from snapengine.buckets.facts import BucketFacts, wanted_extract_settings
from snapengine.buckets.queue_steps import one_queue
from snapengine.buckets.steps import DeleteQueue, SetExtraction, Step, Wanted
from snapengine.errors import UsageError
from snapengine.further_columns import extractor_of, in_words, uses, uses_of
from snapengine.model import BucketConfig

STILL_HOLDS = "Give --no-extract again when it is empty."


def extractors_of(facts: BucketFacts, wanted: Wanted) -> tuple[str, ...]:
    """Those that the bucket is to have."""
    if wanted.extract is not None:
        return wanted.extract
    return facts.config.extractors if facts.config else ()


def columns_of(facts: BucketFacts, wanted: Wanted) -> dict[str, tuple[str, ...]]:
    """The further columns that they are to have. Raises `UsageError` for those of another extractor."""
    extractors = extractors_of(facts, wanted)
    for name in wanted.columns:
        if name not in extractors:
            raise UsageError(
                f"Bucket {facts.bucket} is not extracted by {name}, so that it has no columns of it: give "
                f"--extract {','.join((*extractors, name))} too."
            )
    merged = {**(facts.config.extractor_columns if facts.config else {}), **wanted.columns}
    return {name: tuple(merged[name]) for name in extractors if merged.get(name)}


def queue_steps(facts: BucketFacts, wanted: Wanted) -> Iterator[Step]:
    """Make the two queues, or set them right: the dead-letter queue first, as the other names it."""
    if not extractors_of(facts, wanted):
        return
    settings, dead = wanted_extract_settings(facts)
    name, dead_name = queues.extract_queue_name(facts.bucket), queues.extract_dead_letter_name(facts.bucket)
    minutes = queues.EXTRACT_VISIBILITY_SECONDS // 60
    yield from one_queue(facts, facts.extract_dead_letters, dead_name, dead, "for extraction tasks that fail")
    purpose = (
        f"for extraction tasks: kept 14 days, encrypted (SSE-SQS), open to this account only, {minutes} min "
        f"for each, {queues.EXTRACT_MAX_RECEIVES} tries"
    )
    yield from one_queue(facts, facts.extract_queue, name, settings, purpose)


def registration_steps(facts: BucketFacts, wanted: Wanted) -> Iterator[Step]:
    """Register it, and where it is ended let the queues go."""
    config, extractors, columns = facts.config, extractors_of(facts, wanted), columns_of(facts, wanted)
    before, after = uses_of(config) if config else (), uses(extractors, columns)
    if after != before:
        yield SetExtraction(_words(before, after), extractors, columns)
    elif extractors and config is not None and not _registered(config, facts):
        words = "bring the registration of the extraction queue up to date"
        yield SetExtraction(words, extractors, columns)
    if not extractors and wanted.extract is not None:
        for queue in filter(None, (facts.extract_queue, facts.extract_dead_letters)):
            yield DeleteQueue(f"delete queue {queue.name}, if it is empty", queue.name)


def _registered(config: BucketConfig, facts: BucketFacts) -> bool:
    queue, dead = facts.extract_queue, facts.extract_dead_letters
    there = (queue.url, queue.arn, dead.url) if queue and dead else None  # None: one is about to be made
    return there == (
        config.extract_queue_url,
        config.extract_queue_arn,
        config.extract_dead_letter_queue_url,
    )


def _words(before: tuple[str, ...], after: tuple[str, ...]) -> str:
    """Of uses; see `further_columns`."""
    until_now = ", ".join(map(in_words, before))
    if not after:
        return f"hand new versions to extraction no more (until now: {until_now})"
    instead = f", until now by {until_now}" if before else ""
    return f"have metadata extracted from every new version, by {', '.join(map(in_words, after))}{instead}"


def extraction_warnings(facts: BucketFacts, wanted: Wanted) -> Iterator[str]:
    """What extraction that begins leaves out, and what is lost with an extractor."""
    config, extractors = facts.config, extractors_of(facts, wanted)
    for name, columns in (config.extractor_columns if config else {}).items():
        if name not in extractors and columns:
            yield (
                f"{name} is to extract no more, and loses its further columns. To keep both, name it with "
                f"the others; to have them again later, give `--columns {name}={','.join(columns)}` with it."
            )
    before = set(config.extractors if config else ())
    changed = set(uses(extractors, columns_of(facts, wanted))) - set(uses_of(config) if config else ())
    if any(extractor_of(use) in before for use in changed):
        yield (
            "Running workers hear of other columns within seconds. What has been extracted by then keeps its "
            f"columns: run `snapengine extract {facts.bucket}` to have it extracted again."
        )
    if set(extractors) - before:
        yield (
            "Running workers hear of it within half a minute. What is in the bucket by then is not extracted "
            f"by itself: run `snapengine extract {facts.bucket}` for that."
        )


def extraction_drift(facts: BucketFacts) -> Iterator[str]:
    """What somebody has changed of the queues, a phrase each."""
    if facts.config is None or not facts.config.extractors:
        return
    pairs = (
        ("extraction queue", facts.extract_queue),
        ("extraction dead-letter queue", facts.extract_dead_letters),
    )
    for (word, queue), settings in zip(pairs, wanted_extract_settings(facts), strict=True):
        if queue is None:
            yield f"the {word} is gone: new versions wait to be handed on"
        elif changes := queues.differences(settings, queue, real_aws=facts.real_aws):
            yield f"{', '.join(sorted(changes))} of the {word} is not as it was set"
