"""Many texts, on any scheduler: a worker that any engine can run, and whole folders of files. Needs `untorch[jobs]`."""

from untorch.jobs.worker import RowError, Worker

__all__ = ["RowError", "Worker"]
