"""A device that is not here: tensors on it are computed on the CPU, and mixing the two fails as it
does on a GPU. What was sent there and what came back is written down."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from autotok.api import models, supernet
from autotok.devices import placing
from autotok.export import bundle
from autotok.report import finetune_run, search_run
from autotok.searching.running import model_worker, session

if "elsewhere" not in str(torch._C._get_privateuse1_backend_name()):
    backend_registration._setup_privateuseone_for_python_backend("elsewhere")
    # torch.export, of later tests in the same process, keeps the random state of every device
    _module = type(torch.elsewhere)  # type: ignore[attr-defined]
    _module.get_rng_state = lambda self, *_: torch.get_rng_state()
    _module.set_rng_state = lambda self, *_: None
DEVICE = torch.device("elsewhere", 0)
MAY_MIX = ("aten::_to_copy", "aten::copy_", "aten::index", "aten::index_put_", "aten::index_put")


class Elsewhere(Tensor):
    """A tensor on the device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Elsewhere":
        with torch.inference_mode(False):  # or a view of a parameter could not be one
            made = Tensor._make_wrapper_subclass(
                cls, inner.size(), strides=inner.stride(), dtype=inner.dtype, device=DEVICE
            )
        made.inner = inner
        return made

    def __getitem__(self, index: Any) -> Tensor:
        """A list would be made a tensor below the reach of `Recorder`."""
        return super().__getitem__(torch.tensor(index) if isinstance(index, list) else index)

    def tolist(self) -> Any:
        """As a GPU's tensor gives it."""
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Recorder.now.run(func, args, dict(kwargs or {}))


class Recorder(TorchDispatchMode):
    """Runs operators where their tensors are."""

    now: "Recorder"

    def __init__(self) -> None:
        super().__init__()
        self.there: Counter[str] = Counter()
        """Operators run on the device."""
        self.sent: Counter[tuple[int, ...]] = Counter()
        """Shapes of what was sent there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, dict(kwargs or {}))

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operator."""
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        placed = [x for x in tensors if isinstance(x, Elsewhere)]
        name = func._schema.name
        if func._can_decompose():  # in inference mode they come whole
            with self:
                return func.decompose(*args, **kwargs)
        if placed and name not in MAY_MIX:
            here = [x for x in tensors if not isinstance(x, Elsewhere) and x.dim() > 0]
            assert not here, f"{name}: tensors on two devices, {tuple(here[0].shape)} on the CPU"
        target = kwargs.get("device")
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        asked = None if target is None else torch.device(target).type
        onto = bool(placed) if asked is None else asked == DEVICE.type
        if name == "aten::copy_":
            onto = isinstance(args[0], Elsewhere)
        self.there[name] += onto
        if onto and name == "aten::_to_copy" and not placed:
            self.sent[tuple(args[0].shape)] += 1
        known = {id(x.inner): x for x in placed}
        out = func(*tree_map(_bare, args), **tree_map(_bare, kwargs))
        return tree_map(lambda x: _wrapped(x, known) if onto else x, out)


def _bare(value: Any) -> Any:
    return value.inner if isinstance(value, Elsewhere) else value


def _wrapped(value: Any, known: dict[int, Elsewhere]) -> Any:
    if not isinstance(value, Tensor) or isinstance(value, Elsewhere):
        return value
    return known[id(value)] if id(value) in known else Elsewhere(value)


def _alone(work: Callable[..., Any]) -> Callable[..., Any]:
    """The work with no mode at its side: torch's exporters and counters suffer none."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():
            return work(*args, **kwargs)

    return run


@contextmanager
def a_device_elsewhere() -> Iterator[Recorder]:
    """While it lasts, `DEVICE` is what `cuda` means."""
    real, count = placing.torch_device, _alone(model_worker.count_macs)

    def counted(model: nn.Module) -> Any:
        return count(copy.deepcopy(model).cpu())

    with pytest.MonkeyPatch.context() as patch, Recorder() as recorder:
        for module in (placing, session, finetune_run, search_run, models, supernet):
            patch.setattr(module, "torch_device", lambda n: DEVICE if n == "cuda" else real(n))
        patch.setattr(model_worker, "count_macs", counted)
        patch.setattr(bundle, "export_model", _alone(bundle.export_model))
        Recorder.now = recorder
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            yield recorder
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)
