"""A small disk for one command: `python -m tests.stack.smalldisk FOLDER SIZE_MB COMMAND …`.

The command runs in a mount namespace of its own in which FOLDER is a disk of that size: root may make one, and everybody else may
in a user namespace of their own, in which they keep their uid. The disk is gone with the command's processes, whatever ends them.
Others reach it through `seen_from_outside`. Exit code 77: this machine lets us do neither.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

CANNOT: Final = 77
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def seen_from_outside(folder: Path, pid: int) -> Path:
    """`folder` as the process sees it."""
    return Path(f"/proc/{pid}/root{folder}")


def mount_small_disk(folder: Path, size_mb: int) -> None:
    """For this process and those it starts. Raises OSError where that is not allowed."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        _call(_libc.unshare(CLONE_NEWNS))
    else:
        _call(_libc.unshare(CLONE_NEWNS | CLONE_NEWUSER))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    _call(_libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
    _call(_libc.mount(b"smcp-test", os.fsencode(folder), b"tmpfs", 0, f"size={size_mb}m,mode=755".encode()))


def _call(outcome: int) -> None:
    if outcome != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main(folder: str, size_mb: str, *command: str) -> None:
    try:
        mount_small_disk(Path(folder), int(size_mb))
    except OSError as exc:
        sys.stderr.write(f"{exc.strerror}\n")
        raise SystemExit(CANNOT) from exc
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
