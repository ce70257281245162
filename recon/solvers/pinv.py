"""A least-squares image, for every linear operator: closed forms where there are some, else conjugate gradients.

argmin_x ||A x - y||^2,  that of least norm where there are many
"""

from __future__ import annotations

from torch import Tensor

from recon.operators.base import LinearOperator
from recon.solvers.cg import conjugate_gradients


def data_pinv(operator: LinearOperator, y: Tensor, iterations: int = 50, tolerance: float = 1e-6) -> Tensor:
    """Return the operator's own (possibly regularised) pseudo-inverse of y (B, *out_shape), or that of the iterations.

    From zero, conjugate gradients on A^H A x = A^H y stay in the range of A^H: the limit is the Moore-Penrose inverse,
    and stopping early regularises.  iterations, tolerance: see `recon.solvers.cg`; a closed form takes no notice.
    """
    found = operator.pinv(y)
    if found is not None:
        return found
    return conjugate_gradients(operator.normal, operator.adjoint(y), iterations=iterations, tolerance=tolerance).x
