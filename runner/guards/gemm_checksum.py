"""A checksum over a product of matrices: sums of its columns against those that its factors give. One file.

    product = left @ right
    if checksum_gap(left, right, product) > 1:
        raise RuntimeError("wrong product")

It needs no second run and no second GPU (algorithm-based fault tolerance), and takes O(n²) in fp64 for a product of
O(n³). An error below the rounding of its column is not seen, so low bits of the mantissa are not.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Of the rounding that is expected of independent errors.
_MARGIN = 8
# TF32 rounds both factors to 11 bits.
_TF32 = 2.0**-10


def checksum_gap(left: "torch.Tensor", right: "torch.Tensor", product: "torch.Tensor") -> float:
    """The largest deviation of a column's sum, over what rounding explains. Above 1 an element is wrong.

    Infinity if the product has an element that is not finite.

    Args:
        left: of shape (m, k).
        right: of shape (k, n).
        product: of shape (m, n), computed from both.
    """
    import torch

    accumulated = torch.finfo(torch.float32).eps / 2 * left.shape[1] ** 0.5
    rounding = torch.finfo(product.dtype).eps / 2 + accumulated
    # From torch 2.9 on, a job may set the first, and then the second raises.
    set_to = getattr(torch.backends.cuda.matmul, "fp32_precision", "") or torch.get_float32_matmul_precision()
    if left.is_cuda and left.dtype == torch.float32 and set_to in {"tf32", "high", "medium"}:
        rounding += _TF32
    wide = product.double()
    gap = (wide.sum(0) - left.double().sum(0) @ right.double()).abs()
    # Sums that nearly cancel are rounded where their terms are, not where they end.
    terms = (left.double().square().sum(0) @ right.double().square()).sqrt()
    explained = (_MARGIN * rounding * (wide.norm(dim=0) + terms)).clamp_min(torch.finfo(torch.float64).tiny)
    return float((gap / explained).max().nan_to_num(nan=float("inf")))
