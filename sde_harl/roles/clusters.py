"""Groups of agents whose embeddings lie together: k-means, and the number of groups.

The number is chosen by the index of Davies and Bouldin (IEEE PAMI 1(2), 1979), less is better: the
mean over groups i of the worst (s_i + s_j) / d_ij, where s is the mean distance of a group's points
from its centre and d_ij the distance between two centres.

With one point for each agent the index favours groups of one, whose s is 0, and is undefined for as
many groups as agents. So it is taken over both halves of every agent, each half in its agent's
group: a group of one then has the scatter of one agent's own data.

One group has no index at all. It is chosen if no other number of groups has an index of APART or
less, that is if no groups are at least twice as far apart as they are wide.

N agents, H halves, Z embedding.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Groups = tuple[tuple[int, ...], ...]
"""The agents of each group, by number."""

APART = 0.5
"""The worst index that still counts as more than one group."""


class Score(NamedTuple):
    """How well the agents fall into this number of groups."""

    groups: int
    davies_bouldin: float


class Clustering(NamedTuple):
    """Groups, and the scores that their number was chosen by."""

    groups: Groups
    scores: tuple[Score, ...]
    """For 2 to N groups; empty for one agent."""


def cluster(mu: NDArray[np.float32], count: int, seed: int) -> Clustering:
    """Returns groups of the agents at mu (N, H, Z).

    There are `count` groups, 1 to N, or as many as the index says if `count` is 0.
    """
    agents = len(mu)
    # All numbers of groups are tried even where one is given, since the scores are recorded.
    labels = {k: _k_means(mu.mean(1), k, seed) for k in range(1, agents + 1)}
    scores = tuple(
        Score(groups=k, davies_bouldin=_davies_bouldin(mu, labels[k])) for k in range(2, agents + 1)
    )
    return Clustering(
        groups=as_groups(labels[count or _best_count(scores)].tolist()), scores=scores
    )


def as_groups(labels: Sequence[Hashable]) -> Groups:
    """Returns agents with equal labels as groups, in the order of each group's first agent."""
    members: dict[Hashable, list[int]] = {}
    for agent, label in enumerate(labels):
        members.setdefault(label, []).append(agent)
    return tuple(map(tuple, members.values()))


def _best_count(scores: tuple[Score, ...]) -> int:
    """Returns the number of groups with the least index, or 1 where none is good enough."""
    # At equal scores `min` takes the first, which has the fewest groups.
    best = min(scores, key=lambda score: score.davies_bouldin, default=None)
    if best is None or best.davies_bouldin > APART:
        return 1
    return best.groups


def _k_means(points: NDArray[np.float32], count: int, seed: int) -> NDArray[np.int32]:
    """Returns (N,), the group of each of the points (N, Z)."""
    from sklearn.cluster import KMeans  # takes seconds to import, and few runs need it

    labels: NDArray[np.int32] = KMeans(count, n_init=10, random_state=seed).fit_predict(points)
    return labels


def _davies_bouldin(mu: NDArray[np.float32], labels: NDArray[np.int32]) -> float:
    """Returns the index of the halves mu (N, H, Z), labelled as their agents (N,)."""
    from sklearn.metrics import davies_bouldin_score

    # Halves of one agent lie side by side, so each label is repeated in place.
    points = mu.reshape(-1, mu.shape[-1])  # (N * H, Z)
    return float(davies_bouldin_score(points, labels.repeat(mu.shape[1])))
