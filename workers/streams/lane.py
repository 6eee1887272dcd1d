"""A lane: one set of weights, and the roles whose rows go through it in one forward."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, Literal, Protocol, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from factory.errors import ModelError
from workers.models.attention import Attender, Prefill, Scoring
from workers.models.graphs import Record, Steps
from workers.models.inside import input_device, watching_head
from workers.models.lora import AdapterRows

from .documents import Context, DocumentCache, Ids, Layers, Tails
from .kv import Ints, Role
from .plan import Grain, Plan, Shape

T = TypeVar("T")
MASKED = torch.finfo(torch.float32).min  # of what is never drawn; −inf would turn into NaN
RoleName = Literal["expert", "base", "negative", "center", "accepted", "rejected"]
ROLES: tuple[RoleName, ...] = get_args(RoleName)
GUIDING: tuple[RoleName, ...] = ("base", "negative", "center")
ATTACHED: tuple[RoleName, ...] = ("accepted", "rejected")  # their adapters, in order
PREFILL_TOKENS = {"cpu": 1024}  # of one prefill forward; more falls out of a CPU's cache
PREFILL_TOKENS_ELSEWHERE = 16384
RECORDED = Grain(rows=32, columns=32, width=128)  # of steps that are recorded once per shape


class Lane:
    """Rows of the expert's weights come first in every forward, then those of the adapters that are
    attached beside it, the base's last.

    logits   of each role, (slots + 1, V) float32 on `out`: what a slot's next token is chosen
             by; banned tokens are at MASKED; the last row is nobody's. With `hidden` a row goes
             on with the hidden state that its logits are made of
    documents  where documents that are run apart are kept; None: they are not kept
    """

    def __init__(
        self,
        model: PreTrainedModel,
        roles: Sequence[RoleName],
        rows: int,
        columns: int,
        adapter_rows: AdapterRows | None,
        banned: Tensor,
        record: Record | None,
        *,
        hidden: bool = False,
    ) -> None:
        """rows, columns: of each role at most, and how many tokens a row generates at most.
        adapter_rows: where a row-wise LoRA reads how many rows are whose; or None.
        banned: ids that are never drawn, on the device that logits are wanted on.
        record: how a step is recorded; None: every step is run as it is.
        hidden: what the logits are made of (d numbers) follows them in each row."""
        self._model = model
        self._device = input_device(model)
        self._layers = model.config.get_text_config().num_hidden_layers
        fused = has_kernels(model)
        self._grain = replace(RECORDED if record else Grain(), fused=fused)
        self.roles = frozenset(roles)
        self._roles: dict[RoleName, Role] = {
            name: Role(rows, columns, self._grain) for name in roles
        }
        self._kernels = _kernels(self._roles.values(), self._device, self._grain) if fused else None
        self._last: dict[tuple[RoleName, Context], Tensor] = {}
        self.documents: DocumentCache | None = None
        self._adapter_rows = adapter_rows
        self._slots = rows
        self._banned = banned
        self._steps = Steps(self._device, record)
        self._hidden = hidden
        self.logits: dict[RoleName, Tensor] = {}

    def open(self, wanted: Sequence[tuple[int, RoleName, Context]]) -> None:
        """Start a row per (slot, role, context); contexts that are not here yet are run."""
        self._forget(wanted)
        asked = dict.fromkeys((name, context) for _, name, context in wanted)
        self._run([item for item in asked if item not in self._last])
        for name, role in self._roles.items():
            mine = [(slot, context) for slot, of, context in wanted if of == name]
            if mine:
                role.open(mine)
                last = torch.stack([self._last[name, context] for _, context in mine])
                self._keep(name, torch.tensor([slot for slot, _ in mine]), last)

    def step(self, tokens: Mapping[int, int], negative: Mapping[int, int] | None = None) -> None:
        """Go on by one token (slot → token) in every row; `negative`: those of that role, if they
        are others."""
        live = {name: role for name, role in self._roles.items() if len(role)}
        if not live:
            return
        of = {"negative": negative or tokens}
        parts = {name: role.step(of.get(name, tokens)) for name, role in live.items()}
        shapes = {name: shape for name, (shape, _) in parts.items()}
        arranged, more = self._arranged(live)
        moved = [role.is_moved() for role in live.values()]
        if any(moved):
            self._forget_addresses()
        self._steps.run(
            (tuple(shapes.items()), arranged),
            np.concatenate([*(some for _, some in parts.values()), more]),
            lambda integers: self._step(shapes, arranged, len(more), integers),
        )

    def _arranged(self, live: Mapping[RoleName, Role]) -> tuple[Hashable, Ints]:
        """What kernels need to know of a step of these roles beside their own integers."""
        if self._kernels is None:
            return None, np.zeros(0, dtype=np.int64)
        return self._kernels.arrange(
            {i: live[name] for i, name in enumerate(self._roles) if name in live}
        )

    def _forget_addresses(self) -> None:
        """What was recorded, and where buffers are, as one has moved."""
        self._steps.clear()
        if self._kernels is not None:
            self._kernels.clear()

    def clear(self) -> None:
        """End all rows and drop all contexts; buffers and recorded steps stay."""
        self._last.clear()
        for role in self._roles.values():
            role.clear()

    def close(self, slots: set[int]) -> None:
        """End all rows of these slots."""
        for role in self._roles.values():
            role.close(slots)

    def _step(
        self, shapes: Mapping[RoleName, Shape], arranged: Hashable, more: int, integers: Tensor
    ) -> None:
        """One token for every row of these roles: from integers, the last `more` of which are the
        kernels', and buffers to logits."""
        *parts, rest = torch.split(integers, [*(sum(s.parts) for s in shapes.values()), more])
        plans = [Plan(shape, part) for shape, part in zip(shapes.values(), parts, strict=True)]
        rows = [shape.rows for shape in shapes.values()]
        attender = self._attender(shapes, plans, arranged, rest)
        ids = torch.cat([plan.tokens for plan in plans])[:, None]
        positions = torch.cat([plan.positions for plan in plans])[:, None]
        shares = _shares((name, shape.rows) for name, shape in shapes.items())
        logits = self._forward(ids, positions, attender, shares)[:, -1]
        for name, plan, part in zip(shapes, plans, torch.split(logits, rows), strict=True):
            self._keep(name, plan.slots, part)

    def _attender(
        self,
        shapes: Mapping[RoleName, Shape],
        plans: Sequence[Plan],
        arranged: Hashable,
        rest: Tensor,
    ) -> Attender:
        """What these rows' queries see: in kernels for all of them, or role by role."""
        if self._kernels is not None:
            return self._kernels.attender(arranged, rest, plans)
        roles = [self._roles[name] for name in shapes]
        for role, plan in zip(roles, plans, strict=True):
            role.plan = plan
        return _Stacked(roles, [shape.rows for shape in shapes.values()])

    def _keep(self, name: RoleName, slots: Tensor, logits: Tensor) -> None:
        """Put rows of logits where their slots find them."""
        out = self._banned.device
        if name not in self.logits:
            shape = (self._slots + 1, logits.shape[-1])
            self.logits[name] = torch.zeros(shape, device=out)
        wanted = logits.to(out, torch.float32)
        if len(self._banned):
            wanted = wanted.index_fill(-1, self._banned, MASKED)
        self.logits[name].index_copy_(0, slots.to(out), wanted)

    def _forget(self, wanted: Sequence[tuple[int, RoleName, Context]]) -> None:
        """Drop contexts that are not needed any more, and their logits."""
        for name, role in self._roles.items():
            role.forget({context for _, of, context in wanted if of == name})
        for name, context in list(self._last):
            if not self._roles[name].has(context):
                del self._last[name, context]

    def _run(self, new: Sequence[tuple[RoleName, Context]]) -> None:
        """Run contexts; of those with documents apart, the documents that are not kept and then
        what sees them all."""
        joint = [(name, context) for name, context in new if not context.spans]
        joint.sort(key=lambda item: (_whose(item[0]), len(item[1])))
        for chunk in self._chunks(joint, lambda item: len(item[1])):
            shares = _shares((name, 1) for name, _ in chunk)
            prefill = Prefill()
            last = self._prefill([context.ids for _, context in chunk], prefill, shares)
            self._add(chunk, prefill.layers, last)
        apart = [(name, context) for name, context in new if context.spans]
        found = self._found([context for _, context in apart])
        for chunk in self._chunks(apart, lambda item: len(item[1].tail)):
            contexts = [context for _, context in chunk]
            tails, starts = Tails(contexts, found), [c.end - len(c.tail) for c in contexts]
            last = self._prefill([c.tail for c in contexts], tails, [len(chunk)], starts)
            self._add(chunk, tails.layers, last)

    def _found(self, contexts: Sequence[Context]) -> dict[Ids, Layers]:
        """Layers of all texts that these contexts are made of; those that are not kept are run."""
        heads = {text: context.head for context in contexts for text in context.texts}
        kept = DocumentCache(0) if self.documents is None else self.documents
        found = {text: layers for text in heads if (layers := kept.get(text)) is not None}
        missing = sorted((text for text in heads if text not in found), key=len)
        for chunk in self._chunks(missing, len):
            prefill = Prefill()
            self._prefill(chunk, prefill, [len(chunk)])
            for row, text in enumerate(chunk):
                own = slice(heads[text] if len(text) > heads[text] else 0, len(text))
                found[text] = {
                    layer: (keys[row, :, own].clone(), values[row, :, own].clone())
                    for layer, (keys, values) in prefill.layers.items()
                }
                kept.put(text, found[text])
        return found

    def _prefill(
        self,
        texts: Sequence[Ids],
        attender: Prefill | Tails,
        shares: Sequence[int],
        starts: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Run texts from these positions on (or 0), ordered by `_whose`; the logits after each."""
        width = max(map(len, texts))
        padded = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in texts])
        positions = torch.arange(width) + torch.tensor(starts or [0] * len(texts))[:, None]
        ends = sorted({len(ids) - 1 for ids in texts})
        logits = self._forward(padded, positions, attender, shares, torch.tensor(ends))
        if len(attender.layers) != self._layers:
            raise ModelError(
                f"{type(self._model).__name__} does not let its attention be replaced "
                "(transformers' attention interface), so it cannot be steered"
            )
        return [logits[row, ends.index(len(ids) - 1)].clone() for row, ids in enumerate(texts)]

    def _add(
        self, contexts: Sequence[tuple[RoleName, Context]], layers: Layers, last: Sequence[Tensor]
    ) -> None:
        """Keep contexts that have been run, a row each."""
        for row, (name, context) in enumerate(contexts):
            self._roles[name].add_context(context, layers, row)
            self._last[name, context] = last[row]

    def _chunks(self, items: Iterable[T], length: Callable[[T], int]) -> list[list[T]]:
        """Split so that no forward is over the device's limit of tokens, padding included, but
        for single items."""
        limit = PREFILL_TOKENS.get(self._device.type, PREFILL_TOKENS_ELSEWHERE)
        chunks: list[list[T]] = []
        width = 0
        for item in items:
            width = max(width, length(item))
            if not chunks or width * (len(chunks[-1]) + 1) > limit:
                chunks.append([])
                width = length(item)
            chunks[-1].append(item)
        return chunks

    def _forward(
        self,
        ids: Tensor,
        positions: Tensor,
        attender: Attender,
        shares: Sequence[int],
        keep: Tensor | None = None,
    ) -> Tensor:
        """(n, q) ids at (n, q) positions to (n, kept, V) logits; the rows ordered by `_whose`,
        `shares` as `_shares` has it."""
        if self._adapter_rows is not None:
            self._adapter_rows.split(len(ids), *shares)
        with watching_head(self._model, self._hidden) as seen:
            logits: Tensor = self._model(
                input_ids=ids.to(self._device),
                position_ids=positions.to(self._device),
                attender=attender,
                use_cache=False,
                logits_to_keep=1 if keep is None else keep.to(self._device),
            ).logits
        return torch.cat((logits, seen[0].to(logits)), dim=-1) if seen else logits


class Kernels(Protocol):
    """What attends for the rows of all roles at once."""

    def clear(self) -> None:
        """Forget addresses, as when a buffer has a new one."""

    def arrange(self, live: Mapping[int, Role]) -> tuple[Any, Ints]:
        """What a step of these roles, by their numbers, is for `attender` and does not change from
        step to step while the shape stays the same; and integers, which may."""

    def attender(self, arranged: Any, integers: Tensor, plans: Sequence[Plan]) -> Attender:
        """What attends in a step; plans are those of the roles in order."""


def has_kernels(model: PreTrainedModel) -> bool:
    """Whether attention of a step runs in kernels: on one CUDA device, with triton, or in float32
    on a CPU, with numba."""
    weights = [*model.parameters()]
    devices, dtypes = {w.device for w in weights}, {w.dtype for w in weights}
    if {device.type for device in devices} == {"cuda"} and len(devices) == 1:
        return find_spec("triton") is not None
    on_cpu = {device.type for device in devices} == {"cpu"}
    return on_cpu and dtypes == {torch.float32} and find_spec("numba") is not None


def _kernels(roles: Iterable[Role], device: torch.device, grain: Grain) -> Kernels:
    if device.type == "cpu":
        from .compiled import Compiled  # importing it takes a while

        return Compiled([*roles])
    from .fused import Fused  # triton comes with CUDA's torch only

    return Fused([*roles], grain.rows)


def _whose(name: RoleName) -> int:
    """Whose rows these are: 0 the expert's, then each attached adapter's, at last the base's."""
    owners = ("expert", *ATTACHED, "base")
    return owners.index(name) if name in owners else 0


def _shares(rows: Iterable[tuple[RoleName, int]]) -> list[int]:
    """How many of a forward's rows go through the expert's adapter, and through each attached
    one."""
    shares = [0] * (1 + len(ATTACHED))
    for name, count in rows:
        if name != "base":
            shares[_whose(name)] += count
    return shares


class _Stacked:
    """One forward for the rows of several roles, each attending to its own KV."""

    def __init__(self, roles: Sequence[Role], rows: list[int]) -> None:
        self._roles = roles
        self._rows = rows

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> Tensor:
        if len(self._roles) == 1:
            return self._roles[0].attend(layer, query, key, value, scoring)
        parts = zip(*(torch.split(x, self._rows) for x in (query, key, value)), strict=True)
        out = [
            role.attend(layer, q, k, v, scoring)
            for role, (q, k, v) in zip(self._roles, parts, strict=True)
        ]
        return torch.cat(out)
