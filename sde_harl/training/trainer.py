"""Rank 0's loop: collect -> report -> learn -> publish -> evaluate -> record.

It knows neither MPI nor what an algorithm does.
"""

from __future__ import annotations

import gc

from sde_harl.codec.symbols import SymbolCounts
from sde_harl.draws.counters import Purpose, derived_seed
from sde_harl.meters.timing import now_ns
from sde_harl.outside.process import interruption
from sde_harl.server.decision_log import Decisions
from sde_harl.training.build import TrainingParts
from sde_harl.training.episodes import Episodes
from sde_harl.training.publishing import Published, publish
from sde_harl.training.saving import Saver

STAGES = (
    "environment",
    "send",
    "latents",
    "policy",
    "devices",
    "report",
    "diversity",
    "learn",
    "distil",
    "publish",
)
"""The stages whose shares of the time are logged; the rest is evaluation, saving and logging."""


class Trainer:
    """One training run."""

    _published: Published
    """What was published last."""

    def __init__(self, parts: TrainingParts) -> None:
        self.config = parts.config
        self.pool = parts.pool
        self.logger = parts.logger
        self.learned = parts.learned
        self.collector = parts.collector
        self.checkpoints = parts.checkpoints
        self.counters = parts.counters
        self._environments = parts.environments
        self._learners = parts.learners
        self._evaluator = parts.evaluator
        self._stages = parts.stages
        self._saver = Saver(parts.checkpoints, parts.logger, keep=parts.config.record.keep)
        self._stops_on_full_disk = parts.config.record.on_disk_full == "stop"

    @property
    def incomplete(self) -> str | None:
        """Says what could not be recorded or saved; None while nothing is missing."""
        return self._saver.unsaved or self.logger.incomplete

    def run(self) -> None:
        """Trains to the end. However it ends, everything learnt and recorded is saved.

        Raises KeyboardInterrupt after a signal asked for the end.
        """
        # The libraries' objects are many and stay. Frozen, they aren't visited at every collection.
        gc.collect()
        gc.freeze()
        must_save = self._stops_on_full_disk
        try:
            self._train()
        except BaseException:
            # What ended the run is told, and not what its end meets as well.
            must_save = False
            raise
        finally:
            interruption.finish()
            # Nested, so that a disk that takes no checkpoint doesn't cost the record its last rows.
            try:
                self._saver.save("last", must_save=must_save)
            finally:
                self.logger.close()
                self._environments.close()

    def _train(self) -> None:
        self.checkpoints.keep()
        self.publish()
        # A row of what the start has cost, so that later rows can be compared with it.
        self._report(train=True)
        # Without training a run is one evaluation, of what it has loaded.
        if not self.config.train.steps:
            self._evaluate()
        # A resumed run may have been interrupted between an update and its evaluation.
        elif self.counters.steps > self.counters.evaluated:
            self._evaluate_if_due()
        while self.counters.steps < self.config.train.steps:
            self.update()
            self._evaluate_if_due()
            if self._due(self.config.record.checkpoint_interval):
                self._saver.save(str(self.counters.steps), must_save=self._stops_on_full_disk)
        self.logger.tell_result()

    def _evaluate_if_due(self) -> None:
        if self._due(self.config.eval.interval):
            self._evaluate()
            self.counters.evaluated = self.counters.steps
            self.checkpoints.keep()

    def _due(self, interval: int) -> bool:
        """Returns True after the last update, and after one that passed a multiple of `interval`.

        An interval of 0 leaves only the last.
        """
        if self.counters.steps >= self.config.train.steps:
            return True
        before = self.counters.steps - self.config.train.rollout_steps
        return interval > 0 and before // interval != self.counters.steps // interval

    def update(self) -> None:
        """Plays one rollout, learns from it, and publishes what was learnt."""
        started = now_ns()
        episodes = self._collect()
        with self._stages("report"):
            # Before learning: the weight of the rate depends on the bytes that were sent.
            decisions = self._report(train=True)
        is_last = self.counters.steps >= self.config.train.steps
        scalars = self.collector.play_ahead(self._first_step(), is_last=is_last)
        scalars |= self._learn(decisions.bytes_per_decision())
        # An interrupted update is dropped, so that a checkpoint never holds half of one.
        interruption.check()
        # Before publishing: nobody acts by weights that can't be kept.
        self.checkpoints.check()
        with self._stages("publish"):
            self.publish()
        scalars |= self._speed(elapsed=(now_ns() - started) * 1e-9)
        self.logger.update(
            self.counters.steps, episodes=episodes, decisions=decisions, scalars=scalars
        )
        self.checkpoints.keep()

    def _collect(self) -> Episodes:
        """Plays one rollout to learn from; returns the episodes that ended meanwhile."""
        collector = self.collector
        parts = []
        while True:
            for ended in collector.collect(self._published.acting, self._first_step()):
                self.logger.ended(self.counters.steps, ended)
                parts.append(ended)
            self.counters.steps += collector.rollout.rewards.size
            # Where every game failed there is nothing to learn from.
            if len(collector.rollout.valid_sequences()):
                return Episodes.join(parts)

    def _first_step(self) -> int:
        """Returns the number of the next rollout's first step, which random draws depend on."""
        return self.counters.drawn_steps // self.config.train.envs

    def _report(self, *, train: bool) -> Decisions:
        """Returns the decisions since the last report, and records them with all ranks' usage."""
        decisions, resources = self.pool.report()
        self.logger.cost(self.counters.steps, decisions=decisions, resources=resources, train=train)
        return decisions

    def _learn(self, sent: float) -> dict[str, float]:
        """Learns from the rollout; returns scalars to log. `sent`: its bytes per decision."""
        learned = self.learned
        # Every update draws from a generator that its step alone decides, so that a resumed run
        # draws the same numbers.
        seed = derived_seed(self.config.seed, Purpose.LEARNING, self.counters.drawn_steps)
        learned.generator.manual_seed(seed)
        # Before this rollout, so that the rates that decay end at one update's share and not at 0.
        train = self.config.train
        progress = (self.counters.steps - train.rollout_steps) / train.planned_steps
        # Before the advantages are made, of which the intrinsic reward has to be a part.
        scalars = self._add_intrinsic_reward()
        with self._stages("learn"):
            learned.algorithm.rate_coef = learned.rate_control.next(progress, sent)
            scalars |= self._update_algorithm(progress)
        # After the policies' update: the fallback heads learn what the new policies do.
        return scalars | self._distil()

    def _update_algorithm(self, progress: float) -> dict[str, float]:
        """Updates policies and critic, with the other learners if there are any."""
        rollout = self.collector.rollout
        if not self._learners:
            return self.learned.update(rollout, progress)
        with self._learners.update(rollout, progress):
            return self.learned.update(rollout, progress)

    def _add_intrinsic_reward(self) -> dict[str, float]:
        """Adds the reward for diversity to the rollout's, if there is one; returns scalars."""
        with self._stages("diversity"):
            if not self.learned.diversity:
                return {}
            rollout = self.collector.rollout
            intrinsic = self.learned.diversity.reward(rollout)
            rollout.rewards += intrinsic.rewards
            return intrinsic.scalars

    def _distil(self) -> dict[str, float]:
        """Teaches the fallback heads, if there are any; returns scalars."""
        with self._stages("distil"):
            if not self.learned.fallback:
                return {}
            return self.learned.fallback.update(self.collector.rollout, self.counters.steps)

    def _speed(self, elapsed: float) -> dict[str, float]:
        """Returns what else is logged of an update that took `elapsed` seconds."""
        seconds = self._stages.take()
        scalars = {f"share/{name}": seconds.get(name, 0.0) / elapsed for name in STAGES}
        if self.config.codec.name == "entropy":
            scalars["rate_coef"] = self.learned.algorithm.rate_coef
        scalars["steps_per_s"] = self.collector.rollout.rewards.size / elapsed
        return scalars

    def publish(self) -> None:
        """Publishes a new version: local nets and tables to the executors, the rest to rank 0."""
        self.counters.version += 1
        self._published = publish(
            self.learned,
            self.pool,
            version=self.counters.version,
            codec=self.config.codec.name,
        )

    def _evaluate(self) -> None:
        """Plays the greedy episodes of an evaluation, the same ones each time, and records them."""
        if not self.config.eval.episodes:
            return
        symbols = None
        if self._published.tables:
            symbols = SymbolCounts(self._published.tables)
        episodes = self._evaluator.evaluate(
            self._published.acting,
            self.counters.steps // self.config.train.envs,
            symbols=symbols,
        )
        decisions = self._report(train=False)
        self.logger.evaluation(
            self.counters.steps, episodes=episodes, decisions=decisions, symbols=symbols
        )
