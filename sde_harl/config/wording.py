"""How values and keys appear in error lines: always short, and always on one line."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = 60
_SHORT.maxother = 60
MOST_LETTERS = 63


def brief(raw: Any) -> str:
    """Returns any value as one short line, even where YAML's aliases made it huge or endless."""
    # Arrays write each of their rows on a line of its own.
    text = _SHORT.repr(raw).replace("\n", " ")
    if len(text) <= MOST_LETTERS:
        return text
    return f"{text[: MOST_LETTERS - 3]}..."


def shown(text: str) -> str:
    """Returns a key, file name or message as it is, or quoted where it would break the line."""
    if text and text.isprintable():
        return text
    return repr(text)


ALMOST = 0.85
"""How alike a word and a key are, of 1, where a letter or two are wrong."""
MEANT = {
    "algo": "algo.name",
    "algorithm": "algo.name",
    "batch_size": "algo.minibatches",
    "checkpoint": "train.load",
    "clip": "algo.clip_coef",
    "codec": "codec.name",
    "cuda": "executor.device",
    "deadline": "link.deadline_ms",
    "device": "executor.device",
    "discount": "algo.gamma",
    "entropy": "algo.entropy_coef",
    "env": "env.name",
    "environment": "env.name",
    "exp": "record.exp",
    "gpu": "executor.device",
    "groups": "policy.groups",
    "hidden_size": "policy.width",
    "horizon": "train.rollout",
    "learning_rate": "algo.lr",
    "load": "train.load",
    "log_dir": "record.dir",
    "lr": "algo.lr",
    "map": "env.map",
    "model": "train.load",
    "n_envs": "train.envs",
    "name": "record.exp",
    "num_envs": "train.envs",
    "num_steps": "train.steps",
    "output": "record.dir",
    "restore": "train.load",
    "resume": "train.resume",
    "rnn": "policy.recurrent",
    "scenario": "env.map",
    "seeds": "seed",
    "steps": "train.steps",
    "timesteps": "train.steps",
    "total_timesteps": "train.steps",
    "workers": "env.workers",
}
"""What users call a key by, in other programs' words, where letters alone would suggest another."""


def key_meant(name: str, valid: Iterable[str]) -> str:
    """Returns a hint for a key that isn't there, by its meaning if that is known, else by letters.

    A key's last part may be right and its section wrong: train.lr means algo.lr.
    """
    word = name[:80].lower().replace("-", "_")
    keys = list(valid)
    near = did_you_mean(word, keys, ALMOST)
    if near:
        return near
    last = word.rpartition(".")[2]
    if last in MEANT:
        return f"; did you mean {MEANT[last]}?"
    sections = [key for key in keys if key.rpartition(".")[2] == last]
    if len(sections) == 1:
        return f"; did you mean {sections[0]}?"
    return did_you_mean(name, keys, 0.3)


def did_you_mean(word: str, valid: Iterable[str], cutoff: float = 0.6) -> str:
    """Returns "; did you mean X?" for the nearest valid word, or nothing where none is near."""
    # difflib takes time with the square of the length, and a word may be a whole file.
    near = difflib.get_close_matches(word[:80], valid, 1, cutoff)
    if not near:
        return ""
    return f"; did you mean {near[0]}?"
