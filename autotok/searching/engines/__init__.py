"""Who runs trials: in this process now; worker processes and Ray behind the same protocol."""

from .base import Engine, Job, Outcome
from .in_process import InProcessEngine

__all__ = ["Engine", "InProcessEngine", "Job", "Outcome"]
