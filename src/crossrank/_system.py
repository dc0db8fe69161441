"""What operating systems do differently: locks on files, reads at a place, a process's limits and memory."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import IO, Any

__all__ = ["allow_files", "hold", "peak_memory", "read_into"]

if sys.platform == "win32":
    import ctypes
    import mmap
    import msvcrt
    import os

    _FAR = 1 << 40
    """Where a file is locked: nobody can read the bytes that Windows locks, so it is far behind the last."""

    def hold(file: IO[Any]) -> bool:
        """Hold a file for as long as it is open; False: somebody else holds it."""
        descriptor = file.fileno()
        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(descriptor, place, os.SEEK_SET)
        return True

    def read_into(file: int, buffer: memoryview, start: int) -> int:
        """Fill a buffer with a file's bytes from ``start`` on, and return how many there are.

        ``start`` is a multiple of 64 KiB. Several threads may read at the same time.
        """
        count = max(0, min(len(buffer), os.fstat(file).st_size - start))
        if count > 0:
            with mmap.mmap(file, count, access=mmap.ACCESS_READ, offset=start) as part:
                buffer[:count] = part[:]
        return count

    def allow_files(count: int) -> None:
        """Nothing: Windows has no limit that a process must raise."""

    class _Memory(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS of psapi.h."""

        _fields_ = (
            ("size", ctypes.c_uint32),
            ("faults", ctypes.c_uint32),
            ("peak", ctypes.c_size_t),
            ("others", ctypes.c_size_t * 7),
        )

    def peak_memory() -> int:
        """The peak resident memory of this process, in bytes; 0 where the system does not say."""
        kernel = ctypes.windll.kernel32
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        found = _Memory(size=ctypes.sizeof(_Memory))
        process = ctypes.c_void_p(kernel.GetCurrentProcess())
        kernel.K32GetProcessMemoryInfo(process, ctypes.byref(found), found.size)
        return int(found.peak)

else:
    import fcntl
    import os
    import resource

    def hold(file: IO[Any]) -> bool:
        """Hold a file for as long as it is open; False: somebody else holds it."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def read_into(file: int, buffer: memoryview, start: int) -> int:
        """Fill a buffer with a file's bytes from ``start`` on, and return how many there are.

        ``start`` is a multiple of 64 KiB. Several threads may read at the same time.
        """
        return os.preadv(file, [buffer], start)

    def allow_files(count: int) -> None:
        """Raise this process's limit of open files, as far as it may."""
        now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = count if most == resource.RLIM_INFINITY else min(count, most)
        if now != resource.RLIM_INFINITY and now < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))

    def peak_memory() -> int:
        """The peak resident memory of this process, in bytes; 0 where the system does not say."""
        status = Path("/proc/self/status")
        if status.exists():
            # On Linux, the peak of getrusage starts from that of the parent process.
            found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"), re.MULTILINE)
            if found:
                return int(found[1]) * 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
