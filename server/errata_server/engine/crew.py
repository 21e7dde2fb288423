"""Threads that work side by side, each on its share of the processors.

torch keeps by thread how many processors its operators use; threads that are new begin with what
was set last, wherever that was.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from errata_server.engine.hooks import keep_hooks_here


def crew(size: int, name: str) -> tuple[ThreadPoolExecutor, frozenset[threading.Thread]]:
    """A pool of ``size`` threads, all started, and these threads."""
    whole = torch.get_num_threads()
    met = threading.Barrier(size)

    def start() -> None:
        keep_hooks_here()
        torch.get_num_threads()  # a thread's first look sets its number to what was set last
        torch.set_num_threads(max(1, whole // size))

    def meet(_: int) -> threading.Thread:
        met.wait()  # so that none of them meets twice
        return threading.current_thread()

    pool = ThreadPoolExecutor(size, thread_name_prefix=name, initializer=start)
    threads = frozenset(pool.map(meet, range(size)))
    torch.set_num_threads(whole)
    return pool, threads
