r"""The encoder's step for the compiled engine (`descent.lanes`): loss and gradients of one run.

What it reads: queries, keys and values (d, tokens), and the last weight (d, 1). The formulas are those
of `encoder`; the letters too.
"""

import math

from ..lanes import on_lanes, where


@on_lanes
def step(image, pulled, trained, fresh, scratch, data):
    """Half the sum of squared residuals; leaves the gradients with respect to Q, K, V and O."""
    Q, K, V, O = image  # noqa: E741
    dQ, dK, dV, dO = pulled
    S, dC, Z = scratch
    y, N, n, d, tau_0, tau_1, relu = data
    loss = 0.0
    if trained[3]:
        for f in range(d):
            dO[f, 0] = 0.0
    for j in range(N):
        t = j * n
        for a in range(n):
            attend(Q, K, S[a], t, a, n, d, tau_0)
        r = -y[j]
        for f in range(d):
            pooled = 0.0
            for a in range(n):
                z = 0.0
                for b in range(n):
                    z += S[a, b] * V[f, t + b]
                Z[f, a] = z
                pooled += max(z, 0.0) if relu else tanh(z)
            r += tau_1 * pooled * O[f, 0]
        loss += 0.5 * r * r
        for f in range(d):
            back(Z[f], S, O[f, 0], dV, dO, trained, t, f, n, tau_1 * r, relu)
        if trained[0] or trained[1]:
            for a in range(n):
                to_scores(Z, V, S[a], dC[a], t, a, n, d, tau_0)
            for f in range(d):
                for a in range(n):
                    q, k = 0.0, 0.0
                    for b in range(n):
                        q += dC[a, b] * K[f, t + b]
                        k += dC[b, a] * Q[f, t + b]
                    if trained[0]:
                        dQ[f, t + a] = q
                    if trained[1]:
                        dK[f, t + a] = k
    return loss


@on_lanes
def attend(Q, K, S, t, a, n, d, tau_0):
    """One query's row of S."""
    top, total = -math.inf, 0.0
    for b in range(n):
        c = 0.0
        for f in range(d):
            c += Q[f, t + a] * K[f, t + b]
        S[b] = tau_0 * c
        top = max(top, S[b])
    for b in range(n):
        S[b] = math.exp(S[b] - top)
        total += S[b]
    for b in range(n):
        S[b] = S[b] / total


@on_lanes
def tanh(z):
    """With -2 |z| in the exponent, which never overflows and keeps the digits of a small z."""
    e = math.expm1(-2 * max(z, -z))
    t = -e / (2 + e)
    return where(z, t, -t)


@on_lanes
def slope_of_tanh(z):
    """1 - tanh(z)^2 from the exponential: where the tangent is near 1, the difference has no digits."""
    e = math.exp(-2 * max(z, -z))
    return 4 * e / ((1 + e) * (1 + e))


@on_lanes
def back(Z, S, O, dV, dO, trained, t, f, n, r, relu):  # noqa: E741
    """One feature's gradients; leaves dZ, with respect to what its activation saw, in Z."""
    features = 0.0
    for a in range(n):
        value = max(Z[a], 0.0) if relu else tanh(Z[a])
        slope = where(Z[a], 1.0, 0.0) if relu else slope_of_tanh(Z[a])
        features += value
        Z[a] = r * slope * O
    if trained[3]:
        dO[f, 0] = dO[f, 0] + r * features
    if trained[2]:
        for b in range(n):
            v = 0.0
            for a in range(n):
                v += S[a, b] * Z[a]
            dV[f, t + b] = v


@on_lanes
def to_scores(dZ, V, S, dC, t, a, n, d, tau_0):
    """One query's dC, the softmax's pullback of dS; step by step as in `kernels`."""
    mean, total = 0.0, 0.0
    for b in range(n):
        s = 0.0
        for f in range(d):
            s += dZ[f, a] * V[f, t + b]
        dC[b] = s
        mean += S[b] * s
    for b in range(n):
        dC[b] = S[b] * (dC[b] - mean)
        total += dC[b]
    for b in range(n):
        dC[b] = tau_0 * (dC[b] - S[b] * total)
