"""`forget`: have rows of metadata of given objects be nowhere any more, and give a receipt."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapengine.cli import options
from snapengine.cli.audit import audited
from snapengine.cli.forget_output import clear_here, show_receipt
from snapengine.cli.output import Output, printable
from snapengine.errors import BucketNotEnabled, Refused, UsageError

if TYPE_CHECKING:
    from snapengine.archiving.forget import Asked, Done
    from snapengine.engine import Engine
    from snapengine.forgotten import Forgotten

_SHOWN = 3
"""Keys that a warning names."""

EXAMPLES = """\
snapengine forget scans --key ct/0001.dcm --key ct/0002.dcm
snapengine forget scans --where "PatientID = '4711'" --dry-run
snapengine forget scans --prefix trial-7/ --yes --json
snapengine forget scans --conditions
snapengine forget scans --finish
snapengine forget scans --here
snapengine forget scans --key ct/0001.dcm --allow-again"""


def forget(
    bucket: options.Bucket,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="K", help="All versions of this key; repeatable.", show_default=False),
    ] = None,
    keys_from: Annotated[
        str | None,
        typer.Option(
            "--keys-from", metavar="FILE", help="Keys, one a line, in UTF-8; `-`: stdin.", show_default=False
        ),
    ] = None,
    prefix: Annotated[
        list[str] | None,
        typer.Option(
            "--prefix", metavar="P", help="All keys that start with this; repeatable.", show_default=False
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="SQL",
            help="The versions, present and past, of whose metadata this is true.",
            show_default=False,
        ),
    ] = None,
    extractor: Annotated[
        str, typer.Option("--extractor", metavar="NAME", help="Whose columns --where names.")
    ] = "dicom",
    conditions: Annotated[
        bool,
        typer.Option(
            "--conditions",
            help="Also the text of every condition over identifying columns that narrowed views keep.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be taken out; change nothing.")
    ] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Go on with what was stopped; ask for nothing new.")
    ] = False,
    here: Annotated[
        bool,
        typer.Option("--here", help="Only clear this machine of what was ever forgotten; nothing else."),
    ] = False,
    allow_again: Annotated[
        bool, typer.Option("--allow-again", help="Let rows of these keys or prefixes be kept from now on.")
    ] = False,
    name_keys: Annotated[
        bool, typer.Option("--name-keys", help="Name keys in the receipt, not only their hashes.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask; needed where nobody can answer.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Have rows of metadata of given objects be nowhere any more.

    They leave the table, the archive and this machine's caches, and their samples its tensor snapshots. That
    the versions existed stays known, and no digest changes; the objects in S3 are not touched. Nothing brings
    such rows back until they are allowed again. Of narrowed views that hold such an object the conditions
    over identifying columns go too. It may be run beside workers and archivers, and be stopped: --finish goes
    on. docs/forget.md says what it finds, and what it cannot reach. Exits with 1 if of a key nothing was ever
    known.
    """
    from snapengine.engine import Engine

    wanted = _Wanted(bucket, _keys(key, keys_from), list(prefix or []), where, extractor, conditions)
    if finish + here + allow_again + dry_run > 1:
        raise UsageError("Give one of --finish, --here, --allow-again and --dry-run.")
    if (finish or here) == wanted.names_something:
        raise UsageError(
            "Say what to forget: --key, --keys-from, --prefix, --where or --conditions; "
            "or give --finish or --here alone."
        )
    if allow_again and where is not None:
        raise UsageError("--allow-again takes keys and prefixes: no row is left that --where could find.")
    if allow_again and conditions:
        raise UsageError("--allow-again takes keys and prefixes: no condition comes back.")
    out = Output(as_json=as_json)
    if not (dry_run or finish or here or allow_again or yes or out.interactive):
        raise UsageError(
            "Nobody can be asked here: give --yes to go on unasked, or --dry-run to see the counts."
        )
    engine = Engine()
    engine.store.check()
    if engine.store.config(bucket) is None:
        raise BucketNotEnabled(f"Bucket {bucket} is not enabled. Run `snapengine enable-bucket {bucket}`.")
    if allow_again:
        _allow(engine, out, wanted)
    elif here:
        clear_here(engine, out, bucket)
    elif finish:
        _forget(engine, out, wanted, None, name_keys=False)
    else:
        asked = wanted.find(engine)
        if wanted.unknown:
            out.warn(_never_known(wanted, dry_run=dry_run))
        if dry_run:
            _count(engine, out, wanted, asked, name_keys=name_keys)
        else:
            if not yes:
                _confirm(out, wanted, asked)
            _forget(engine, out, wanted, asked, name_keys=name_keys)
        if wanted.unknown:
            raise typer.Exit(1)


def _keys(given: list[str] | None, file: str | None) -> list[str]:
    keys = list(given or [])
    if file is not None:
        try:
            text = typer.get_text_stream("stdin").read() if file == "-" else Path(file).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--keys-from {printable(file)} cannot be read: {error}.") from None
        keys += [line for line in text.split("\n") if line]
    if "" in keys:
        raise UsageError("--key is empty: no object has such a key. For all keys give --prefix ''.")
    return keys


class _Wanted:
    """What the command line names."""

    def __init__(
        self,
        bucket: str,
        keys: list[str],
        prefixes: list[str],
        where: str | None,
        extractor: str,
        conditions: bool,
    ) -> None:
        self.bucket = bucket
        self.keys = sorted(set(keys))
        self.prefixes = sorted(set(prefixes))
        self.where = where
        self.extractor = extractor
        self.conditions = conditions
        self.found: list[str] = []
        self.unknown: list[str] = []
        """Of the keys, those of which nothing was ever observed."""

    @property
    def names_something(self) -> bool:
        return bool(self.keys or self.prefixes or self.where is not None or self.conditions)

    def find(self, engine: Engine) -> Asked:
        """The units; what `--where` is true of is looked for now."""
        from snapengine.archiving.forget import Asked
        from snapengine.archiving.forget_files import Near
        from snapengine.archiving.forget_known import never_observed
        from snapengine.archiving.forget_where import matching
        from snapengine.forgotten import key_unit, prefix_unit

        units = {*map(key_unit, self.keys), *map(prefix_unit, self.prefixes)}
        epoch = engine.store.newest_epoch(self.bucket)
        self.unknown = never_observed(engine, self.bucket, epoch, self.keys) if epoch else self.keys
        if self.where is not None and epoch is not None:
            by_condition, self.found = matching(engine, self.bucket, epoch, self.extractor, self.where)
            units |= set(by_condition.units)
        near = Near(sorted({*self.keys, *self.found}), self.prefixes)
        return Asked(units, near, self.conditions)

    def told(self) -> dict[str, Any]:
        """What was asked, without names and values."""
        return {
            "keys": len(self.keys),
            "prefixes": len(self.prefixes),
            "where": self.extractor if self.where is not None else None,
            "conditions": self.conditions,
        }

    def names(self) -> list[str]:
        return [*self.keys, *self.found, *(f"{prefix}*" for prefix in self.prefixes)]


def _confirm(out: Output, wanted: _Wanted, asked: Asked) -> None:
    what = [
        *([f"{len(wanted.keys):,} keys"] if wanted.keys else []),
        *([f"{len(wanted.prefixes):,} prefixes"] if wanted.prefixes else []),
        *([f"versions of {len(wanted.found):,} keys that --where found"] if wanted.where is not None else []),
    ]
    if wanted.where is not None and not asked.units and not wanted.conditions:
        return
    if what:
        out.note(f"Rows of metadata of {' and '.join(what)} in bucket {wanted.bucket} will be gone for good.")
    if wanted.conditions:
        out.note(
            f"All conditions over identifying columns of narrowed views of bucket {wanted.bucket} will go "
            "for good; the views stay."
        )
    if typer.prompt("Type the bucket's name to go on", err=True) != wanted.bucket:
        raise Refused("That is not the bucket's name. Nothing was changed.")


def _never_known(wanted: _Wanted, *, dry_run: bool) -> str:
    keys, after = wanted.unknown, ""
    named = ", ".join(map(repr, keys[:_SHOWN]))
    if len(keys) > _SHOWN:
        named += f" and {len(keys) - _SHOWN:,} more"
    if not dry_run:
        after = " Should they come, their rows are not kept; --allow-again ends that."
    return (
        f"Nothing was ever known of {named} in bucket {wanted.bucket}. A key is taken to the letter: look "
        f"for a mistyped one.{after}"
    )


def _count(engine: Engine, out: Output, wanted: _Wanted, asked: Asked, *, name_keys: bool) -> None:
    from snapengine.archiving.forget import count
    from snapengine.cli.audit import actor

    done = asyncio.run(count(engine, wanted.bucket, asked))
    show_receipt(
        out, _receipt(engine, done, wanted, asked, actor(engine, ask_aws=False), name_keys=name_keys)
    )


def _forget(engine: Engine, out: Output, wanted: _Wanted, asked: Asked | None, *, name_keys: bool) -> None:
    from snapengine.archiving.forget import forget as carry_out

    begun = json.dumps(wanted.told() if asked is not None else {"finish": True})
    with audited(engine, out, "forget", wanted.bucket, detail=begun) as line:
        with out.progress() as display:
            task = display.add_task("Forgetting", total=None) if display is not None else None

            def show(what: str) -> None:
                if display is not None and task is not None:
                    display.update(task, description=f"Forgetting: {what}")

            done = asyncio.run(carry_out(engine, wanted.bucket, asked, show=show))
        told = _receipt(engine, done, wanted, asked, line.actor, name_keys=name_keys)
        line.detail = json.dumps(told)
    show_receipt(out, told)


def _receipt(
    engine: Engine, done: Done, wanted: _Wanted, asked: Asked | None, by: str, *, name_keys: bool
) -> dict[str, Any]:
    from snapengine.archiving.forget_receipt import receipt

    return receipt(
        done,
        time=engine.clock(),
        by=by,
        asked=wanted.told() if asked is not None else {"finish": True},
        units=asked.units if asked is not None else (),
        names=wanted.names() if name_keys else (),
    )


def _allow(engine: Engine, out: Output, wanted: _Wanted) -> None:
    from snapengine.archiving.forget import allow_again
    from snapengine.forgotten import key_unit, prefix_unit

    units = {*map(key_unit, wanted.keys), *map(prefix_unit, wanted.prefixes)}
    units |= {unit for key in wanted.keys for unit in _versions(engine, wanted.bucket, key)}
    with audited(engine, out, "forget", wanted.bucket, detail='{"allow_again": true}') as line:
        left = asyncio.run(allow_again(engine, wanted.bucket, units))
        line.detail = json.dumps({"allow_again": True, **wanted.told(), "units": sorted(units)[:100]})
    still = _still(wanted.keys, left)
    if out.as_json:
        out.json({"bucket": wanted.bucket, "number": left.number, "units": len(left.units), "still": still})
    else:
        out.line("Rows of these are kept again from now on; none comes back by itself.")
        out.note(f"To have them now: snapengine extract {wanted.bucket}")
    for key, prefix in still.items():
        out.warn(f"{key} is still forgotten, with all keys below {prefix!r}: allow that prefix again.")


def _versions(engine: Engine, bucket: str, key: str) -> list[str]:
    from snapengine.forgotten import version_unit
    from snapengine.resolver import key_history

    epoch = engine.store.newest_epoch(bucket)
    history = key_history(engine, bucket, key, epoch) if epoch is not None else []
    return [version_unit(key, one.version_id, one.etag) for one in history]


def _still(keys: list[str], left: Forgotten) -> dict[str, str]:
    return {key: prefix for key in keys if (prefix := left.by_prefix(key)) is not None}
