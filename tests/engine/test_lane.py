"""The one model thread takes one step at a time, in order, and turns away what it cannot hold."""

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

from errata_server.domain.errors import OverloadedError, UnavailableError
from errata_server.engine import lane as lanes
from errata_server.engine.lane import ModelLane
from errata_server.engine.shares import sharing_pool


@pytest.fixture
def lane():
    lane = ModelLane()
    yield lane
    lane.close()


class Gate:
    """A step that holds the lane until it is opened."""

    def __init__(self, lane: ModelLane) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=lane.run, args=(self._hold,))
        self.thread.start()
        assert self.entered.wait(10)

    def _hold(self) -> None:
        self.entered.set()
        assert self.opened.wait(10)

    def open(self) -> None:
        self.opened.set()
        self.thread.join(10)


def waiting(lane: ModelLane, count: int) -> None:
    """Block until ``count`` steps are queued behind the running one."""
    for _ in range(1000):
        if lane._executor._work_queue.qsize() >= count:
            return
        time.sleep(0.002)
    pytest.fail("the steps never queued")


def test_a_step_runs_on_the_lanes_own_thread_and_its_result_comes_back(lane):
    assert lane.run(threading.get_ident) != threading.get_ident()
    assert lane.run(threading.get_ident) == lane.run(threading.get_ident)
    assert lane.run(lambda: 7) == 7


def test_an_error_reaches_the_caller_and_the_lane_goes_on(lane):
    def fail():
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        lane.run(fail)

    assert lane.run(lambda: 1) == 1


def test_a_failed_step_lets_go_of_what_it_held(lane):
    class Held:
        pass

    seen: list[weakref.ref[Held]] = []

    def fail():
        held = Held()
        seen.append(weakref.ref(held))
        raise ZeroDivisionError("mine")

    gc.disable()
    try:
        with pytest.raises(ZeroDivisionError, match="mine"):
            lane.run(fail)
        assert lane.run(seen[0]) is None
    finally:
        gc.enable()


def test_steps_run_in_the_order_they_were_asked_for(lane):
    gate, ran = Gate(lane), []
    threads = []
    for number in range(8):
        threads.append(threading.Thread(target=lane.run, args=(lambda n=number: ran.append(n),)))
        threads[-1].start()
        waiting(lane, number + 1)

    gate.open()
    for thread in threads:
        thread.join(10)

    assert ran == list(range(8))


def queue(lane: ModelLane, ran: list[str], names: list[str]) -> list[threading.Thread]:
    """A step for each name, queued in that order; those that begin with ``u`` are urgent."""
    threads = []
    for number, name in enumerate(names):
        call = partial(lane.run, partial(ran.append, name), urgent=name.startswith("u"))
        threads.append(threading.Thread(target=call))
        threads[-1].start()
        waiting(lane, number + 1)
    return threads


def test_an_urgent_step_goes_before_others_but_not_before_urgent_ones(lane):
    gate, ran = Gate(lane), []
    threads = queue(lane, ran, ["a", "u1", "b", "u2"])

    gate.open()
    for thread in threads:
        thread.join(10)

    assert ran == ["u1", "u2", "a", "b"]


def test_urgent_steps_do_not_keep_others_waiting_for_ever(lane, monkeypatch):
    monkeypatch.setattr(lanes, "MAX_IN_A_ROW", 2)
    gate, ran = Gate(lane), []
    threads = queue(lane, ran, ["u1", "u2", "u3", "a", "u4", "b", "c", "u5"])

    gate.open()
    for thread in threads:
        thread.join(10)

    assert ran == ["u1", "u2", "a", "u3", "u4", "b", "u5", "c"]


def test_steps_never_overlap(lane):
    running, most = [0], [0]

    def step():
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.001)
        running[0] -= 1

    threads = [threading.Thread(target=lane.run, args=(step,)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert most[0] == 1


@pytest.fixture
def wide():
    lane = ModelLane(2)
    yield lane
    lane.close()


def test_the_crew_goes_on_side_by_side_and_beside_the_one(wide):
    gate, both = Gate(wide), threading.Barrier(2)
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(wide.run(meet, beside=True))) for _ in range(2)
    ]

    def meet():
        both.wait(10)
        return wide.run(threading.get_ident)  # a step within a step runs at once

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    gate.open()

    assert len(set(found)) == 2
    assert wide.run(threading.get_ident) not in found
    assert wide.run(threading.get_ident, beside=True) in found


def test_without_a_crew_its_steps_are_the_one_s(lane):
    assert lane.run(threading.get_ident, beside=True) == lane.run(threading.get_ident)


def test_the_crew_s_steps_count_among_those_that_wait(monkeypatch):
    monkeypatch.setattr(lanes, "MAX_WAITING", 1)
    wide = ModelLane(2)
    gate = Gate(wide)

    with pytest.raises(OverloadedError):
        wide.run(lambda: None, beside=True)
    gate.open()

    assert wide.run(lambda: 1, beside=True) == 1
    wide.close()
    with pytest.raises(UnavailableError):
        wide.run(lambda: 1, beside=True)


def test_a_crew_has_its_share_of_the_processors_and_leaves_the_others_theirs():
    whole = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        pool, threads = sharing_pool(2, "x")
        met = threading.Barrier(2)

        def share():
            met.wait(10)
            return threading.current_thread(), torch.get_num_threads()

        found = [end.result() for end in [pool.submit(share) for _ in range(2)]]
        assert {thread for thread, _ in found} == threads
        assert [count for _, count in found] == [2, 2]
        assert torch.get_num_threads() == 4
        with ThreadPoolExecutor(1) as fresh:
            assert fresh.submit(torch.get_num_threads).result() == 4
        pool.shutdown()
    finally:
        torch.set_num_threads(whole)


def test_a_step_may_ask_for_a_step_without_waiting_for_itself(lane):
    result: list[int] = []

    outer = threading.Thread(target=lambda: result.append(lane.run(lambda: lane.run(lambda: 5))))
    outer.daemon = True
    outer.start()
    outer.join(5)

    assert result == [5]


def test_too_many_waiting_steps_are_turned_away_and_later_ones_served(monkeypatch):
    monkeypatch.setattr(lanes, "MAX_WAITING", 3)
    lane = ModelLane()
    gate = Gate(lane)
    threads = [threading.Thread(target=lane.run, args=(lambda: None,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    waiting(lane, 2)

    with pytest.raises(OverloadedError) as refusal:
        lane.run(lambda: None)
    gate.open()
    for thread in threads:
        thread.join(10)

    assert refusal.value.metadata == {"waiting": "3"}
    assert [lane.run(lambda: 1) for _ in range(9)] == [1] * 9
    lane.close()


def test_failing_steps_give_their_places_back(monkeypatch):
    monkeypatch.setattr(lanes, "MAX_WAITING", 2)
    lane = ModelLane()

    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            lane.run(lambda: 1 // 0)

    assert lane.run(lambda: 1) == 1
    lane.close()


def test_closing_finishes_what_waits_and_refuses_what_comes(lane):
    gate, ran = Gate(lane), []
    thread = threading.Thread(target=lane.run, args=(lambda: ran.append(1),))
    thread.start()
    waiting(lane, 1)
    closing = threading.Thread(target=lane.close)
    closing.start()

    gate.open()
    thread.join(10)
    closing.join(10)

    assert ran == [1]
    with pytest.raises(UnavailableError, match="shutting down"):
        lane.run(lambda: 1)
