"""A fork waits for threads inside the gate, and none goes in while it lasts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

from snapengine.tracking.forking import Gate


def test_a_fork_waits_until_those_inside_have_left_or_given_way() -> None:
    gate, begun, order = Gate(), Event(), list[str]()

    def work() -> None:
        with gate:
            begun.set()
            while not gate._forks:
                pass
            order.append("at work")
            gate.give_way()
            order.append("on again")

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        begun.wait(30)
        gate.before_fork()
        order.append("forked")
        gate.after_fork()
        working.result(30)
    assert order == ["at work", "forked", "on again"]


def test_a_thread_inside_may_fork_itself_and_a_child_starts_with_nobody_inside() -> None:
    gate = Gate()
    with gate:
        gate.before_fork()
        gate.in_child()
    with gate:
        pass
    assert not gate._inside
