"""Writes pictures as a video, GIF or mp4, with imageio."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from sde_harl.drawing.canvas import Picture
from sde_harl.errors import UserError

SUFFIXES = (".gif", ".mp4")


class Video:
    """A video file that is being written; to be used in a `with` statement."""

    def __init__(self, path: Path, *, pictures_per_s: float) -> None:
        """Raises UserError for a name that ends otherwise, and where the file can't be written."""
        self.path = path
        self._writer: Any = None
        try:
            self._writer = self._open(pictures_per_s)
        except OSError as error:
            raise UserError(f"--video: {path}: can't be written: {error.strerror}") from error
        # ValueError: imageio without imageio-ffmpeg, for mp4.
        except (ImportError, ValueError) as error:
            raise UserError(
                f"--video: {path}: needs the packages imageio and imageio-ffmpeg:"
                " pip install -e '.[video]'"
            ) from error

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()

    def add(self, picture: Picture) -> None:
        """Adds a picture; all must be of one size."""
        self._writer.append_data(picture)

    def _open(self, pictures_per_s: float) -> Any:
        import imageio.v2 as imageio

        check_name(self.path)
        # Opened here first: imageio's errors of a file that it can't write are many.
        self.path.open("wb").close()
        if self.path.suffix == ".gif":
            # loop=0: again and again.
            return imageio.get_writer(self.path, mode="I", duration=1000.0 / pictures_per_s, loop=0)
        # The sides are even already: 16, the default, would scale the pictures.
        return imageio.get_writer(
            self.path, fps=pictures_per_s, macro_block_size=2, ffmpeg_log_level="error"
        )


def check_name(path: Path) -> None:
    """Raises UserError for a file name that doesn't tell its format."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"--video: expected a name that ends in .gif or .mp4, got {path}")
