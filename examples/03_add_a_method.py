"""Add a method in one file: keep the patch tokens with the largest norm.

A package of your own does the same and names its module under the entry-point group
`autotok.methods`; then the search, the command line and the contract suite know it too.
"""

import autotok
from autotok.backbones.tiny import tiny_backbone
from autotok.methods.primitives import select
from autotok.testing import check_method


@autotok.register("largest_norm")
class LargestNorm(autotok.TokenReducer):
    """Prunes the patch tokens with the smallest L2 norm."""

    title = "Largest norm (an example)"
    kind = autotok.Kind.PRUNE

    def reduce(self, tokens, taps, num_keep):
        norms = tokens.patches.norm(dim=-1)  # (B, n)
        return select(tokens, norms.topk(num_keep, dim=1).indices)


check_method("largest_norm")
model = autotok.compress(tiny_backbone(), method="largest_norm", keep={1: 0.5})
print(f"largest_norm keeps {model.schedule.kept} of 16 patch tokens and passes the contract")
