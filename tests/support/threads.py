"""The writer threads of this process, as /proc shows them."""
from __future__ import annotations

from pathlib import Path


class WriterThreads:
    """Finds the threads named fastlog-writer and reads their state."""

    @staticmethod
    def find():
        """Return the ids of the writer threads."""
        threads = []
        for task in Path("/proc/self/task").iterdir():
            try:
                if (task / "comm").read_text() == "fastlog-writer\n":
                    threads.append(task.name)
            except (FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
                pass
        return threads

    @staticmethod
    def status(thread, field):
        """Return a field of a thread's status file: proc(5)."""
        for line in Path(f"/proc/self/task/{thread}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return value.strip()
        raise LookupError(field)

    @classmethod
    def is_waiting(cls, thread):
        """Return whether a thread sleeps in the kernel."""
        return cls.status(thread, "State").startswith("S")
