"""Attention of a step for the rows of all roles at once, in compiled loops, for float32 on a CPU;
`kv.Role.attend` is its reference. Imported only where it is used: the first time it compiles them.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from workers.models.attention import Scoring

from . import loops
from .kv import Ints, Role
from .plan import Plan
from .tiles import addresses

# Numbers of keys in a part that has a thread of its own. Two threads on two cores: level at 0.7
# times as many, 1.25 to 1.45 times as fast at 2.6 to 4 times (28 November 2026, AMD EPYC).
PORTION = 2**20


class Compiled:
    """The buffers of some roles, as the compiled code finds them: by address."""

    def __init__(self, roles: Sequence[Role]) -> None:
        self._roles = roles
        self._tables: dict[int, Ints] = {}
        self._threads = ThreadPoolExecutor(thread_name_prefix="attention")

    def clear(self) -> None:
        """Forget addresses, as when a buffer has a new one."""
        self._tables.clear()

    def arrange(self, live: Mapping[int, Role]) -> tuple[tuple[int, ...], Ints]:
        """The numbers of the roles that a step has rows of, and the context of each row."""
        return tuple(live), np.concatenate([role.standing().contexts for role in live.values()])

    def attender(
        self, numbers: tuple[int, ...], contexts: Tensor, plans: Sequence[Plan]
    ) -> "Together":
        """What attends in one step; numbers and contexts are those of `arrange`."""
        return Together(self, numbers, contexts, plans)

    def table(self, layer: int) -> Ints:
        """(roles, 6) see `addresses`."""
        if layer not in self._tables:
            self._tables[layer] = np.array(addresses(self._roles, layer))
        return self._tables[layer]

    def run(self, call: Callable[[int], None], parts: int) -> None:
        """Do all parts of some work, each but the first on a thread of its own."""
        others = [self._threads.submit(call, part) for part in range(1, parts)]
        call(0)
        for other in others:
            other.result()


class Together:
    """Attention of one step; see `attention.Attender`."""

    def __init__(
        self, compiled: Compiled, numbers: tuple[int, ...], contexts: Tensor, plans: Sequence[Plan]
    ) -> None:
        self._compiled = compiled
        self._contexts, self._plans = contexts, plans  # their memory is read
        rows = [plan.shape.rows for plan in plans]
        self._work = np.array(
            [
                (number, count, *(x.data_ptr() for x in (context, plan.shared, plan.own)))
                for number, count, context, plan in zip(
                    numbers, rows, torch.split(contexts, rows), plans, strict=True
                )
            ]
        )
        seen = torch.cat([plan.shared + plan.own for plan in plans])
        self._seen, self._most = int(seen.sum()), int(seen.max()) + 1

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> Tensor:
        """Store the rows' new KV (n, kv heads, 1, size); attend to context and own columns."""
        (n, heads, _, size), kv_heads = query.shape, key.shape[1]
        query, key, value = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key, value))
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        table = self._compiled.table(layer)
        numbers = self._seen * kv_heads * size
        parts = max(1, min(torch.get_num_threads(), numbers // PORTION, n))
        scores = torch.empty(parts, self._most)

        def run(part: int) -> None:
            loops.attend(
                n * part // parts, n * (part + 1) // parts,
                query.data_ptr(), query.stride(0), query.stride(1),
                key.data_ptr(), key.stride(0), key.stride(1),
                value.data_ptr(), value.stride(0), value.stride(1), out.data_ptr(),
                table.ctypes.data, self._work.ctypes.data, len(self._work),
                heads, kv_heads, size, scoring.window or 0,
                scoring.scale, scoring.softcap or 0.0, scores[part].data_ptr(),
            )  # fmt: skip

        self._compiled.run(run, parts)
        return out
