"""Token-compression methods, one paper per file."""

# a method is known once its file is imported; adding one means adding its name here
from . import evit, ltp, none, pitome, random, tofu, tome, topk  # noqa: F401
from .base import Count, Kind, Option, Placement, Site, TokenReducer, Training
from .registry import get_method, list_methods, register, unmet_need

__all__ = [
    "Count",
    "Kind",
    "Option",
    "Placement",
    "Site",
    "TokenReducer",
    "Training",
    "get_method",
    "list_methods",
    "register",
    "unmet_need",
]
