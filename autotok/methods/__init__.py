"""Token-compression methods, one paper per file."""

# a method is known once its file is imported; adding one means adding its name here
from . import (  # noqa: F401
    asvit,
    ats,
    avit,
    cfvit,
    cropr,
    diffrate,
    dpcknn,
    dtem,
    dynamicvit,
    evit,
    evovit,
    gtp,
    heatvit,
    idlevit,
    ltmp,
    ltp,
    none,
    papr,
    patchmerger,
    pitome,
    ppt,
    random,
    sinkhorn,
    sit,
    spvit,
    tocom,
    tofe,
    tofu,
    tokenpooling,
    tome,
    topk,
    tps,
    zerotprune,
)
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
