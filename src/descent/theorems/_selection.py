"""The numbers that hypotheses on attention that selects are made of, each computed when asked for."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from .. import _validate, margin
from .._errors import error
from .._least_squares import least_norm
from ..margin import Margin
from ..models import Selection, SelectionWeights
from ..models.selection import chosen, scores, weighted_differences
from ..problems import Problem


@dataclass(frozen=True)
class SelectionStart:
    r"""A layer that selects, one data set and weights; ``*r`` are runs, norms are Frobenius.

    The chapters write n and T for the code's N sequences of n tokens. All runs share the decoder.
    Arrays of numpy will do, for the weights in the order W, u and for the problem as (tokens,
    labels). Raises ValueError for several data sets, where shapes do not fit or no token is
    optimal, and `descent.margin.Infeasible` where the optimal tokens cannot be selected.

    eta : the length of a normalised step.
    """

    model: Selection
    problem: Problem
    weights: SelectionWeights
    eta: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.problem, Problem):
            object.__setattr__(
                self, "problem", Problem(*_validate.several("problem", self.problem, 2))
            )
        weights = SelectionWeights(*_validate.several("weights", self.weights, 2))
        weights = _validate.weights(weights)
        _validate.positive("eta", self.eta)
        if not isinstance(self.model, Selection):
            found = f"model must be a Selection, got {_validate.shown(self.model)}"
            raise error(TypeError, found, "take Selection()")
        if self.model.d is not None:
            found = (
                f"these theorems are on W itself, but the layer has factors of d = {self.model.d}"
            )
            raise error(ValueError, found, "take Selection() without d")
        self.model.check(weights, _validate.one_problem(self.problem))
        object.__setattr__(self, "weights", weights)

    # -- scores ---------------------------------------------------------------------------------

    @cached_property
    def u(self) -> Float[Tensor, " D"]:
        """The decoder of all runs."""
        rows = self.weights.u.reshape(-1, self.problem.D)
        if bool((rows != rows[0]).any()):
            raise error(
                ValueError, "runs have different decoders u", "give them one: init(..., u=u)"
            )
        return rows[0]

    @cached_property
    def gamma(self) -> Float[Tensor, "N n"]:
        """The scores of all tokens."""
        return scores(self.problem, self.u)

    @cached_property
    def opt(self) -> Int[Tensor, " N"]:
        """The optimal tokens."""
        return chosen(self.problem, self.u)

    @cached_property
    def best(self) -> Float[Tensor, " N"]:
        """Their scores."""
        return self.gamma.amax(-1)

    @cached_property
    def others(self) -> Float[Tensor, "N n-1"]:
        """The scores of the other tokens of each sequence."""
        token = torch.arange(self.problem.n, device=self.opt.device)
        rest = self.gamma[token != self.opt[:, None]]
        return rest.unflatten(0, (self.problem.N, self.problem.n - 1))

    @cached_property
    def uneven(self) -> Tensor:
        """By how much non-optimal scores of one sequence differ, at most, over the least gap."""
        spread = self.others.amax(-1) - self.others.amin(-1)
        return spread.amax() / self.gap.amin()

    @cached_property
    def gap(self) -> Float[Tensor, " N"]:
        r"""The gaps of score :math:`\Delta_i`."""
        return self.best - self.others.mean(-1)

    def slope(self, f: Tensor) -> Tensor:
        r"""The steepness :math:`|\ell'|` of the loss at f."""
        return torch.sigmoid(-f) if self.model.ell == "logistic" else (-f).exp()

    def log_slope(self, f: Tensor) -> Tensor:
        """Its logarithm, which is there where the steepness underflows."""
        return logsigmoid(-f) if self.model.ell == "logistic" else -f

    @cached_property
    def kappa_max(self) -> Tensor:
        r"""The largest :math:`\frac{\Delta_i}{n}\sup|\ell'|`, over the scores of sequence i."""
        return (self.gap * self.slope(self.others.mean(-1))).amax() / self.problem.N

    @cached_property
    def kappa_min(self) -> Tensor:
        r"""The least :math:`\frac{\Delta_i}{n}\inf|\ell'|`."""
        return self.kappa_end.amin()

    @cached_property
    def kappa_end(self) -> Float[Tensor, " N"]:
        r"""The slopes at the end of training, :math:`\frac{\Delta_i}{n}|\ell'(\gamma_{i,opt})|`."""
        return self.gap * self.slope(self.best) / self.problem.N

    # -- the attention SVM ------------------------------------------------------------------------

    @cached_property
    def mm(self) -> Margin:
        """The solution for the optimal tokens."""
        return margin.svm(self.problem, selected=self.opt, query=self.model.query)

    @cached_property
    def length(self) -> Tensor:
        """The length of W_mm."""
        return torch.linalg.vector_norm(self.mm.W)

    @cached_property
    def z(self) -> Float[Tensor, "N D"]:
        """The tokens that ask."""
        return self.problem.X[:, self.model.query]

    @cached_property
    def a(self) -> Float[Tensor, "N n D"]:
        """The optimal token minus each token."""
        return margin.differences(self.problem, self.opt)

    @cached_property
    def gram(self) -> Float[Tensor, "m m"]:
        """The inner products of the A_it, t not optimal, in order of i and then t."""
        kept = self.mm.constrained.flatten()
        return margin.gram(self.a, self.z)[kept][:, kept]

    @cached_property
    def B(self) -> Tensor:
        """The length of the longest A_it."""
        return self.gram.diagonal().amax().sqrt()

    @cached_property
    def C(self) -> Tensor:
        """The constant of Theorem B with M = 0."""
        return self.constant(0.0)

    def constant(self, M: float | Tensor) -> Tensor:
        r"""The constant of Theorem B where all :math:`m_i \ge -R - M`."""
        ratio = self.kappa_max / self.kappa_min
        grown = ratio * torch.as_tensor(M, dtype=ratio.dtype).exp()
        if self.problem.N == 1:  # nothing to add, however large that is
            grown = torch.zeros_like(grown)
        return math.log(self.problem.n - 1) + 4 * (self.problem.N - 1) / math.e * grown

    # -- along a run ------------------------------------------------------------------------------

    def gaps(self, W: Float[Tensor, "*r D D"]) -> Float[Tensor, "*r N n-1"]:
        """The gaps <A_it, W> of the tokens that are not optimal."""
        found = margin.products(W, self.a, self.z)
        kept = found[..., self.mm.constrained]
        return kept.unflatten(-1, (self.problem.N, self.problem.n - 1))

    def m(self, W: Float[Tensor, "*r D D"]) -> Float[Tensor, "*r N"]:
        """The soft margins: attention to the optimal token is their sigmoid."""
        return -torch.logsumexp(-self.gaps(W), -1)

    def R(self, W: Float[Tensor, "*r D D"]) -> Float[Tensor, "*r"]:
        """The length of W over that of W_mm."""
        return torch.linalg.vector_norm(W, dim=(-2, -1)) / self.length

    def downhill(self, W: Float[Tensor, "*r D D"]) -> Float[Tensor, "*r D D"]:
        """The direction of steepest descent, at length one.

        The largest weight of a token is taken out of all of them as a logarithm, so that it is left
        where every gradient underflows, as it does deep in a trap.
        """
        weights = self.weights._replace(W=W)
        seen = self.model.forward(weights, self.problem)
        slope = self.log_slope(seen.f)
        top = seen.log_attention.argmax(-1, keepdim=True)
        tells = seen.scores.gather(-1, top) != seen.scores  # only these have a weight
        heard = torch.where(tells, seen.log_attention + slope[..., None], -torch.inf)
        pull = weighted_differences(seen, slope - heard.amax((-2, -1))[..., None])
        down = self.model._through_attention(weights, self.problem, pull, "W")["W"]
        return down / torch.linalg.vector_norm(down, dim=(-2, -1), keepdim=True)

    # -- the sharp law ------------------------------------------------------------------------------

    @cached_property
    def alpha(self) -> Float[Tensor, " m"]:
        """The multipliers, in the order of `gram`."""
        return self.mm.duals[self.mm.constrained]

    @cached_property
    def unseen(self) -> Float[Tensor, "*r"]:
        """The length of the part of W_0 that no A_it sees, and that no step moves."""
        g = self.gaps(self.weights.W).flatten(-2)
        rows = g.reshape(-1, g.shape[-1])
        seen = (g * least_norm(self.gram, rows.mT).mT.reshape(g.shape)).sum(-1)
        total = self.weights.W.square().sum((-2, -1))
        return (total - seen).clamp_min(0).sqrt()

    @cached_property
    def K(self) -> Float[Tensor, "*r"]:
        r"""The limit of :math:`\|\overline W - \overline W_{mm}\|\,\|W\|` along the flow from W_0."""
        kappa = self.kappa_end.repeat_interleave(self.problem.n - 1)
        ell = (kappa / self.alpha).log()
        v = ell - (self.alpha @ ell) / self.alpha.sum()
        rho = v @ torch.linalg.pinv(self.gram, hermitian=True) @ v
        return (self.unseen.square() + rho).sqrt()

    @cached_property
    def largest_eta(self) -> Tensor:
        """With normalised steps longer than this the error times the length does not settle on K.

        Infinite where no difference has a part across W_mm, as with one sequence of two tokens.
        """
        bend = self.bends[-1]
        rounding = 1e-12 * self.alpha @ self.gram.diagonal()
        return torch.where(bend > rounding, 2 * self.length / bend, torch.inf)

    @cached_property
    def settling(self) -> Tensor:
        """The length in which the slowest part of the gaps' distance from their limit falls by e.

        Zero where there is but one gap.
        """
        if len(self.bends) == 1:  # that of W_mm itself
            return torch.zeros_like(self.length)
        return self.length / self.bends[1].clamp_min(0)

    @cached_property
    def bends(self) -> Float[Tensor, " m"]:
        """How fast gaps settle along the flow, per length over that of W_mm; the least is zero."""
        root = self.alpha.clamp_min(0).sqrt()
        return torch.linalg.eigvalsh(root[:, None] * (self.gram - 1 / self.length.square()) * root)

    # -- convergence from every start ------------------------------------------------------------

    @cached_property
    def everywhere_eta(self) -> Tensor:
        r"""Steps up to this length serve all sequences from every start; zero if none is known to.

        The root of :math:`a\kappa_{\min}e^{-2\eta B} - 2e\kappa_{\max} = nB^3\kappa_{\max}\eta`.
        """
        own, others = self.pull * self.kappa_min, 2 * self.push * self.kappa_max
        slope = self.problem.N * self.B**3 * self.kappa_max
        low, high = torch.zeros_like(own), (own - others).clamp_min(0) / slope
        for _ in range(60):  # the left side falls: halve the interval until float64 is used up
            middle = (low + high) / 2
            left = own * torch.exp(-2 * middle * self.B) - others - slope * middle
            low, high = torch.where(left > 0, middle, low), torch.where(left > 0, high, middle)
        return low

    @cached_property
    def pull(self) -> Tensor:
        r"""The least squared distance of the hull of one sequence's A_it from zero."""
        blocks = self.gram.unflatten(0, (self.problem.N, -1)).unflatten(-1, (self.problem.N, -1))
        own = (blocks[i, :, i] for i in range(self.problem.N))
        return torch.stack([1 / margin.hard_margin(G)[0].sum() for G in own]).amin()

    @cached_property
    def push(self) -> Tensor:
        r"""How much all other sequences can push one back, at most."""
        blocks = self.gram.unflatten(0, (self.problem.N, -1)).unflatten(-1, (self.problem.N, -1))
        worst = (-blocks).clamp_min(0).amax((1, 3))
        worst.fill_diagonal_(0)
        return worst.sum(-1).amax()
