"""Steps that are recorded once per shape and replayed: on a GPU as a CUDA graph, which launches
a whole forward at once. A recorded step reads what changes from one tensor of integers, and
works on buffers that stay where they are.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from factory.errors import ModelError

Step = Callable[[Tensor], None]  # of the step's integers, int64
Replay = Callable[[], None]
Record = Callable[[Step, Tensor], Replay]  # the tensor is read anew by each replay
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")  # names in configurations
KEPT = 64  # recorded steps; the one not used for longest makes room


class Steps:
    """Runs steps by key: the first time as they are, then recorded, if there is a way to."""

    def __init__(self, device: torch.device, record: Record | None) -> None:
        self._device = device
        self._record = record
        self._kept: OrderedDict[Hashable, tuple[Replay, Tensor] | None] = OrderedDict()

    def run(self, key: Hashable, integers: npt.NDArray[np.int64], step: Step) -> None:
        """Run `step` on these integers. Equal keys: the same work on the same buffers."""
        host = torch.from_numpy(integers)
        if self._record is None or key not in self._kept:
            self._kept[key] = None  # run once before it is recorded: libraries set themselves up
            step(host.to(self._device))
        else:
            recorded = self._kept[key] or self._recorded(step, host)
            self._kept[key] = recorded
            replay, own = recorded
            own.copy_(host)
            replay()
        self._kept.move_to_end(key)
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget what was recorded, as when a buffer has a new address."""
        self._kept.clear()

    def _recorded(self, step: Step, host: Tensor) -> tuple[Replay, Tensor]:
        assert self._record is not None  # noqa: S101
        own = host.to(self._device)
        return self._record(step, own), own


class CudaGraphs:
    """Records steps as CUDA graphs, which share one pool of memory: they never run at once."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._last: torch.cuda.CUDAGraph | None = None

    def __call__(self, step: Step, integers: Tensor) -> Replay:
        """Raises ModelError when the model's forward cannot be recorded, torch.OutOfMemoryError."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(integers.device):
            self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
            pool = self._last.pool() if self._last else None
            try:
                with torch.cuda.graph(graph, pool, self._stream, capture_error_mode="thread_local"):
                    step(integers)
            except Exception as error:
                if isinstance(error.__context__, torch.OutOfMemoryError):  # kept in no variable:
                    raise error.__context__ from None  # that would keep what it was thrown from
                raise ModelError(
                    "a step of this model cannot be recorded as a CUDA graph "
                    f"({error.__context__ or error}): "
                    "load it with graphs=False (FACTORY_CUDA_GRAPHS=false)"
                ) from error
        self._last = graph
        return graph.replay


def recordable(model: PreTrainedModel) -> bool:
    """Whether a model's steps are recorded: on one CUDA device, unless its forward asks the
    device for numbers (experts that tokens are dealt to, rotations that depend on the length)."""
    devices = {weight.device for weight in model.parameters()}
    config = model.config.get_text_config().to_dict()
    dealt = any(config.get(name) for name in EXPERTS)
    stretched = any(kind in str(config.get("rope_parameters")) for kind in ("dynamic", "longrope"))
    return (
        {device.type for device in devices} == {"cuda"}
        and len(devices) == 1
        and not (dealt or stretched)
    )
