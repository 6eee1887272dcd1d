"""A lane: one set of weights, and the roles whose rows go through it in one forward."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from factory.errors import ModelError

from .attention import Attender, Prefill, Scoring
from .kv import Ids, Role
from .levers import watching_head
from .lora import ExpertRows

RoleName = Literal["expert", "negative", "center", "base"]
Logits = tuple[RoleName, list[int], Tensor]  # of a role's rows: their slots, (rows, V)
PREFILL_TOKENS = {"cpu": 1024}  # of one prefill forward; more falls out of a CPU's cache
PREFILL_TOKENS_ELSEWHERE = 16384


class Lane:
    """Rows of the expert's weights come first in every forward, the base's last."""

    def __init__(
        self,
        model: PreTrainedModel,
        roles: Sequence[RoleName],
        rows: int,
        columns: int,
        expert_rows: ExpertRows | None,
        *,
        hidden: bool = False,
    ) -> None:
        """rows, columns: of each role at most, and how many tokens a row generates at most.
        expert_rows: where a row-wise LoRA reads how many rows are the expert's; or None.
        hidden: what logits are made of (d numbers a row) follows them in the same row."""
        self._model = model
        self._device = _input_device(model)
        self._layers = model.config.get_text_config().num_hidden_layers
        self._roles: dict[RoleName, Role] = {name: Role(rows, columns) for name in roles}
        self._last: dict[tuple[RoleName, Ids], Tensor] = {}
        self._expert_rows = expert_rows
        self._hidden = hidden

    def open(self, wanted: Sequence[tuple[int, RoleName, Ids]]) -> Iterator[Logits]:
        """Start a row per (slot, role, context); contexts that are not here yet are run."""
        self._forget(wanted)
        asked = dict.fromkeys((name, ids) for _, name, ids in wanted)
        new = [item for item in asked if item not in self._last]
        new.sort(key=lambda item: (item[0] == "base", len(item[1])))
        for chunk in _chunks(new, PREFILL_TOKENS.get(self._device.type, PREFILL_TOKENS_ELSEWHERE)):
            self._prefill(chunk)
        for name, role in self._roles.items():
            mine = [(slot, ids) for slot, of, ids in wanted if of == name]
            for slot, ids in mine:
                role.open(slot, ids)
            if mine:
                last = torch.stack([self._last[name, ids] for _, ids in mine])
                yield name, [slot for slot, _ in mine], last

    def step(self, tokens: Mapping[int, int]) -> Iterator[Logits]:
        """Go on by one token (slot → token) in every row."""
        roles = [(name, role) for name, role in self._roles.items() if len(role)]
        if not roles:
            return
        ids = torch.tensor([[tokens[slot]] for _, role in roles for slot in role.slots])
        positions = torch.tensor([[p] for _, role in roles for p in role.positions()])
        for _, role in roles:
            role.advance()
        attender = _Stacked([role for _, role in roles])
        expert = sum(len(role) for name, role in roles if name != "base")
        logits = self._forward(ids, positions, attender, expert)[:, -1]
        parts = torch.split(logits, [len(role) for _, role in roles])
        for (name, role), part in zip(roles, parts, strict=True):
            yield name, role.slots, part

    def close(self, slots: set[int]) -> None:
        """End all rows of these slots."""
        for role in self._roles.values():
            role.close(slots)

    def _forget(self, wanted: Sequence[tuple[int, RoleName, Ids]]) -> None:
        """Drop contexts that are not needed any more, and their logits."""
        for name, role in self._roles.items():
            role.forget({ids for _, of, ids in wanted if of == name})
        for name, ids in list(self._last):
            if not self._roles[name].has(ids):
                del self._last[name, ids]

    def _prefill(self, contexts: Sequence[tuple[RoleName, Ids]]) -> None:
        width = max(len(ids) for _, ids in contexts)
        padded = torch.tensor([[*ids, *[0] * (width - len(ids))] for _, ids in contexts])
        positions = torch.arange(width).expand(len(contexts), width)
        ends = sorted({len(ids) - 1 for _, ids in contexts})
        prefill = Prefill()
        expert = sum(name != "base" for name, _ in contexts)
        logits = self._forward(padded, positions, prefill, expert, torch.tensor(ends))
        if len(prefill.layers) != self._layers:
            raise ModelError(
                f"{type(self._model).__name__} does not let its attention be replaced "
                "(transformers' attention interface), so it cannot be steered"
            )
        for row, (name, ids) in enumerate(contexts):
            self._roles[name].add_context(ids, prefill.layers, row)
            self._last[name, ids] = logits[row, ends.index(len(ids) - 1)].clone()

    def _forward(
        self,
        ids: Tensor,
        positions: Tensor,
        attender: Attender,
        expert: int,
        keep: Tensor | None = None,
    ) -> Tensor:
        """(n, q) ids at (n, q) positions to (n, kept, V) logits; the first `expert` rows with
        the adapter, if there is one."""
        if self._expert_rows is not None:
            self._expert_rows.count, self._expert_rows.total = expert, len(ids)
        with watching_head(self._model, self._hidden) as seen:
            logits: Tensor = self._model(
                input_ids=ids.to(self._device),
                position_ids=positions.to(self._device),
                attender=attender,
                use_cache=False,
                logits_to_keep=1 if keep is None else keep.to(self._device),
            ).logits
        return torch.cat((logits, seen[0].to(logits)), dim=-1) if seen else logits


class _Stacked:
    """One forward for the rows of several roles, each attending to its own KV."""

    def __init__(self, roles: Sequence[Role]) -> None:
        self._roles = roles
        self._sizes = [len(role) for role in roles]

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> Tensor:
        if len(self._roles) == 1:
            return self._roles[0].attend(layer, query, key, value, scoring)
        parts = zip(*(torch.split(x, self._sizes) for x in (query, key, value)), strict=True)
        out = [
            role.attend(layer, q, k, v, scoring)
            for role, (q, k, v) in zip(self._roles, parts, strict=True)
        ]
        return torch.cat(out)


def _input_device(model: PreTrainedModel) -> torch.device:
    weight: Tensor = model.get_input_embeddings().weight  # type: ignore[assignment]
    return weight.device


def _chunks(
    contexts: Sequence[tuple[RoleName, Ids]], tokens: int
) -> list[list[tuple[RoleName, Ids]]]:
    """Split so that no forward is over `tokens`, padding included, but for single contexts."""
    chunks: list[list[tuple[RoleName, Ids]]] = []
    width = 0
    for item in contexts:
        width = max(width, len(item[1]))
        if not chunks or width * (len(chunks[-1]) + 1) > tokens:
            chunks.append([])
            width = len(item[1])
        chunks[-1].append(item)
    return chunks
