"""`python -m benchmarks` lists the benchmarks; `python -m benchmarks NAME [--json] [options]` runs one."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module

import benchmarks
from benchmarks.harness import MET, UNAVAILABLE, run_command


def names() -> list[str]:
    """The modules beside this one; those with an underscore, and the harness, serve them."""
    found = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return sorted(name for name in found if name != "harness" and not name.startswith("_"))


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in {"-h", "--help"}:
        print("Run one: python -m benchmarks NAME [--json]; its options: python -m benchmarks NAME --help\n")
        for name in names():
            about = (import_module(f"benchmarks.{name}").__doc__ or "").partition("\n")[0]
            print(f"{name:18}{about}")
        return MET
    name, *rest = arguments
    if name not in names():
        print(f"There is no benchmark {name!r}; there are: {', '.join(names())}.", file=sys.stderr)
        return UNAVAILABLE
    return run_command(name, import_module(f"benchmarks.{name}"), rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
