r"""The attention layer's step for the compiled engine (`descent.lanes`): loss and gradients of one run.

What it reads: queries and keys (H d, tokens), both over d^(1/4) so that their products are scores,
and read-outs (H, tokens). The formulas are Song et al. 2024, Lemmas 1 and 6, as in `attention`.
"""

import math

from ..lanes import on_lanes


@on_lanes
def step(image, pulled, trained, fresh, scratch, data):
    """Half the sum of squared residuals; leaves the gradients with respect to Q, K and u."""
    Q, K, u = image
    dQ, dK, du = pulled
    S, dC, r = scratch
    y, N, n, H, d, softmax = data
    scores = trained[0] or trained[1]
    loss = 0.0
    for i in range(N):
        t, j = i * n, 0 if scores else i  # matrices that do not change are kept
        if scores or fresh:
            for h in range(H):
                for a in range(n):
                    attend(Q, K, S[j, h, a], t, a, h, n, d, softmax)
        for a in range(n):
            out = -y[i, a]
            for h in range(H):
                for b in range(n):
                    out += S[j, h, a, b] * u[h, t + b]
            r[a] = out
            loss += 0.5 * out * out
        for h in range(H):
            if trained[2]:
                for b in range(n):
                    out = 0.0
                    for a in range(n):
                        out += S[j, h, a, b] * r[a]
                    du[h, t + b] = out
            if scores:
                for a in range(n):
                    to_scores(S[j, h, a], u[h], r[a], dC[a], t, n, softmax)
            if trained[0]:
                to_tokens(dC, Q, K, dQ, t, h, n, d, softmax, False)
            if trained[1]:
                to_tokens(dC, K, Q, dK, t, h, n, d, softmax, True)
    return loss


@on_lanes
def attend(Q, K, S, t, a, h, n, d, softmax):
    """One query's row of S: e^(q k) over their sum, or e^(-|q - k|^2 / 2)."""
    top = -math.inf
    for b in range(n):
        c = 0.0
        for f in range(h * d, h * d + d):
            q, k = Q[f, t + a], K[f, t + b]
            if softmax:
                c += q * k
            else:
                c -= 0.5 * (q - k) * (q - k)
        top = max(top, c)
        S[b] = c
    if softmax:
        total = 0.0
        for b in range(n):
            e = math.exp(S[b] - top)
            total += e
            S[b] = e
        total = 1 / total
        for b in range(n):
            S[b] = S[b] * total
    else:
        for b in range(n):
            S[b] = math.exp(S[b])


@on_lanes
def to_scores(S, u, r, dC, t, n, softmax):
    """One query's dC, the kernel's pullback of dS[b] = r u[b]; step by step as in `kernels`."""
    mean, total = 0.0, 0.0
    if softmax:
        for b in range(n):
            mean += S[b] * u[t + b]
    for b in range(n):
        c = S[b] * (r * (u[t + b] - mean))
        total += c
        dC[b] = c
    if softmax:
        for b in range(n):
            dC[b] = dC[b] - S[b] * total


@on_lanes
def to_tokens(dC, own, other, out, t, h, n, d, softmax, of_keys):
    """out[a] = the sum over b of dC[a, b] other[b], less own[a] for a distance; of keys dC[b, a]."""
    for f in range(h * d, h * d + d):
        for a in range(n):
            g, total = 0.0, 0.0
            for b in range(n):
                c = dC[b, a] if of_keys else dC[a, b]
                g += c * other[f, t + b]
                total += c
            out[f, t + a] = g if softmax else g - total * own[f, t + a]
