"""Who has begun what: a register on the scheduler of a Dask cluster, which outlives its workers.

Dask may give a task to several workers, one after the other: it takes back what waits on a busy
one, and what a lost one had. Here each task is begun once.

Rules:

- A worker that runs a task has its leave first, and there is one for each task.
- A task that was withdrawn is never begun; one that was begun says where.
- When a worker leaves the cluster, however that happens, who waits for what it had begun is told.
- What no worker can take is said to who asks, and withdrawn in the same step.

The scheduler is one thread, and so each of these is one step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from distributed.diagnostics.plugin import SchedulerPlugin

if TYPE_CHECKING:
    from typing import Any

    from distributed.scheduler import Scheduler, WorkerState

# Under which the scheduler knows it.
NAME = "trioipc"

# Who waits is told after this that a task was begun, if it has not ended by then: messages to a
# client are 2 ms apart, so the one that says that it has ended would have to wait for this one.
_NEWS_SECONDS = 0.01

# A task may come this much later than the message that withdraws it, which takes another way.
_LATE_SECONDS = 60.0


@final
class Register(SchedulerPlugin):
    """The register; see `SchedulerPlugin` for when its methods are called."""

    name = NAME
    # Another pool may have brought it.
    idempotent = True

    def __init__(self) -> None:
        # {key of a task: the worker that has begun it, and the topic of who waits; None if it was
        # withdrawn}
        self._begun: dict[str, tuple[str, str] | None] = {}

    async def start(self, scheduler: Scheduler) -> None:
        """Listen to workers and clients."""
        self._scheduler = scheduler
        scheduler.handlers["trioipc_begin"] = self.begin
        scheduler.handlers["trioipc_withdraw"] = self.withdraw
        scheduler.handlers["trioipc_seek"] = self.seek
        scheduler.handlers["trioipc_survey"] = self.survey
        scheduler.handlers["trioipc_forget"] = self.forget

    def begin(self, key: str, worker: str, topic: str) -> bool:
        """Say whether ``worker`` may begin a task."""
        if key in self._begun or key not in self._scheduler.tasks:
            return False
        self._begun[key] = worker, topic
        self._scheduler.loop.call_later(_NEWS_SECONDS, self._announce, key, topic)
        return True

    def _announce(self, key: str, topic: str) -> None:
        task = self._scheduler.tasks.get(key)
        if task is not None and task.state == "processing":
            self._scheduler.log_event(topic, {"begun": key})

    def withdraw(self, key: str) -> str | None:
        """Let a task never begin; return the worker that has begun it, if it is too late."""
        entry = self._begun.setdefault(key, None)
        if key not in self._scheduler.tasks:  # it has ended, or is not here yet
            self._scheduler.loop.call_later(_LATE_SECONDS, self._drop, key)
        return None if entry is None else entry[0]

    def _drop(self, key: str) -> None:
        if key not in self._scheduler.tasks:
            self._begun.pop(key, None)

    def seek(
        self,
        keys: list[str],
        workers: list[str] | None,
        resources: dict[str, float] | None,
        *,
        may_wait: bool,
    ) -> tuple[bool, list[str]]:
        """Withdraw those tasks that wait for a worker that will not come.

        Args:
          keys: Of tasks that have not begun, as far as who asks knows.
          workers: Names or addresses of those that may run them; None for any.
          resources: What each takes of a worker's.
          may_wait: Whether to leave them as they are if there is no such worker.

        Returns:
          Whether there is such a worker; and which tasks were withdrawn: all, if there is none; or
          those that were for one by an address that it has no more.
        """
        there = self._those(workers, resources)
        if there:
            # While they are paused, for want of memory, all tasks look like that.
            may_run = not self._scheduler.running.isdisjoint(there)
            left = [key for key in keys if may_run and self._is_unrunnable(key)]
        else:
            left = [] if may_wait else keys
        return bool(there), [key for key in left if self.withdraw(key) is None]

    def _is_unrunnable(self, key: str) -> bool:
        task = self._scheduler.tasks.get(key)
        return task is not None and task.state == "no-worker"

    def survey(
        self, workers: list[str] | None, resources: dict[str, float] | None
    ) -> tuple[dict[str, int], bool]:
        """Say which workers may run tasks, and whether each of them can be killed and started anew.

        Args:
          workers: As of `seek`.
          resources: Likewise.

        Returns:
          The threads of each, by addresses; and whether all have nannies.
        """
        there = self._those(workers, resources)
        return {w.address: w.nthreads for w in there}, all(w.nanny for w in there)

    def _those(
        self, workers: list[str] | None, resources: dict[str, float] | None
    ) -> list[WorkerState]:
        return [w for w in self._scheduler.workers.values() if _suits(w, workers, resources)]

    def forget(self, topic: str) -> None:
        """Keep no events of a pool that is closed."""
        self._scheduler._broker.truncate(topic)

    def transition(
        self, key: Any, start: str, finish: str, *args: Any, stimulus_id: str, **kwargs: Any
    ) -> None:
        """Forget a task with the scheduler."""
        if finish == "forgotten":
            self._begun.pop(key, None)

    def remove_worker(
        self, scheduler: Scheduler, worker: str, *, stimulus_id: str, **kwargs: Any
    ) -> None:
        """Tell who waits for what a worker had begun."""
        for key, entry in self._begun.items():
            if entry is not None and entry[0] == worker:
                scheduler.log_event(entry[1], {"lost": key, "worker": worker})


def _suits(
    worker: WorkerState, names: list[str] | None, resources: dict[str, float] | None
) -> bool:
    """Say whether a worker may run what is submitted with such restrictions."""
    if names is not None and {worker.name, worker.address, worker.host}.isdisjoint(names):
        return False
    has = worker.resources
    return all(has.get(name, 0.0) >= least for name, least in (resources or {}).items())
