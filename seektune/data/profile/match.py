"""Whether training texts look like the target's: a classifier two-sample test, and what tells them apart."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seektune.data.profile.terms import Term, typical

AT_LEAST, AT_MOST = 20, 2000  # texts compared a side
FOLDS = 5
LEAST_AREA = 0.55  # a smaller area is no difference worth acting on, however sure it is
LARGE, ALMOST_FULL = 0.7, 0.95
SURE = 1.96  # standard deviations at either end of a 95 % interval
# Folds share most of what they learn from, so their errors agree: Nadeau and Bengio's correction. Random
# halvings of four sets, 20 to 2,000 texts a side, had 1.2 to 1.7 times the spread of independent errors.
SHARED_LEARNING = (1 + FOLDS * (1 / (FOLDS - 1))) ** 0.5
SHOWN_CHARS = 600  # of a text to the classifier, from both its ends
MAX_FEATURES = 50_000
NEIGHBOURS, EXCERPT = 5, 200


@dataclass(frozen=True, slots=True)
class Area:
    """Chance that a target text scores above a training text (0.5: no difference), with its interval."""

    value: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether the interval excludes chance."""
        return self.low > 0.5 or self.high < 0.5


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A training text and its closest target text; `similarity` is a cosine in 0–1."""

    row: str
    text: str
    target: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Match:
    """What the comparison found; beyond `texts` all is empty where they were too few.

    `texts` are the distinct texts given (training, target), `shared` those on both sides, `compared` those
    the classifier saw of each side. `lengths` are the 10th, 50th and 90th percentile in characters.
    """

    texts: tuple[int, int]
    shared: int = 0
    compared: int = 0
    area: Area | None = None
    length_area: Area | None = None
    lengths: tuple[tuple[int, int, int], tuple[int, int, int]] | None = None
    typical: tuple[tuple[Term, ...], tuple[Term, ...]] = ((), ())
    nearest: tuple[Neighbour, ...] = ()
    farthest: tuple[Neighbour, ...] = ()

    @property
    def differs(self) -> bool:
        """Whether a difference is sure, and large enough to act on."""
        return self.area is not None and self.area.low > 0.5 and self.area.value >= LEAST_AREA

    @property
    def verdict(self) -> str:
        """The finding in plain sentences."""
        area, known, asked = self.area, *self.texts
        if area is None:
            few = f"{known:,} distinct training and {asked:,} distinct target texts"
            return f"Too few texts to compare: {few}; at least {AT_LEAST} of each are needed."
        seen = f"area under the curve {area.value:.2f}, 95 % interval {area.low:.2f}–{area.high:.2f}"
        if not self.differs:
            return (
                f"Training texts and target prompts cannot be told apart ({seen}; {self.compared:,} of each)."
            )
        degree = (
            "slightly" if area.value < LARGE else "clearly" if area.value < ALMOST_FULL else "almost entirely"
        )
        says = f"The training texts differ {degree} from the target prompts ({seen}; 0.50 is chance)."
        for terms, side in zip(self.typical, ("training", "the target"), strict=True):
            if terms:
                says += f" Typical of {side}: {', '.join(term.text for term in terms[:4])}."
        return says + self._length_verdict()

    def _length_verdict(self) -> str:
        area, lengths = self.length_area, self.lengths
        if not (area and lengths and area.sure and abs(area.value - 0.5) >= LEAST_AREA - 0.5):
            return ""
        medians = f"{lengths[0][1]:,} characters in training, {lengths[1][1]:,} in the target"
        return f" Lengths differ as well: median {medians}."

    def to_json(self) -> dict[str, Any]:
        """Plain data for the report; what belongs to one side stands under `train` or `target`."""
        found = asdict(self)
        for name in ("texts", "lengths", "typical"):
            if found[name]:
                found[name] = dict(zip(("train", "target"), found[name], strict=True))
        return {"verdict": self.verdict, "differs": self.differs} | found


def match(train: Sequence[str], target: Sequence[str], seed: int = 0, names: Sequence[str] = ()) -> Match:
    """Compare training texts with a sample of what the model will be asked.

    Each distinct text counts once, and at most 2,000 a side are compared, as many of one as of the other;
    below 20 the verdict says so. `names` are the row ids of `train`, for the neighbours. Deterministic in
    `seed`.
    """
    rng = random.Random(seed)
    rows = dict(zip(train, names or [str(place) for place in range(1, len(train) + 1)], strict=True))
    sides = [sorted(text for text in set(texts) if text.strip()) for texts in (train, target)]
    counts = (len(sides[0]), len(sides[1]))
    if min(counts) < AT_LEAST:
        return Match(counts)
    known, asked = [rng.sample(side, min(len(side), AT_MOST)) for side in sides]
    size = min(len(known), len(asked))
    chosen = np.r_[:size, len(known) : len(known) + size]
    features = _features([*known, *asked])
    sizes = np.array([len(text) for text in [*known, *asked]], float)
    nearest, farthest = _neighbours(known, asked, features, rows)
    return Match(
        texts=counts,
        shared=len(set(sides[0]) & set(sides[1])),
        compared=size,
        area=area_under_curve(_scores(features[chosen], size, seed), size, SURE * SHARED_LEARNING),
        length_area=area_under_curve(sizes[chosen], size),
        lengths=(_percentiles(sizes[: len(known)]), _percentiles(sizes[len(known) :])),
        typical=typical(known, asked),
        nearest=nearest,
        farthest=farthest,
    )


def area_under_curve(scores: NDArray[np.float64], size: int, sure: float = SURE) -> Area:
    """Area under the ROC curve of (2·size,) scores, the first `size` of training texts.

    The interval, `sure` standard deviations to either side, is Newcombe's (method 5): every area whose own
    spread reaches the one seen. Unlike an interval around the estimate it has a width at 1, too, and at 0.5
    it is the rank test's.
    """
    order = np.sort(scores[:size])
    low, high = (np.searchsorted(order, scores[size:], side) for side in ("left", "right"))
    value = float((low + high).sum() / (2 * size * size))
    areas = np.linspace(0, 1, 10_001)
    spread = 1 + (size - 1) * ((1 - areas) / (2 - areas) + areas / (1 + areas))
    within = areas[abs(value - areas) <= sure * np.sqrt(areas * (1 - areas) * spread) / size + 1e-9]
    return Area(value, min(float(within[0]), value), max(float(within[-1]), value))


def _features(texts: Sequence[str]) -> Any:
    """(len(texts), terms) sparse: TF-IDF of character n-grams, which need no words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    half = SHOWN_CHARS // 2
    shown = [text if len(text) <= SHOWN_CHARS else f"{text[:half]} {text[-half:]}" for text in texts]
    grams = TfidfVectorizer(
        analyzer="char_wb",
        ngram_range=(1, 4),
        max_features=MAX_FEATURES,
        sublinear_tf=True,
        dtype=np.float32,
    )
    return grams.fit_transform(shown)


def _scores(features: Any, size: int, seed: int) -> NDArray[np.float64]:
    """(2·size,) out-of-fold scores, higher for what looks like the target."""
    from sklearn.linear_model import LogisticRegression

    is_target = np.arange(2 * size) >= size
    scores = np.zeros(2 * size)
    fold = np.random.default_rng(seed).permutation(size) % FOLDS
    fold = np.r_[fold, fold]
    for held_out in range(FOLDS):
        rest, here = fold != held_out, fold == held_out
        model = LogisticRegression(C=10.0, solver="newton-cg").fit(features[rest], is_target[rest])
        found = model.decision_function(features[here])
        # Folds differ in their level; each has as many of one side as of the other, so the mean is fair.
        scores[here] = found - found.mean()
    return scores


def _neighbours(
    known: Sequence[str], asked: Sequence[str], features: Any, rows: dict[str, str]
) -> tuple[tuple[Neighbour, ...], tuple[Neighbour, ...]]:
    """The training texts with the most and the least similar closest target text."""
    targets = features[len(known) :].T.tocsr()
    closest = np.zeros(len(known), int)
    similarity = np.zeros(len(known))
    for start in range(0, len(known), 256):  # blocks: the product is dense
        block = features[start : min(start + 256, len(known))].dot(targets).toarray()
        closest[start : start + 256] = block.argmax(1)
        similarity[start : start + 256] = block.max(1)
    order = np.argsort(-similarity, kind="stable")

    def described(places: NDArray[np.int64]) -> tuple[Neighbour, ...]:
        return tuple(
            Neighbour(
                rows[known[at]],
                known[at][:EXCERPT],
                asked[closest[at]][:EXCERPT],
                round(min(float(similarity[at]), 1.0), 3),
            )
            for at in places
        )

    return described(order[:NEIGHBOURS]), described(order[::-1][:NEIGHBOURS])


def _percentiles(sizes: NDArray[np.float64]) -> tuple[int, int, int]:
    ten, fifty, ninety = np.percentile(sizes, (10, 50, 90)).round().astype(int).tolist()
    return ten, fifty, ninety
