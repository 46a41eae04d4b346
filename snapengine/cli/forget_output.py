"""What `forget` says: the receipt in words, and what was cleared on this machine alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from snapengine.cli.output import Output, printable

if TYPE_CHECKING:
    from snapengine.engine import Engine


def show_receipt(out: Output, told: dict[str, Any]) -> None:
    """The receipt, as `archiving.forget_receipt` has it."""
    if out.as_json:
        out.json(told)
        return
    log, archive, here, conditions = (told[name] for name in ("log", "archive", "this_machine", "conditions"))
    out.line("Would be taken out:" if told["dry_run"] else f"Forgotten in bucket {told['bucket']}:")
    in_archive = f"{archive['segment_rows']:,} rows, {archive['checkpoint_rows']:,} in checkpoints"
    facts = [
        ("log", f"{log['rows']:,} rows of {log['entries']:,} entries, {log['identifying_parts']:,} parts"),
        ("archive", f"{in_archive}; {archive['files_rewritten']:,} files"),
        ("conditions", f"{conditions['removed']:,} of {conditions['narrowed_views']:,} narrowed views"),
    ]
    if here["tensor_samples"]:
        facts.append(("tensors", f"{here['tensor_samples']:,} decoded samples on this machine"))
    if not told["dry_run"]:
        deleted = f"{archive['files_deleted']:,} files, {archive['versions_deleted']:,} earlier versions"
        facts += [
            ("deleted", f"{deleted}; {here['cached_deleted']:,} cached on this machine"),
            ("receipt", f"{told['time']} by {told['by']}, objects sha256:{told['objects']['sha256']}"),
        ]
    out.facts(facts)
    if names := told["objects"].get("names"):
        out.facts([("objects", ", ".join(names))])
    if told["remains"]:
        out.note("What is not gone:")
        for place in told["remains"]:
            out.note(f"  {printable(place)}")
    out.note(f"Digests: {told['digests']}")


def clear_here(engine: Engine, out: Output, bucket: str) -> None:
    """Delete what this machine still keeps of what was ever forgotten, and say so."""
    from snapengine.archiving.forget import clear_this_machine
    from snapengine.archiving.forget_receipt import this_machine

    done = asyncio.run(clear_this_machine(engine, bucket))
    told = this_machine(done)
    if out.as_json:
        number, remains = done.forgotten.number, done.places.remains
        out.json({"bucket": bucket, "number": number, "this_machine": told, "remains": remains})
        return
    out.line(f"Deleted on this machine, of what is forgotten of bucket {bucket}:")
    out.facts([(name.replace("_", " "), f"{count:,}") for name, count in told.items()])
    for place in done.places.remains:
        out.warn(f"Not gone: {printable(place)}")
