"""Makes the parts of an executor pool that talk to the executors, each with those that it uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sde_harl.link.transport import Transport
from sde_harl.protocol.session import SessionSpec
from sde_harl.server.answer_waiter import AnswerWaiter
from sde_harl.server.membership import Membership
from sde_harl.server.publisher import Publisher
from sde_harl.server.questioner import Questioner
from sde_harl.server.receiver import Receiver
from sde_harl.server.report_collector import ReportCollector
from sde_harl.server.reports import Reports
from sde_harl.server.sender import Sender
from sde_harl.server.settings import PoolSettings
from sde_harl.server.slot import Slot


class PoolParts(NamedTuple):
    """The parts that an `ExecutorPool` calls."""

    sender: Sender
    receiver: Receiver
    publisher: Publisher
    waiter: AnswerWaiter
    questioner: Questioner
    collector: ReportCollector


def connect(
    transport: Transport,
    session: SessionSpec,
    *,
    settings: PoolSettings,
    executors: Mapping[int, tuple[int, ...]],
    slots: list[Slot],
) -> PoolParts:
    """Makes the parts; `executors` maps ranks to agents. Nothing is sent yet."""
    # Shared: the receiver writes what has come, the waiter and the collector read it.
    membership = Membership(
        executors,
        absent=transport.absent,
        failure_timeout_ns=int(settings.failure_timeout_s * 1e9),
    )
    reports = Reports()
    receiver = Receiver(
        transport,
        session,
        executors=executors,
        slots=slots,
        membership=membership,
        reports=reports,
    )
    sender = Sender(transport, session, settings=settings, executors=executors)
    publisher = Publisher(transport, session, executors)
    # Waiting is where executors come back, and one that is back gets the model that it has missed.
    waiter = AnswerWaiter(
        transport,
        settings,
        membership=membership,
        receiver=receiver,
        publisher=publisher,
        slots=slots,
    )
    return PoolParts(
        sender=sender,
        receiver=receiver,
        publisher=publisher,
        waiter=waiter,
        questioner=Questioner(
            transport,
            session,
            settings=settings,
            executors=executors,
            sender=sender,
            waiter=waiter,
        ),
        collector=ReportCollector(
            transport, settings, executors=executors, reports=reports, waiter=waiter
        ),
    )
