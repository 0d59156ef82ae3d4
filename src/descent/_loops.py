"""The sums of a step, compiled by Numba: what `_sums` does in torch, in two passes.

torch adds one product of arrays after the other, and between two calls the partial sums go to
memory and come back. These loops take a sequence at a time, while its numbers are in a near
cache. The innermost index j runs over heads and runs, which lie side by side in every array: it
becomes vector instructions. Only the two kernels of the book are written out here.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from torch import Tensor

from ._sums import Part
from .kernels import Kernel, gaussian, softmax

#: The kernels that these loops know, and whether the weights of a query are to sum to one. To ask
#: here is the one way to tell them apart, so that who is let in is who is meant.
KNOWN = {softmax: True, gaussian: False}


class Columns(NamedTuple):
    """The columns of one matrix: those from ``at`` on of an array (n tokens, N, columns)."""

    array: np.ndarray
    at: np.uint64


class Sizes(NamedTuple):
    """How many features, heads times runs, and runs there are.

    Unsigned: a signed index may be negative and count from the end, and Numba would ask each one,
    which costs more than the product that it is for.
    """

    d: np.uint64
    across: np.uint64
    runs: np.uint64


class Loops:
    """`_sums.Sums` on a processor, for a kernel that is `KNOWN`; arguments as there.

    Attention matrices are (N, n queries, n keys, H runs) here.
    """

    #: As in `_sums.Sums` (measured: here these are faster from eight runs on, slower for one).
    SMALL = 16384

    def __init__(self, kernel: Kernel, y: Tensor, heads: int, image: dict, pulled: dict):
        def columns(part: Part | None) -> Columns | None:
            return part and Columns(part.array.unflatten(0, y.shape).numpy(), np.uint64(part.at))

        (n, N), across = y.shape, image["V"].width
        self.softmax, self.y = KNOWN[kernel], y.contiguous().numpy()
        self.sizes = Sizes(*map(np.uint64, (image["Q"].width // across, across, across // heads)))
        self.matrices, self.runs = (N, n, n, across), across // heads
        self.parts = [*(columns(image[W]) for W in "QKV"), *(columns(pulled.get(W)) for W in "QKV")]
        self.new = y.new_empty

    def attention(self) -> Tensor:
        """The attention matrices, to be handed to `pull_back`."""
        S = self.new(self.matrices)
        _scores(*self.parts[:2], self.sizes, self.softmax, S.numpy())
        S.exp_()  # torch's takes several numbers at once, and Numba's one
        if self.softmax:
            _normalise(S.numpy(), self.sizes)
        return S

    def pull_back(self, S: Tensor) -> Tensor:
        """The loss (runs,); leaves its gradient in ``pulled`` (Song et al. 2024, Lemmas 1 and 6)."""
        loss = self.new(self.runs)
        _pull_back(S.numpy(), self.y, *self.parts, self.sizes, self.softmax, loss.numpy())
        return loss


def _compiled(function):
    return njit(function, nogil=True, cache=True, error_model="numpy", fastmath={"contract"})


@_compiled
def _scores(Q, K, sizes, softmax, C):
    """q k less each query's largest, or -|q - k|^2 / 2: both come divided by d^(1/4)."""
    d, across, _ = sizes
    N, n = C.shape[:2]
    top = np.empty(across, C.dtype)
    for i in range(N):
        for a in range(n):
            q = Q.array[a, i]
            for b in range(n):
                k, c = K.array[b, i], C[i, a, b]
                c[:] = 0
                for f in range(d):
                    at_q, at_k = Q.at + f * across, K.at + f * across
                    if softmax:
                        for j in range(across):
                            c[j] += q[at_q + j] * k[at_k + j]
                    else:
                        for j in range(across):
                            gap = q[at_q + j] - k[at_k + j]
                            c[j] -= gap * gap / 2
            if softmax:
                top[:] = C[i, a, 0]
                for b in range(1, n):
                    for j in range(across):
                        top[j] = max(top[j], C[i, a, b, j])
                for b in range(n):
                    for j in range(across):
                        C[i, a, b, j] -= top[j]


@_compiled
def _normalise(S, sizes):
    """Let each query's weights sum to one."""
    N, n = S.shape[:2]
    total = np.empty(sizes.across, S.dtype)
    for i in range(N):
        for a in range(n):
            total[:] = 0
            for b in range(n):
                for j in range(sizes.across):
                    total[j] += S[i, a, b, j]
            for j in range(sizes.across):
                total[j] = 1 / total[j]
            for b in range(n):
                for j in range(sizes.across):
                    S[i, a, b, j] *= total[j]


@_compiled
def _pull_back(S, y, Q, K, u, dQ, dK, du, sizes, softmax, loss):
    """The loss, and the gradients with respect to queries, keys and read-outs where they are asked."""
    d, across, runs = sizes
    N, n = S.shape[:2]
    residual = np.empty((n, runs), S.dtype)
    dC = np.empty((n, n, across), S.dtype)
    loss[:] = 0
    for i in range(N):
        _read(S[i], u, y, i, sizes, residual)
        for a in range(n):
            for j in range(runs):
                loss[j] += residual[a, j] * residual[a, j] / 2
        if du is not None:
            _to_readouts(S[i], residual, i, sizes, du)
        if dQ is not None or dK is not None:
            for a in range(n):
                _to_scores(S[i, a], residual[a], u, i, sizes, softmax, dC[a])
        if dQ is not None:
            _to_tokens(dC, Q, K, i, sizes, softmax, False, dQ)
        if dK is not None:
            _to_tokens(dC, K, Q, i, sizes, softmax, True, dK)


@_compiled
def _read(S, u, y, i, sizes, residual):
    """residual[a] = the sum over keys b and heads of S[a, b] u[b], less y[a]."""
    n = len(S)
    for a in range(n):
        residual[a] = -y[a, i]
        r = residual[a]
        for b in range(n):
            s, v = S[a, b], u.array[b, i]
            for h in range(np.uint64(0), sizes.across, sizes.runs):
                for j in range(sizes.runs):
                    r[j] += s[h + j] * v[u.at + h + j]


@_compiled
def _to_readouts(S, residual, i, sizes, du):
    """du[b] = the sum over queries a of S[a, b] residual[a]."""
    n = len(S)
    for b in range(n):
        g = du.array[b, i]
        for j in range(sizes.across):
            g[du.at + j] = 0
        for a in range(n):
            s, r = S[a, b], residual[a]
            for h in range(np.uint64(0), sizes.across, sizes.runs):
                for j in range(sizes.runs):
                    g[du.at + h + j] += s[h + j] * r[j]


@_compiled
def _to_scores(s, r, u, i, sizes, softmax, dc):
    """One query's dC, the kernel's pullback of dS[b] = r u[b]; step by step as in `kernels`."""
    for b in range(len(s)):
        v = u.array[b, i]
        for h in range(np.uint64(0), sizes.across, sizes.runs):
            for j in range(sizes.runs):
                dc[b, h + j] = r[j] * v[u.at + h + j]
    if softmax:
        mean = np.zeros_like(dc[0])
        for b in range(len(s)):
            for j in range(mean.size):
                mean[j] += s[b, j] * dc[b, j]
        for b in range(len(s)):
            for j in range(mean.size):
                dc[b, j] -= mean[j]
    for b in range(len(s)):
        for j in range(sizes.across):
            dc[b, j] *= s[b, j]
    if softmax:
        total = np.zeros_like(dc[0])
        for b in range(len(s)):
            for j in range(total.size):
                total[j] += dc[b, j]
        for b in range(len(s)):
            for j in range(total.size):
                dc[b, j] -= s[b, j] * total[j]


@_compiled
def _to_tokens(dC, own, other, i, sizes, softmax, of_keys, out):
    """out[a] = the sum over b of dC[a, b] other[b], less own[a] for a distance; of keys dC[b, a]."""
    d, across, _ = sizes
    n = len(dC)
    for a in range(n):
        mine, g = own.array[a, i], out.array[a, i]
        for j in range(d * across):
            g[out.at + j] = 0
        for b in range(n):
            theirs, c = other.array[b, i], dC[b, a] if of_keys else dC[a, b]
            for f in range(d):
                at_g, at_m, at_t = out.at + f * across, own.at + f * across, other.at + f * across
                if softmax:
                    for j in range(across):
                        g[at_g + j] += c[j] * theirs[at_t + j]
                else:
                    for j in range(across):
                        g[at_g + j] += c[j] * (theirs[at_t + j] - mine[at_m + j])
