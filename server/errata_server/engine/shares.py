"""Threads that work side by side, each on its share of the processors.

torch keeps by thread how many processors its operators use; threads that are new begin with what
was set last, wherever that was.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def sharing_pool(
    size: int, name: str, begin: Callable[[], None] = lambda: None
) -> tuple[ThreadPoolExecutor, frozenset[threading.Thread]]:
    """A pool of ``size`` threads, all started, and these threads.

    Args:
        size: By which the processors of the caller's thread are divided.
        name: What the threads' names begin with.
        begin: What each does first.
    """
    whole = torch.get_num_threads()
    met = threading.Barrier(size)

    def start() -> None:
        torch.get_num_threads()  # a thread's first look sets its number to what was set last
        torch.set_num_threads(max(1, whole // size))
        begin()

    def meet(_: int) -> threading.Thread:
        met.wait()  # so that none of them meets twice
        return threading.current_thread()

    pool = ThreadPoolExecutor(size, thread_name_prefix=name, initializer=start)
    threads = frozenset(pool.map(meet, range(size)))
    torch.set_num_threads(whole)
    return pool, threads
