"""Claims of the chapter on real text."""

from collections import Counter
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from ... import data, draws, margin
from ...models import Selection, SelectionWeights
from ...models.selection import optimal, scores
from ...problems import Problem
from ...theorems import Standing
from .._record import Evidence, Verdict, claim

TEXT = "vasudeva2024/text"
#: Words that occur in at least this many sentences are known, but for the most frequent ones.
OFTEN, TOO_OFTEN = 10, 50
#: Sentences are told by their first words that are known, this many.
WORDS = 8
#: The first sentences of the shuffle teach the words their scores; the others test.
TEACH = 2000
#: Sentences on which attention is trained.
TRAIN = 64


class Sentences(NamedTuple):
    """Film reviews as rows of known words."""

    texts: list[str]
    ids: Tensor  #: (N, WORDS), which words
    y: Tensor  #: (N), +1 or -1
    words: list[str]

    def bag(self, rows: slice) -> csr_array:
        """Which words stand in each of these sentences, (rows, len(words)): mostly zeros."""
        ids = self.ids[rows].numpy()
        begins = np.arange(0, ids.size + 1, WORDS)
        return csr_array((np.ones(ids.size), ids.ravel(), begins), (len(ids), len(self.words)))


def sentences(order: int = 0) -> Sentences:
    """The labelled sentences with at least `WORDS` known words, each by its first ones, shuffled.

    ``order`` is the seed of the shuffle, and so decides which of them teach and which test.
    """
    texts, y = data.movie_reviews().labelled()
    rows = [list(dict.fromkeys(data.words(text))) for text in texts]
    count = Counter(word for row in rows for word in row)
    known = [word for word, times in count.most_common() if times >= OFTEN][TOO_OFTEN:]
    place = {word: k for k, word in enumerate(known)}
    told = [[place[word] for word in row if word in place][:WORDS] for row in rows]
    kept = [i for i, row in enumerate(told) if len(row) == WORDS]
    kept = [kept[k] for k in draws.permutation(order, "sentences", len(kept)).tolist()]
    return Sentences(
        [texts[i] for i in kept], torch.tensor([told[i] for i in kept]), y[kept], known
    )


class Bag(NamedTuple):
    """Logistic regression on the bag of words."""

    coefficients: Tensor  #: (words), the coefficients, with standard deviation one
    right: Tensor  #: (tests), whether each test sentence is classified right


def regression(known: Sentences) -> Bag:
    """Fit on the first `TEACH` sentences; C = 0.3 is the best of six on the last 500 of them."""
    from sklearn.linear_model import LogisticRegression

    teach, test = slice(0, TEACH), slice(TEACH, None)
    fit = LogisticRegression(C=0.3, max_iter=1000)
    fit.fit(known.bag(teach), known.y[teach].numpy())
    found = torch.from_numpy(fit.coef_[0])
    answers = torch.from_numpy(fit.predict(known.bag(test)))
    return Bag(found / found.std(), answers == known.y[test])


def vectors(coefficients: Tensor, seeds: int, d: int = 64) -> Tensor:
    """Each word (seeds, words, 1 + d): its score and d random entries of variance 1 / d.

    They are other ones for each seed.
    """
    random = draws.normal(1, "embedding", (len(coefficients), d), runs=seeds) / d**0.5
    return torch.cat([coefficients.expand(seeds, -1)[..., None], random], -1)


def embedded(words: Tensor, ids: Tensor) -> Tensor:
    """Sentences (seeds, N, 1 + WORDS, 1 + d): first their mean, which asks, then their words.

    ``words`` are the `vectors`, and ``ids`` (seeds, N, WORDS) says which stand where.
    """
    X = words.new_empty(*ids.shape[:2], 1 + WORDS, words.shape[-1])
    for each, vector, row in zip(X, words, ids, strict=True):  # at once would take twice the memory
        each[:, 1:] = vector[row]
        each[:, 0] = each[:, 1:].mean(1)
    return X


def training(known: Sentences, words: Tensor) -> Problem:
    """For each seed the `TRAIN` sentences whose turn it is, out of the first `TEACH`.

    Sentences in which two words share the largest score, as words do that stand in the same
    sentences only, have no optimal token and are passed over.
    """
    gamma = known.y[:TEACH, None] * words[0, :, 0][known.ids[:TEACH]]
    first, second = gamma.topk(2, -1).values.T
    usable = torch.nonzero(first > second + 1e-6)[:, 0]
    rows = usable[: TRAIN * len(words)].reshape(len(words), TRAIN)
    return Problem(embedded(words, known.ids[rows]), known.y[rows])


class Trial(NamedTuple):
    """What attention is trained on, and what it is held against."""

    bag: Bag
    problem: Problem  #: the sentences to train on
    test: Problem  #: all those that test, for each draw of embeddings


def trial(known: Sentences, seeds: int) -> Trial:
    """These sentences, with ``seeds`` draws of embeddings."""
    bag = regression(known)
    words = vectors(bag.coefficients, seeds)
    X = embedded(words, known.ids[TEACH:].expand(seeds, -1, -1))
    test = Problem(X, known.y[TEACH:].expand(seeds, -1))
    return Trial(bag, training(known, words), test)


def train(problem: Problem, method: str, steps: int, at: list[int]) -> dict[int, Tensor]:
    """W (seeds, D, D) after these steps from zero: "normalised", "plain" or "Adam".

    Steps: of length 1; 20 times the gradient; Adam's of 0.02.
    """
    W = problem.X.new_zeros(len(problem.X), problem.D, problem.D)
    m, v, layer, seen = torch.zeros_like(W), torch.zeros_like(W), Selection(), {0: W}
    for t in range(1, steps + 1):
        G = layer.loss_and_gradient(SelectionWeights(W, reads(problem)), problem)[1]["W"]
        if method == "normalised":
            size = torch.linalg.vector_norm(G, dim=(-2, -1), keepdim=True)
            W = W - G / size.clamp_min(1e-140)
        elif method == "plain":
            W = W - 20 * G
        else:
            m, v = 0.9 * m + 0.1 * G, 0.999 * v + 0.001 * G.square()
            W = W - 0.02 * m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-12)
        if t in at:
            seen[t] = W
    return seen


def reads(problem: Problem) -> Tensor:
    """The decoder (seeds, D): it reads the score of a word."""
    return torch.eye(problem.D).double()[0].expand(*problem.X.shape[:-3], problem.D)


def right(W: Tensor, problem: Problem) -> Tensor:
    """Which sentences get the right sign, (seeds, N)."""
    return Selection().forward(SelectionWeights(W, reads(problem)), problem).f > 0


def solutions(problem: Problem, W: Tensor | None = None) -> list[margin.Margin]:
    """The SVM of each seed's sentences: of the optimal words, or of those that W attends to."""
    if W is None:
        chosen = optimal(scores(problem, reads(problem)))
    else:
        at = SelectionWeights(W, reads(problem))
        chosen = Selection().attention(at, problem).argmax(-1)
    parts = zip(problem.X, problem.y, chosen, strict=True)
    return [margin.svm(Problem(X, y), selected=words) for X, y, words in parts]


def cosines(W: Tensor, solved: list[margin.Margin]) -> Tensor:
    """The cosine between each W and its SVM, (seeds)."""
    return torch.stack([found.correlation(each) for found, each in zip(solved, W, strict=True)])


def interval(first: Tensor, second: Tensor) -> tuple[float, float, float]:
    """The mean of first - second (N), paired, and its 95 % interval by a bootstrap over the rows."""
    difference = first.double() - second.double()
    drawn = draws.uniform(2, "bootstrap", (2000, len(difference))) * len(difference)
    means = difference[drawn.long()].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return float(difference.mean()), low, high


@claim(
    "vasudeva2024-text",
    title="Film reviews",
    box="eq-text",
    standing=Standing.OBSERVED,
    paper="Descent",
    number="Experiment",
    statement=r"Attention on the words of 64 film reviews, the decoder reading scores of words "
    r"learned by logistic regression: in 600 steps normalised descent comes to a cosine above $0.98$ "
    r"with the SVM of the words that it selects, plain descent stays below $0.85$; on 2 202 other "
    r"sentences one word selected by attention serves as well as the mean of all eight, to three "
    r"points.",
    verdict=Verdict.HOLDS,
    chapter=TEXT,
    mutations={
        "a tenth of the steps": {"steps": 60},
        "attention turned round": {"turned": True},
    },
)
def film_reviews(steps: int = 600, turned: bool = False) -> Evidence:
    """Four orders of the sentences, two draws of embeddings each."""
    close, found = {"normalised": [], "plain": []}, []
    for order in range(4):
        bag, problem, test = trial(sentences(order), seeds=2)
        for how in close:
            W = train(problem, how, steps, [steps])[steps]
            close[how].append(cosines(W, solutions(problem, W)))
            if how == "normalised":
                answers = right(-W if turned else W, test).double().mean(0)
                found.append(interval(answers, bag.right))
    least, most = (float(torch.cat(close[how]).aminmax()[k]) for k, how in enumerate(close))
    mean, low, high = torch.tensor(found).T
    return Evidence(
        conclusions={
            "normalised: a cosine above 0.98 on every draw": least > 0.98,
            "plain: below 0.85 on every draw": most < 0.85,
            "as right as the bag of words, to three points": bool((low > -0.03).all())
            and bool((high < 0.03).all()),
        },
        numbers={
            "least_cosine_normalised": least,
            "largest_cosine_plain": most,
            "mean_difference": float(mean.mean()),
            "least_difference": float(mean.min()),
            "largest_difference": float(mean.max()),
            "intervals_from": float(low.min()),
            "intervals_to": float(high.max()),
            "draws": 8,
        },
    )
