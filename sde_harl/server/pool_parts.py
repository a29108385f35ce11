"""Makes the parts of an executor pool that talk to the executors, each with those that it uses."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import NamedTuple

from sde_harl.link.transport import Transport
from sde_harl.meters.timing import now_ns
from sde_harl.protocol.session import SessionSpec, ShardSpec
from sde_harl.server.answer_waiter import AnswerWaiter
from sde_harl.server.membership import Membership
from sde_harl.server.publisher import Publisher
from sde_harl.server.questioner import Questioner
from sde_harl.server.receiver import Receiver
from sde_harl.server.redeal import Dealer, Executors, Redealer
from sde_harl.server.report_collector import ReportCollector
from sde_harl.server.reports import Reports
from sde_harl.server.sender import Sender
from sde_harl.server.settings import PoolSettings
from sde_harl.server.slot import Slot

NOBODY: Mapping[int, ShardSpec] = {}


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
    executors: Executors,
    slots: list[Slot],
    plays: Mapping[int, ShardSpec] = NOBODY,
    dealer: Dealer | None = None,
) -> PoolParts:
    """Makes the parts. Nothing is sent yet.

    Where executors play environments of their own, `plays` is what each rank plays, and `dealer`
    deals that of lost ones; else their agents are dealt.
    """
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
    publisher = Publisher(transport, session, executors, plays)
    if not settings.redeals:
        dealer = None
    elif dealer is None:
        dealer = Redealer(executors, publisher=publisher, sender=sender)
    # Waiting is where executors come back, and one that is back gets the model that it has missed.
    waiter = AnswerWaiter(
        transport,
        settings,
        membership=membership,
        receiver=receiver,
        publisher=publisher,
        slots=slots,
        dealer=dealer,
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


def meet(transport: Transport, parts: PoolParts, settings: PoolSettings, *, max_sent: int) -> None:
    """Meets every executor and sends it its session; `max_sent`: bytes of the largest frame to it.

    Raises UserError where one is missing or of another version.
    """
    hosts = parts.receiver.hosts
    executors = {*transport.executors}
    deadline_ns = now_ns() + int(settings.failure_timeout_s * 1e9)
    if not parts.waiter.wait(lambda: len(hosts) == len(executors), deadline_ns):
        # Marked absent, so that the link is closed without waiting for them.
        missing = executors - set(hosts)
        transport.absent |= missing
        raise parts.waiter.give_up(min(missing), "did not say hello")
    # Drawn anew for each run, whatever its seed: frames of another run are refused by it.
    transport.run_id = secrets.randbits(32)
    parts.publisher.welcome(transport.run_id, max_sent)
