"""What each torch operator is: its class, and how many kernels it launches.

Names are those of ATen overload packets without `aten.`. Operators in no row are of class 'other',
take one kernel, and are reported by name wherever a figure might depend on them.
"""

from __future__ import annotations

import enum


class OperatorClass(str, enum.Enum):
    """Operators that behave alike on a device."""

    MATMUL = "matmul"
    CONV = "conv"
    ATTENTION = "attention"
    ELEMENTWISE = "elementwise"
    REDUCTION = "reduction"
    SORT = "sort"
    GATHER = "gather-scatter"
    COPY = "copy"
    VIEW = "view"
    OTHER = "other"


_ROWS: dict[OperatorClass, str] = {
    OperatorClass.MATMUL: "mm addmm bmm baddbmm matmul linear mv addmv dot einsum addbmm",
    OperatorClass.CONV: "convolution _convolution conv2d",
    OperatorClass.ATTENTION: """scaled_dot_product_attention _scaled_dot_product_flash_attention
        _scaled_dot_product_efficient_attention _scaled_dot_product_flash_attention_for_cpu
        _scaled_dot_product_fused_attention_overrideable _scaled_dot_product_cudnn_attention""",
    OperatorClass.ELEMENTWISE: """add add_ sub sub_ rsub mul mul_ div div_ reciprocal neg exp exp_
        log log_ sqrt rsqrt pow sigmoid tanh gelu relu relu_ silu abs round floor ceil clamp clamp_
        clamp_min clamp_max clamp_min_ clamp_max_ maximum minimum remainder floor_divide eq ne lt le
        gt ge logical_and logical_or logical_not bitwise_and bitwise_or bitwise_not where
        masked_fill masked_fill_ elu_ sign erf square addcmul addcdiv lerp isfinite isnan nan_to_num
        exp2_ tril triu hardtanh leaky_relu elu sin cos __and__ __or__""",
    OperatorClass.REDUCTION: """sum mean amax amin max min argmax argmin prod var var_mean std
        norm linalg_vector_norm _softmax softmax _log_softmax _safe_softmax native_layer_norm
        native_batch_norm _native_batch_norm_legit_no_training native_group_norm any all cumsum
        logsumexp aminmax""",
    OperatorClass.SORT: "sort argsort topk kthvalue median",
    OperatorClass.GATHER: """gather index index_select take take_along_dim scatter scatter_
        scatter_add scatter_add_ scatter_reduce scatter_reduce_ index_add index_add_ index_put
        index_put_ _unsafe_index embedding""",
    OperatorClass.COPY: """cat stack clone copy_ _to_copy contiguous constant_pad_nd fill_ fill
        zero_ zeros ones full zeros_like ones_like full_like new_zeros new_ones new_full arange eye
        scalar_tensor repeat roll flip lift_fresh_copy one_hot repeat_interleave linspace
        upsample_bicubic2d _upsample_bicubic2d_aa slice_scatter select_scatter""",
    OperatorClass.VIEW: """view _unsafe_view reshape _reshape_alias expand permute transpose t
        squeeze unsqueeze slice select split split_with_sizes unbind chunk detach alias as_strided
        narrow flatten unflatten lift_fresh empty empty_like new_empty empty_strided
        new_empty_strided empty_permuted unfold diagonal movedim promote_types""",
}
_CLASS = {name: kind for kind, names in _ROWS.items() for name in names.split()}
LOOK_UPS = frozenset(
    "gather index index_select take take_along_dim _unsafe_index embedding".split()
)
"""Operators that read, of their first tensor, only what they give."""
_KERNELS = {
    "sort": 2,  # radix sort and the copy of its index
    "argsort": 2,
    "topk": 2,  # selection, then sorting of what was selected
    "scatter": 2,  # out of place: copy, then scatter
    "scatter_add": 2,
    "scatter_reduce": 2,
    "index_add": 2,
    "index_put": 2,
    "constant_pad_nd": 2,  # fill, then copy
    "eye": 2,
}


def classify(name: str) -> OperatorClass:
    """The class of an ATen operator by its name; OTHER if it is not in the table."""
    return _CLASS.get(name, OperatorClass.OTHER)


def kernels(name: str) -> int:
    """Kernels one call launches; 0 for views and bare allocations."""
    if classify(name) is OperatorClass.VIEW:
        return 0
    return _KERNELS.get(name, 1)
