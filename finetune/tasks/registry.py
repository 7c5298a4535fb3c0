"""The tasks there are, by name."""

from typing import Literal, TypeAlias, TypeVar

from finetune import arguments
from finetune.tasks.base import Task
from finetune.tasks.multi_label import MultiLabel
from finetune.tasks.regression import Regression
from finetune.tasks.single_label import SingleLabel

TaskName: TypeAlias = Literal["single_label", "multi_label", "regression"]
"""Those that come with the library, for the command line and for editors."""

TaskLike: TypeAlias = "TaskName | Task"

AnyTask = TypeVar("AnyTask", bound=Task)

_tasks: dict[str, Task] = {}


def register(task: AnyTask) -> AnyTask:
    """Makes a task known by its name, so that an exported model finds it again; returns it.

    Raises ValueError for a name that another class has.
    """
    known = _tasks.setdefault(task.name, task)
    if known != task:
        kind = type(known)
        raise ValueError(
            f"there is a task {task.name!r} already, {kind.__module__}.{kind.__qualname__}; choose "
            "another name"
        )
    return task


def registered_tasks() -> tuple[Task, ...]:
    """All tasks that are known by name."""
    return tuple(_tasks.values())


def resolve_task(task: TaskLike) -> Task:
    """The task of this name, or the task itself.

    >>> resolve_task("multi_label")
    MultiLabel()

    Raises ValueError for an unknown name, and TypeError for what is neither.
    """
    if isinstance(task, Task):
        return task
    if not isinstance(task, str):
        raise TypeError(f"task must be the name of a task or a Task, got {arguments.shown(task)}")
    if task not in _tasks:
        names = ", ".join(map(repr, _tasks))
        raise ValueError(
            f"task must be one of {names}, got {task!r}; a task of your own is known after "
            "finetune.tasks.register(MyTask())"
        )
    return _tasks[task]


DEFAULT_TASK = register(SingleLabel())
register(MultiLabel())
register(Regression())
