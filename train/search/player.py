"""Opens a video at a moment, in whatever player the system has."""

import shutil
import subprocess
import sys
import webbrowser
from pathlib import Path

from polyvid.modeling.errors_mmp import PolyvidError

PLAYERS = {
    "mpv": ("--start={start}",),
    "vlc": ("--start-time={start}",),
    "ffplay": ("-ss", "{start}"),
}
"""Players that can start at a second, and how they are told."""
OPENERS = {"darwin": "open", "linux": "xdg-open"}


def play(path: Path, start: float) -> str:
    """Starts a player, which goes on by itself. Returns what happened, for the user.

    Raises:
        PolyvidError: if there is no player.
    """
    for player, options in PLAYERS.items():
        if shutil.which(player):
            arguments = [option.format(start=start) for option in options]
            _start([player, *arguments, str(path.resolve())])
            return f"Playing {path} in {player}."
    opener = OPENERS.get(sys.platform)
    if opener and shutil.which(opener):
        _start([opener, str(path.resolve())])
        return f"Opened {path}: go to second {start:g}."
    if sys.platform == "win32" and webbrowser.open(path.resolve().as_uri()):
        return f"Opened {path}: go to second {start:g}."
    raise PolyvidError(f"There is no player for {path}: install mpv or vlc, or write a page with --html.")


def _start(command: list[str]) -> None:
    quiet = subprocess.DEVNULL
    subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
