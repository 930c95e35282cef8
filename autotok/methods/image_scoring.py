"""`ImageScoring`: for methods that judge patches by a network of its own on the images."""

from __future__ import annotations

from torch import Tensor, nn

from autotok.config import Options

from .base import Site, TokenReducer


class ImageScoring(TokenReducer):
    """A reducer that looks at the images with a small network before they are embedded."""

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        # what `auxiliary` names, frozen; not a class attribute, which would hide a sub-module
        self.network: nn.Module | None = None

    @classmethod
    def auxiliary(cls, options: Options) -> str:
        """Name of the timm CNN."""
        raise NotImplementedError

    def look(self, images: Tensor) -> Tensor:
        """`Taps.image_scores` of (B, channels, height, width), before anything is embedded."""
        raise NotImplementedError


def image_network(method: type[TokenReducer], options: Options) -> str | None:
    """Name of the timm CNN that a method looks at images with; None where it needs none."""
    return method.auxiliary(options) if issubclass(method, ImageScoring) else None
