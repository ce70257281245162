"""Covariances of an ensemble applied to data, without a matrix of images or measurements.

    C_jk = Re<E_j, Y_k - Ybar>/J                          (J, J)
    U_j  = Cov(X, Y) E_j = sum_k C_jk (X_k - Xbar)        the sample covariances of J members

Localisation, for any forward model: U_j at a pixel is the covariance over k of the pixel X_k and the number
s_jk = Re<E_j, Y_k - Ybar>. Its correlation r is known to a variance of (1 - r^2)^2/(J - 1), so that the multiple of it
that is nearest to the true one on average is

    shrunk U = U rho^2/(rho^2 + (1 - rho^2)^2/(J - 1)),    rho^2 = max(0, 1 - (1 - r^2)(J - 1)/(J - 2))

with rho^2 the estimate of r^2 that is unbiased where there is no correlation. Pixels that the data do not tell of are
left alone, which a taper by distance does only for operators that see the image in place. 1 as J grows, where r != 0.
Inflation gives back a share a of the spread s that an update takes at a pixel, X - Xbar multiplied by 1 - a + a s/s':
one factor for all pixels would also grow, update by update, what no data narrow.

Sources: Evensen 1994, Iglesias et al. 2013 (the J x J form); Anderson 2012 (correction of sampling errors in ensemble
correlations), Luo et al. 2018 (localisation by correlations); Whitaker and Hamill 2012 (relaxation to the prior's
spread). Complex vectors are pairs of real ones.
"""

from __future__ import annotations

import torch
from torch import Tensor


def weights(errors: Tensor, outputs: Tensor) -> Tensor:
    """Return C (J, J), real, of errors E and outputs Y, both (J, *measurement)."""
    about = (outputs - outputs.mean(0, keepdim=True)).flatten(1)
    inner = errors.flatten(1) @ about.mH
    return (inner.real if inner.is_complex() else inner) / len(outputs)


def applied(gain: Tensor, members: Tensor) -> Tensor:
    """Return U, like the members X (J, *image), of gain C (J, J)."""
    about = (members - members.mean(0, keepdim=True)).flatten(1)
    return (gain.to(about.dtype) @ about).reshape(members.shape)


def shrunk(change: Tensor, gain: Tensor, members: Tensor) -> Tensor:
    """Return U with each number's correlation shrunk as above, for U = applied(gain, members) and J > 2 members."""
    u, x = _parts(change), _parts(members)
    count = len(x)
    tiny = torch.finfo(u.dtype).tiny
    # C holds s/J, of mean 0 over k
    scale = (count * gain.square().mean(1, keepdim=True).sqrt()) * x.std(0, correction=0, keepdim=True)
    unexplained = (1 - (u / scale.clamp_min(tiny)).square()).clamp(0, 1)
    signal = (1 - unexplained * ((count - 1) / (count - 2))).clamp_min(0)
    kept = signal / (signal + (1 - signal).square() / (count - 1))
    return _unparts(u * kept, change)


def inflated(members: Tensor, before: Tensor, share: float) -> Tensor:
    """Return the members (J, *image) with a share 0..1 of the spread that they lost since `before` given back."""
    mean = members.mean(0, keepdim=True)
    was, now = _spread(before), _spread(members)
    # members that are all the same know no direction to spread in
    lost = torch.where(now > torch.finfo(now.dtype).eps * was, was / now, 1)
    return mean + (members - mean) * (1 - share + share * lost)


def _spread(members: Tensor) -> Tensor:
    """Return the standard deviation over members of each pixel, (1, *image); of a complex one by both of its parts."""
    return (members - members.mean(0, keepdim=True)).abs().square().mean(0, keepdim=True).sqrt()


def _parts(v: Tensor) -> Tensor:
    """Return v (J, ...) as real rows (J, D)."""
    return (torch.view_as_real(v.resolve_conj()) if v.is_complex() else v).flatten(1)


def _unparts(rows: Tensor, like: Tensor) -> Tensor:
    """Return real rows (J, D) in the shape and type of `like`."""
    return torch.view_as_complex(rows.reshape(*like.shape, 2)) if like.is_complex() else rows.reshape(like.shape)
