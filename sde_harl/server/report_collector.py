"""Asks all executors for a report, and joins the reports with the log of decisions."""

from __future__ import annotations

from collections.abc import Mapping

from sde_harl.link.transport import Transport
from sde_harl.link.wire import Header, Kind
from sde_harl.meters.timing import now_ns
from sde_harl.server.answer_waiter import AnswerWaiter
from sde_harl.server.decision_log import DecisionLog
from sde_harl.server.membership import REPORT, Question
from sde_harl.server.reports import PoolReport, Reports
from sde_harl.server.settings import PoolSettings

REPORT_S = 1.0
"""Longest wait for a report where decisions have a deadline: learning waits meanwhile."""


class ReportCollector:
    """Asks for reports and waits for them."""

    def __init__(
        self,
        transport: Transport,
        settings: PoolSettings,
        *,
        executors: Mapping[int, tuple[int, ...]],
        reports: Reports,
        waiter: AnswerWaiter,
    ) -> None:
        """`executors` maps ranks to agents; the receiver writes what comes into `reports`."""
        self._transport = transport
        self._executors = executors
        self._reports = reports
        self._waiter = waiter
        timeout_s = settings.failure_timeout_s
        if settings.deadline_s:
            timeout_s = max(settings.deadline_s, REPORT_S)
        self._timeout_ns = int(timeout_s * 1e9)

    def collect(self, log: DecisionLog) -> PoolReport:
        """Returns everything since the last report, and empties the log of decisions.

        An executor that doesn't report in time is left out. Raises UserError where it is given up
        and the run may not go on without it.
        """
        number = self._reports.begin()
        asked = set(self._executors) - self._transport.absent
        asked_ns = now_ns()
        for rank in asked:
            self._transport.send(rank, Header(kind=Kind.METER, step=number))

        def is_done() -> bool:
            # One that has reported may be lost before the others report.
            return asked - self._transport.absent <= self._reports.received.keys()

        if not self._waiter.wait(is_done, asked_ns + self._timeout_ns):
            self._note_silent(asked - set(self._reports.received), number, asked_ns)
        device_ns = self._reports.device_ns(log, self._executors)
        return PoolReport(decisions=log.take(device_ns), resources=self._reports.resources())

    def _note_silent(self, ranks: set[int], number: int, asked_ns: int) -> None:
        """Notes the executors that owe report `number`, asked for at `asked_ns`."""
        # The report is for all agents of an executor, so any agent serves.
        question = Question(slot=REPORT, number=number, agent=0)
        self._waiter.note_missed({rank: [question] for rank in ranks}, asked_ns, "did not report")
