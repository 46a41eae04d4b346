"""What all benchmarks share: results and their targets, alternating repetitions, the two ways to print.

A benchmark is a module of this package with a docstring, `add_options(parser)` and `run(options) -> Result`.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal, Protocol

MET, MISSED, UNAVAILABLE = 0, 1, 2
"""Exit statuses: all is well; `correct` or `ok` is false; the benchmark could not run."""


class Unavailable(Exception):
    """The benchmark cannot run here. The message says what is missing and what to do."""


class Benchmark(Protocol):
    """A module of this package."""

    __doc__: str | None

    def add_options(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, options: argparse.Namespace) -> Result: ...


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured quantity: the median of its repetitions, the least and the greatest of them."""

    value: float
    unit: str
    least: float
    most: float

    @classmethod
    def of(cls, samples: Sequence[float], unit: str) -> Figure:
        return cls(median(samples), unit, min(samples), max(samples))


@dataclass(frozen=True, slots=True)
class Target:
    """What a ratio must be; the limit itself is good enough."""

    bound: Literal["at_most", "at_least"]
    limit: float

    def met_by(self, ratio: float) -> bool:
        """False for NaN, whichever the bound."""
        return ratio <= self.limit if self.bound == "at_most" else ratio >= self.limit


@dataclass(frozen=True, slots=True)
class Result:
    """What a benchmark found."""

    name: str
    params: Mapping[str, str | int | float]
    figures: Mapping[str, Figure]
    ratios: Mapping[str, float]
    targets: Mapping[str, Target]
    """By the name of the ratio."""
    correct: bool
    """What was timed gave the same answer as its peer, or as what was put in."""

    @property
    def ok(self) -> bool:
        """Whether every target is met. A target without its ratio is not."""
        return all(target.met_by(self.ratios.get(name, math.nan)) for name, target in self.targets.items())

    @property
    def status(self) -> int:
        return MET if self.correct and self.ok else MISSED

    def as_json(self) -> str:
        """One object on one line."""
        return json.dumps(
            {
                "name": self.name,
                "params": {**self.params, **machine()},
                "figures": {name: asdict(figure) for name, figure in self.figures.items()},
                "ratios": self.ratios,
                "targets": {name: {target.bound: target.limit} for name, target in self.targets.items()},
                "correct": self.correct,
                "ok": self.ok,
            },
            ensure_ascii=False,
        )

    def as_text(self) -> str:
        """For people."""
        params = ", ".join(f"{name}={value}" for name, value in {**self.params, **machine()}.items())
        figures = [("figure", "median", "least", "most", "unit")]
        figures += [
            (name, _short(f.value), _short(f.least), _short(f.most), f.unit)
            for name, f in self.figures.items()
        ]
        ratios = [("ratio", "is", "target", "")]
        for name, ratio in self.ratios.items():
            target = self.targets.get(name)
            wanted = f"{target.bound.replace('_', ' ')} {_short(target.limit)}" if target else ""
            verdict = ("met" if target.met_by(ratio) else "MISSED") if target else ""
            ratios.append((name, _short(ratio), wanted, verdict))
        agree = f"correct: {'yes' if self.correct else 'NO'}   ok: {'yes' if self.ok else 'NO'}"
        return "\n".join([f"{self.name} ({params})", "", *_table(figures), "", *_table(ratios), "", agree])


def machine() -> dict[str, str | int]:
    """Where it ran, as far as figures hang on it."""
    return {"python": platform.python_version(), "cpus": os.cpu_count() or 1}


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within, garbage is collected as ever, but not looked for among what was there before: a benchmark's
    inputs and expectations are many objects that no worker or reader has to carry."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def timed(action: Callable[[], object]) -> float:
    """Seconds that the action takes."""
    with undisturbed():
        started = time.perf_counter()
        action()
        return time.perf_counter() - started


def alternate(
    ours: Callable[[], float], peer: Callable[[], float], repetitions: int
) -> tuple[list[float], list[float]]:
    """What the two measured, in turns, so that a machine that slows down slows both. Who goes first
    changes with each repetition; a first round of each warms up and does not count."""
    ours()
    peer()
    samples: tuple[list[float], list[float]] = ([], [])
    for repetition in range(repetitions):
        turns = [(samples[0], ours), (samples[1], peer)]
        for kept, measure in turns if repetition % 2 == 0 else reversed(turns):
            kept.append(measure())
    return samples


def median_ratio(ours: Sequence[float], peer: Sequence[float]) -> float:
    """The median over the repetitions of ours to the peer's beside it. The two ran within seconds of each
    other, so that this hangs less on what else the machine does than the ratio of the medians would."""
    return median(a / b for a, b in zip(ours, peer, strict=True))


def positive(text: str) -> int:
    """An option's value: a whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def run_command(name: str, benchmark: Benchmark, arguments: Sequence[str]) -> int:
    """Run one benchmark as a command, print its result, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=benchmark.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    benchmark.add_options(parser)
    options = parser.parse_args(arguments)
    try:
        result = benchmark.run(options)
    except Unavailable as problem:
        print(f"{name}: {problem}", file=sys.stderr)
        return UNAVAILABLE
    print(result.as_json() if options.json else result.as_text())
    return result.status


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _table(rows: Iterable[tuple[Any, ...]]) -> list[str]:
    """Lines of a table, its columns as wide as they need be."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
