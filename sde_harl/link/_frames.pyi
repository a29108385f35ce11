from collections.abc import Callable
from typing import Any

from sde_harl.link.wire import Fields, Message

def use(
    message_type: type,
    header_type: type,
    kinds: tuple[Any, ...],
    wire_error: type,
    crc32: Callable[[memoryview], int],
) -> None: ...
def unpack(source: int, frame: memoryview, run_id: int | None) -> Message: ...
def frame_of(header: Fields, payload: bytes | memoryview) -> bytes: ...
def seal(frame: memoryview, header: Fields) -> None: ...
