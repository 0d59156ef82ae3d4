r"""The selecting layer's step for the compiled engine (`descent.lanes`): goal and gradients of one run.

What it reads: of every token what is attended to, x W z, or keys K x and queries Q z whose products
that is; and what the decoder reads, x u. The formulas are those of `selection`, in the same order:
attention is kept as logarithms, and differences are taken between scores before they are weighted.
"""

import math

from ..lanes import on_lanes, where

#: The smallest number with all its digits.
TINY = 2.0**-1022
#: Below this a loss is linear in a difference of outputs, to rounding.
LINEAR = 1e-20
#: Below minus this log(1 + e^x) is e^x, to rounding.
FLAT = 37.0
LOSS, LOG_LOSS, LOG_EXCESS = range(3)


@on_lanes
def step(image, pulled, trained, fresh, scratch, data):
    """With W trained whole."""
    (s, v), (ds, dv) = image, pulled
    return select(s, v, ds, dv, trained[0], trained[1], fresh, scratch, data)


@on_lanes
def step_in_factors(image, pulled, trained, fresh, scratch, data):
    """With W = K Q^T: every key of a sequence meets its one query."""
    (K, Q, v), (dK, dQ, dv) = image, pulled
    s, ds, rest = scratch[0], scratch[1], scratch[2:]
    y, n, d = data[0], data[1], data[4]
    for i in range(len(y)):
        for t in range(i * n, i * n + n):
            c = 0.0
            for f in range(d):
                c += K[f, t] * Q[f, i]
            s[0, t] = c
    moves = trained[0] or trained[1]
    goal = select(s, v, ds, dv, moves, trained[2], fresh, rest, data)
    for i in range(len(y)):
        for f in range(d):
            g = 0.0
            for t in range(i * n, i * n + n):
                g += ds[0, t] * K[f, t]
                if trained[0]:
                    dK[f, t] = ds[0, t] * Q[f, i]
            if trained[1]:
                dQ[f, i] = g
    return goal


@on_lanes
def select(s, v, ds, dv, attention_moves, decoder_moves, fresh, scratch, data):
    """The goal; leaves the gradients with respect to s and v."""
    log_phi, phi, log_gap, slope, each = scratch
    y, n, logistic, goal = data[0], data[1], data[2], data[3]
    N = len(y)
    for i in range(N):
        f = attend(s, v, log_phi[i], phi[i], i * n, n, y[i])
        e = math.exp(-max(f, -f)) if logistic else 0.0
        slope[i] = -f if not logistic else -math.log1p(e) - max(f, 0.0)
        if goal == LOG_EXCESS:
            each[i] = log_excess(v, log_phi[i], log_gap[i], i * n, n, y[i], logistic, fresh)
        elif logistic:
            each[i] = math.log1p(e) + max(-f, 0.0)
            if goal == LOG_LOSS:
                each[i] = where(f - FLAT, -f, math.log(max(each[i], TINY)))
        else:
            each[i] = -f if goal == LOG_LOSS else math.exp(-f)
    total = mean(each, N) if goal == LOSS else log_mean(each, N)
    for i in range(N):
        weight = slope[i] - math.log(N)
        if goal != LOSS:
            weight = weight - total
        if attention_moves:
            to_attention(s, v, log_phi[i], phi[i], ds, i * n, n, y[i], weight)
        if decoder_moves:
            pull = -y[i] * math.exp(weight)
            for t in range(n):
                dv[0, i * n + t] = pull * phi[i, t]
    return total


@on_lanes
def attend(s, v, log_phi, phi, first, n, y):
    """The attention of a sequence and its logarithm; gives the signed output."""
    top, total, f = -math.inf, 0.0, 0.0
    for t in range(n):
        top = max(top, s[0, first + t])
    for t in range(n):
        phi[t] = math.exp(s[0, first + t] - top)
        total += phi[t]
    log_total = math.log(total)
    for t in range(n):
        log_phi[t] = s[0, first + t] - top - log_total
        phi[t] = phi[t] / total
        f += phi[t] * (y * v[0, first + t])
    return f


@on_lanes
def log_excess(v, log_phi, log_gap, first, n, y, logistic, fresh):
    """The logarithm of what a sequence's loss is above that of attention to its best token alone."""
    best, top, total = -math.inf, -math.inf, 0.0
    for t in range(n):
        best = max(best, y * v[0, first + t])
    for t in range(n):
        if fresh:  # the decoder does not move
            gap = best - y * v[0, first + t]
            log_gap[t] = where(gap, math.log(max(gap, TINY)), -math.inf)
        top = max(top, log_phi[t] + log_gap[t])
    for t in range(n):
        total += math.exp(log_phi[t] + log_gap[t] - top)
    log_delta = top + math.log(total)
    delta = math.exp(log_delta)
    e = math.exp(-max(best, -best)) if logistic else math.exp(-best)
    slope = where(best, e, 1.0) / (1.0 + e) if logistic else e
    rest = slope * math.expm1(delta)
    if logistic:
        rest = math.log1p(rest)
    ratio = where(delta - LINEAR, rest / max(delta, LINEAR), slope)
    return log_delta + math.log(ratio)


@on_lanes
def to_attention(s, v, log_phi, phi, ds, first, n, y, weight):
    """Minus the weight times the derivative of f by what is attended to, where nothing cancels."""
    top, most, total = -math.inf, 0.0, 0.0
    for t in range(n):  # the score of the token with the most attention
        most = where(s[0, first + t] - top, y * v[0, first + t], most)
        top = max(top, s[0, first + t])
    for t in range(n):
        difference = most - y * v[0, first + t]
        weighted = math.exp(log_phi[t] + weight) * difference
        q = where(max(difference, -difference), weighted, 0.0)  # infinity times zero is not meant
        ds[0, first + t] = q
        total += q
    for t in range(n):
        ds[0, first + t] = ds[0, first + t] - phi[t] * total


@on_lanes
def mean(each, N):
    total = 0.0
    for i in range(N):
        total += each[i]
    return total / N


@on_lanes
def log_mean(each, N):
    """The logarithm of the mean of what these are the logarithms of."""
    top, total = -math.inf, 0.0
    for i in range(N):
        top = max(top, each[i])
    for i in range(N):
        total += math.exp(each[i] - top)
    return top + math.log(total) - math.log(N)
