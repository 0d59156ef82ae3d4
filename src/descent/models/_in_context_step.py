r"""The step of a cloud of neurons for the compiled engine (`descent.lanes`): loss and gradients of one.

What it reads: the answers' coefficients a (p, d), and what the neurons see of the inputs, (d, m). The
formulas are those of `in_context`; the letters too.
"""

import math

from ..lanes import on_lanes, where
from ._encoder_step import slope_of_tanh, tanh

KINDS = ["sigmoid", "tanh", "relu"]
SIGMOID, TANH, RELU = range(3)


@on_lanes
def step(image, pulled, trained, fresh, scratch, data):
    """The least loss of infinite prompts; leaves the gradients with respect to a and w."""
    a, Z = image
    da, dZ = pulled
    S, h, Sigma, C, r = scratch
    F, d, p, kind, blur = data
    m, k = F.shape
    if trained[1] or fresh:  # else the activations stay
        activate(Z, S, dZ, m, d, kind, trained[1])
    for q in range(p):
        for i in range(m):
            h[q, i] = 0.0
        for j in range(d):
            share = a[q, j] / d
            for i in range(m):
                h[q, i] = h[q, i] + share * S[j, i]
    regress(h, F, Sigma, C, m, k, p, blur)
    loss = 0.0
    for i in range(m):
        for l in range(k):  # noqa: E741
            r[l] = F[i, l]
            for q in range(p):
                r[l] = r[l] - C[l, q] * h[q, i]
            loss += r[l] * r[l]
        for q in range(p):
            pull = 0.0
            for l in range(k):  # noqa: E741
                pull += C[l, q] * r[l]
            h[q, i] = -pull / (m * d)
    for j in range(d):
        if trained[0]:
            for q in range(p):
                da[q, j] = product(S[j], h[q], m)
        if trained[1]:
            for i in range(m):
                g = 0.0
                for q in range(p):
                    g += a[q, j] * h[q, i]
                dZ[j, i] = g * dZ[j, i]
    return loss / (2 * m)


@on_lanes
def activate(Z, S, dZ, m, d, kind, slopes):
    """What every neuron answers to every input and, if asked for, the activation's slope there.

    The slope is no function of the answer: of one that is near 1, what it lacks has lost its digits.
    """
    for j in range(d):
        for i in range(m):
            z = Z[j, i]
            if kind == RELU:
                S[j, i] = max(z, 0.0)
                if slopes:
                    dZ[j, i] = where(z, 1.0, 0.0)
            elif kind == TANH:
                S[j, i] = tanh(z)
                if slopes:
                    dZ[j, i] = slope_of_tanh(z)
            else:
                e = math.exp(-max(z, -z))  # never overflows
                s = 1 / (1 + e)
                S[j, i] = where(z, 1.0, e) * s
                if slopes:
                    dZ[j, i] = e * s * s


@on_lanes
def regress(h, F, Sigma, C, m, k, p, blur):
    """Leaves B = C Sigma^-1 in C, by Sigma = L D L^T; L and D are left in Sigma.

    A pivot that is less than ``blur`` times what stood there is rounding, and its feature left out.
    """
    for q in range(p):
        for e in range(q + 1):
            total = 0.0
            for i in range(m):
                total += h[q, i] * h[e, i]
            Sigma[q, e] = total / m
        for l in range(k):  # noqa: E741
            total = 0.0
            for i in range(m):
                total += F[i, l] * h[q, i]
            C[l, q] = total / m
    for q in range(p):
        least = blur * Sigma[q, q]
        for e in range(q):
            for f in range(e):
                Sigma[q, e] = Sigma[q, e] - Sigma[q, f] * Sigma[e, f]
        for e in range(q):
            u = Sigma[q, e]
            Sigma[q, e] = u * Sigma[e, e]  # the inverse of that pivot
            Sigma[q, q] = Sigma[q, q] - u * Sigma[q, e]
        sound = Sigma[q, q] - least
        Sigma[q, q] = where(sound, 1.0, 0.0) / where(sound, Sigma[q, q], 1.0)
    for l in range(k):  # noqa: E741
        for q in range(p):
            for e in range(q):
                C[l, q] = C[l, q] - Sigma[q, e] * C[l, e]
        for q in range(p):
            C[l, q] = C[l, q] * Sigma[q, q]
        for back in range(1, p + 1):
            q = p - back
            for e in range(q + 1, p):
                C[l, q] = C[l, q] - Sigma[e, q] * C[l, e]


@on_lanes
def product(x, y, m):
    """The sum of x_i y_i, four at a time, none of which waits for the one before."""
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for i in range(0, m - 3, 4):
        a += x[i] * y[i]
        b += x[i + 1] * y[i + 1]
        c += x[i + 2] * y[i + 2]
        d += x[i + 3] * y[i + 3]
    for i in range(m - m % 4, m):
        a += x[i] * y[i]
    return (a + b) + (c + d)
