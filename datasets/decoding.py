"""Work on many items by threads, in order, a little ahead of who wants the results."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

AHEAD = 2
"""Chunks that are worked on while an earlier one is used."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Item], Result], chunks: Iterable[Sequence[Item]]
) -> Iterator[tuple[Sequence[Item], list[Result]]]:
    """Yield each chunk with what `work` makes of its items; the first error among them is raised.

    No more than `AHEAD` chunks are under way, so results do not pile up. What has not begun is dropped when the
    iterator is closed.
    """
    pending: deque[tuple[Sequence[Item], list[Future[Result]]]] = deque()
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 16)) as pool:
        try:
            for chunk in chunks:
                pending.append((chunk, [pool.submit(work, item) for item in chunk]))
                if len(pending) > AHEAD:
                    yield _done(*pending.popleft())
            while pending:
                yield _done(*pending.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _done(chunk: Sequence[Item], futures: list[Future[Result]]) -> tuple[Sequence[Item], list[Result]]:
    return chunk, [future.result() for future in futures]
