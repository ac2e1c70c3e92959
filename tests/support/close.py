"""Tensors that are equal but for rounding; as torch.testing has it, without its import of torch.distributed.tensor.

That import is for a kind of tensor that nobody makes here, and takes a second in each process.
"""

from __future__ import annotations

import torch
from torch import Tensor

# torch.testing's own: relative, absolute.
ROUNDING = {torch.float32: (1.3e-6, 1e-5), torch.float64: (1e-7, 1e-7)}


def assert_close(
    found: Tensor, expected: Tensor, *, atol: float | None = None, rtol: float | None = None, msg: str = ""
) -> None:
    """Same shape and dtype, and |found - expected| <= atol + rtol * |expected| everywhere; a NaN is close to nothing.

    Without tolerances those of the dtype; what is no floating point number must be equal.
    """
    __tracebackhide__ = True
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype), msg
    usual = ROUNDING[expected.dtype] if expected.is_floating_point() else (0.0, 0.0)
    relative, absolute = usual if atol is None and rtol is None else (rtol or 0.0, atol or 0.0)
    with torch.no_grad():
        near = torch.isclose(found, expected, rtol=relative, atol=absolute)
        if not bool(near.all()):
            worst = (found.double() - expected.double()).abs().max()
            raise AssertionError(
                f"{msg}: {int((~near).sum())} of {near.numel()} numbers differ by up to {float(worst):.3g}, "
                f"allowed are {absolute:g} and {relative:g} of the expected one"
            )
