"""What can't fit into the memory is refused by its key, before it is allocated."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import made

from sde_harl.errors import UserError
from sde_harl.meters.memory import check_fits, host_bytes

MPE = ["--env", "mpe", "--algo", "happo"]


def test_what_fits_passes() -> None:
    check_fits("train.rollout", host_bytes(), "a rollout")
    with pytest.raises(UserError, match=r"^train.rollout: expected less, for a rollout would take"):
        check_fits("train.rollout", host_bytes() + 1, "a rollout")


@pytest.mark.parametrize(
    "word",
    [
        "train.rollout=1e9",
        "policy.width=65536",
        "policy.critic_width=65536",
        "roles.steps=1e9",
        "diversity.width=65536",
    ],
)
def test_a_run_names_the_key(tmp_path: Path, word: str) -> None:
    more = ["roles.source=learnt"] * word.startswith("roles")
    more += ["policy.blocks=1000", "policy.critic_blocks=1000"] * word.startswith("policy")
    more += ["diversity.coef=0.1"] * word.startswith("diversity")
    with pytest.raises(UserError, match=rf"^{word.partition('=')[0]}: expected less, for .* GB"):
        made(tmp_path, *MPE, *more, word)
    assert not list(tmp_path.iterdir())
