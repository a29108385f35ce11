"""Groups of agents that lie together: k-means, and how many groups there are.

The index is Davies and Bouldin's (IEEE PAMI 1(2), 1979): the mean over groups of the worst (s_i + s_j) / d_ij, s the
mean distance of a group's points from its centre and d that of two centres; less is better. On one point an agent it is
undefined for as many groups as agents, and favours groups of one, whose s is 0. So it is taken over every agent's
halves, each in its agent's group: groups of one then have the scatter of one agent's data. For one group there is no
index: it is what remains where no other number of groups has one of APART or less, which is to say groups at least
twice as far apart as they are wide.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Groups = tuple[tuple[int, ...], ...]

APART = 0.5


class Score(NamedTuple):
    """How well the agents fall into so many groups."""

    groups: int
    davies_bouldin: float


class Clustering(NamedTuple):
    """Groups, and the scores that their number was chosen by; none for one agent."""

    groups: Groups
    scores: tuple[Score, ...]


def cluster(mu: NDArray[np.float32], count: int, seed: int) -> Clustering:
    """Groups of agents at mu (N, H, Z): `count` of them, 1 to N, or as many as the index says if 0."""
    agents = len(mu)
    labels = {k: _k_means(mu.mean(1), k, seed) for k in range(1, agents + 1)}
    scores = tuple(Score(k, _index(mu, labels[k])) for k in range(2, agents + 1))
    if not count:
        best = min(scores, key=lambda score: score.davies_bouldin, default=None)
        count = best.groups if best and best.davies_bouldin <= APART else 1
    return Clustering(as_groups(labels[count].tolist()), scores)


def as_groups(labels: Sequence[Hashable]) -> Groups:
    """Agents with equal labels together, in the order of their first."""
    members: dict[Hashable, list[int]] = {}
    for agent, label in enumerate(labels):
        members.setdefault(label, []).append(agent)
    return tuple(map(tuple, members.values()))


def _k_means(points: NDArray[np.float32], count: int, seed: int) -> NDArray[np.int32]:
    """(N,) which group each of (N, Z) is in."""
    from sklearn.cluster import KMeans  # takes seconds to import, and few runs need it

    labels: NDArray[np.int32] = KMeans(count, n_init=10, random_state=seed).fit_predict(points)
    return labels


def _index(mu: NDArray[np.float32], labels: NDArray[np.int32]) -> float:
    from sklearn.metrics import davies_bouldin_score

    return float(davies_bouldin_score(mu.reshape(-1, mu.shape[-1]), labels.repeat(mu.shape[1])))
