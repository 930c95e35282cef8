"""What is known about a backbone without running it: enough to count its cost and check its fit.

Floor 0, because three rooms read them: the backbones declare them, methods check what they require
and count their own overhead, profiling turns them into costs.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from autotok.errors import ConfigError
from autotok.plain_data import whole


@dataclass(frozen=True)
class BlockFacts:
    """One transformer block. Widths are in channels, counts in MACs or parameters."""

    width: int
    heads: int
    head_dim: int
    hidden: int
    params: int
    """Trainable parameters of the block, tables included."""
    position_macs_per_token: int = 0
    """Multiply-accumulates per query token spent on relative-position tables."""
    linear_macs_extra_per_token: int = 0
    """Linear layers beyond qkv, proj, fc1 and fc2, applied to every token."""
    fixed_macs: int = 0
    """Multiply-accumulates whatever the token count: of a network that makes its position biases;
    of one that all blocks share, the first block's."""
    mlp_matrices: int = 2
    """Matrices of size width x hidden in the MLP: 2, or 3 where the MLP is gated."""

    @property
    def inner_width(self) -> int:
        """heads * head_dim; differs from `width` in AutoFormer."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class BackboneFacts:
    """A whole backbone."""

    name: str
    family: str
    """What the adapter's family is registered as: 'timm_vit', 'autoformer' ..."""
    blocks: tuple[BlockFacts, ...]
    num_prefix: int
    has_cls: bool
    cls_is_supervised: bool
    """The class token reaches the loss; if not, its attention is no judge of importance."""
    grid: tuple[int, int]
    """Rows and columns of patches."""
    pooling: str
    """'cls', 'cls+dist', 'cls+mean', 'mean', 'map' or 'cls+max_aux'."""
    carries_positions: bool
    """Blocks look positions up per token (relative or rotary), so coordinates must travel."""
    has_position_table: bool
    """An absolute position embedding is added to the patches."""
    image_shape: tuple[int, int, int]
    """channels, height, width."""
    patch_size: tuple[int, int]
    num_classes: int
    """0 for a headless model, whose output is its pooled features."""
    stem_macs: int
    readout_macs: int
    """Multiply-accumulates of pooling and head that do not depend on the token count."""
    params: int
    explicit_attention: bool = False
    """Blocks always spell the attention map out, so every attention tap is free."""
    plain_stem: bool = False
    """The stem embeds each patch by itself and adds rows of a table, so that patches of other sizes
    can stand beside one another: `Backbone.stem_parts`."""
    readout_macs_per_token: int = 0
    """Further ones per live token (patches and prefix) that reaches the pooling."""
    one_size: str = "its adapter does not say that it can be resized"
    """Why it runs on images of no other size than its own, after 'because'; "" where it does, as
    adapters do that take their images through `Backbone.fitted`."""

    @property
    def num_blocks(self) -> int:
        """Depth L."""
        return len(self.blocks)

    @property
    def reads_patches(self) -> bool:
        """Whether the read-out looks at patch tokens, so that an image must keep one."""
        return not self.num_prefix or self.pooling not in ("cls", "cls+dist")

    @property
    def num_patches(self) -> int:
        """Initial patch tokens N0."""
        return self.grid[0] * self.grid[1]

    @property
    def side_step(self) -> int:
        """Pixels that the sides of its images are multiples of."""
        return math.lcm(*self.patch_size)

    def at_size(self, side: int | None) -> BackboneFacts:
        """What is known of it on square images of `side` pixels: another grid, the same weights.

        None is its own size. Parameters stay those of the weights, of which a position table is
        resampled; the stem works patch by patch, or pixel by pixel, so that its cost is a share.

        Raises:
            ConfigError: the side is no multiple of the patch size, or the family has one size.
        """
        channels, *own = self.image_shape
        if side is None or own == [whole("image_size", side)] * 2:
            return self
        if self.one_size:
            raise ConfigError(
                f"image_size {side} cannot be had of backbone '{self.name}', because"
                f" {self.one_size}; leave image_size out, or give {own[0]}"
            )
        step = self.side_step
        if side < step or side % step:
            near = sorted({max(step, side // step * step), max(step, -(-side // step) * step)})
            raise ConfigError(
                f"image_size {side} does not divide into the patches of backbone '{self.name}';"
                f" allowed are multiples of {step} pixels, such as"
                f" {' or '.join(map(str, near))} (its own: {own[0]})"
            )
        rows, columns = (side // patch for patch in self.patch_size)
        return dataclasses.replace(
            self,
            grid=(rows, columns),
            image_shape=(channels, side, side),
            stem_macs=self.stem_macs * rows * columns // self.num_patches,
        )
