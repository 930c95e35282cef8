"""Latency, peak memory and energy measured on the machine at hand, beside a reference model.

Machines drift: clocks, heat and neighbours change by more than methods differ. So the model and
the reference take turns (R M R M R), each run of the model is compared with its two neighbours,
and a run that stays noisy is first prolonged and then says so. A slot in a turn lasts 20 ms or
more, so a model of 1 ms runs many times in it and the slot's median is taken: a scheduler that
takes the processor away every few milliseconds otherwise beats with the turns (seen: a factor of 5
between two runs of one and the same model). With one CPU thread, ratios are of the time that thread
had the processor: the same on an idle machine, and right on a busy one. A latency lasts until the
answer is there; on CUDA the host's and the device's parts in it are told apart. `board.py` holds
the timer, the turns and the energy counters, as it times on boards too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import board
from .interleaved import CLOCKS, clock_for, slot_of
from .measurement import Measurement, now

SURE_PCT = 0.5
"""Standard error of the speed-up at which a run is long enough."""


@torch.inference_mode()
def measure(
    model: nn.Module,
    images: Tensor,
    *,
    reference: nn.Module | None = None,
    rounds: int = 15,
    timeout_s: float = 30.0,
) -> Measurement:
    """Measure `model(images)`; nothing but the forward is inside the timer.

    Args:
        model: In evaluation mode, on the device of `images`.
        images: One batch, normalised.
        reference: Usually the uncompressed model; gives `speedup`.
        rounds: Timed turns; up to three times as many while the run, or the speed-up, is noisy.
        timeout_s: No new turn begins after this long, three turns excepted.
    """
    models = [model] if reference is None else [model, reference]
    threads = torch.get_num_threads()
    clock = CLOCKS[clock_for(images.device, threads)]
    slots = [slot_of(module, images, clock, patience_s=timeout_s / 4) for module in models]
    turns = board.take_turns(slots, rounds, timeout_s, sure_pct=SURE_PCT)
    figures = turns.summary(rounds, slots[0].parts)
    peak, how = slots[0].peak_memory()
    energy = board.energy_of(slots[0])
    parameter = next(model.parameters(), images)
    return Measurement(
        **figures,
        **energy,
        peak_memory_mb=peak,
        memory_source=how,
        device=device_name(images.device),
        runtime=f"torch {torch.__version__} eager",
        dtype=str(parameter.dtype).removeprefix("torch."),
        batch=images.shape[0],
        image_shape=tuple(images.shape[1:]),
        threads=threads,
        when=now(),
    )


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    cuda = device.type == "cuda"
    return torch.cuda.get_device_name(device) if cuda else board.machine_name()
