"""The tasks of a run and their order, taken from doit's task objects."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from doit.control import TaskControl
from doit.exceptions import InvalidCommand, InvalidDodoFile, InvalidTask
from doit.loader import generate_tasks
from doit.task import Task, dict_to_task

from llmconv.engine.task import Action
from llmconv.errors import ConvertError, InputError


@dataclass
class Node:
    """One task: `deps` come before it, `users` after it. action is None for groups and for tasks of plain doit."""

    name: str
    action: Action | None
    task: Task
    deps: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)

    @property
    def plain(self) -> bool:
        """Whether this is an ordinary doit task with actions of its own."""
        return self.action is None and bool(self.task._actions)

    @property
    def work(self) -> Action:
        """The action of a node that has one; ValueError for the others."""
        if self.action is None:
            raise ValueError(f"{self.name} has no action of the engine")
        return self.action

    @property
    def works(self) -> bool:
        """Whether there is anything to run (a group has nothing)."""
        return self.action is not None or bool(self.task._actions)


@dataclass
class Graph:
    """nodes: by name, dependencies first. producers: target path -> (task name, position among its targets). spenders:
    path -> the task that may use it up, with its action; it need not be one of the nodes."""

    nodes: dict[str, Node]
    producers: dict[str, tuple[str, int]]
    spenders: dict[str, tuple[str, Action]] = field(default_factory=dict)

    def after(self, names: Iterable[str]) -> set[str]:
        """Everything that depends on `names`, directly or not."""
        found: set[str] = set()
        todo = list(names)
        while todo:
            for user in self.nodes[todo.pop()].users:
                if user not in found:
                    found.add(user)
                    todo.append(user)
        return found

    def before(self, name: str) -> set[str]:
        """Everything that `name` depends on, directly or not."""
        found: set[str] = set()
        todo = [name]
        while todo:
            for dep in self.nodes[todo.pop()].deps:
                if dep not in found:
                    found.add(dep)
                    todo.append(dep)
        return found

    def order(self) -> dict[str, set[str]]:
        """Tasks that work, dependencies first -> those that work right before them; groups are left out."""
        through: dict[str, set[str]] = {}  # of a node: the workers that stand for it to its users
        found: dict[str, set[str]] = {}
        for name, node in self.nodes.items():
            deps: set[str] = set().union(*(through[dep] for dep in node.deps))
            through[name] = {name} if node.works else deps
            if node.works:
                found[name] = deps
        return found


def from_doit(tasks: Mapping[str, Task], selected: Iterable[str]) -> Graph:
    """The graph of the selected tasks and all they depend on; InvalidDodoFile for a cycle."""
    # doit adds these itself, but only for commands that run tasks
    makers = {path: task.name for task in tasks.values() for path in task.targets}
    nodes: dict[str, Node] = {}
    state: dict[str, int] = {}  # 1: dependencies are being visited, 2: done
    for root in selected:
        stack = [root]
        while stack:
            name = stack[-1]
            if state.get(name) == 2:
                stack.pop()
                continue
            task = tasks[name]
            made = [makers[path] for path in task.file_dep if path in makers]
            deps = list(dict.fromkeys([*task.task_dep, *task.setup_tasks, *sorted(made)]))
            if state.get(name) == 1:
                stack.pop()
                state[name] = 2
                nodes[name] = _node(task, deps)
                continue
            state[name] = 1
            for dep in reversed(deps):
                if state.get(dep) == 1:
                    raise InvalidDodoFile(f"tasks depend on each other in a circle: {name} and {dep}")
                if dep not in state:
                    stack.append(dep)
    for node in nodes.values():
        for dep in node.deps:
            nodes[dep].users.append(node.name)
    producers = {
        path: (node.name, position)
        for node in nodes.values()
        if node.action
        for position, path in enumerate(node.action.targets)
    }
    spenders = {
        path: (task.name, action)
        for task in tasks.values()
        if (action := (task.meta or {}).get("action"))
        for path in action.spends
    }
    graph = Graph(nodes, producers, spenders)
    _check_spenders(graph)
    return graph


def _check_spenders(graph: Graph) -> None:
    """InvalidTask where a task would read what another one may have used up before."""
    before = {name: graph.before(name) for name, _ in graph.spenders.values() if name in graph.nodes}
    if not before:
        return
    for name, node in graph.nodes.items():
        for path in node.action.inputs if node.action else ():
            spender = graph.spenders.get(path, (name,))[0]
            if spender != name and spender in before and name not in before[spender]:
                raise InvalidTask(f"{name} reads {path}, and {spender}, which may use it up, does not come after it")


def renewed(tasks: Mapping[str, Task], made: Iterable[dict], selected: Iterable[str]) -> Graph:
    """The graph with these tasks in the place of all of the engine's; those of plain doit stay. InputError for a
    selected one that is not there any more."""
    fresh = {task.name: task for task in _from_creators({"task_renewed": lambda: made})}
    kept = {name: task for name, task in tasks.items() if not (task.meta or {}).get("action")}
    names = list(selected)
    for name in names:
        if name not in kept and name not in fresh:
            raise InputError(f"there is no task {name} any more", "the nets have other graphs now", "See `doit list`.")
    return from_doit(kept | fresh, names)


def _node(task: Task, deps: list[str]) -> Node:
    if task.loader:
        raise InvalidTask(f"{task.name}: delayed creation of tasks does not work with llmconv's engine")
    action = (task.meta or {}).get("action")
    return Node(task.name, action if action and action.call else None, task, deps)


def load(tasks: Sequence[dict] | Mapping[str, Any], selected: Sequence[str] | None) -> Graph:
    """The graph of task dicts (see task.task) or of a namespace with task_* functions; selected None or []: all.

    InputError for a name that does not exist, ConvertError for tasks that cannot be (cycles, two with one target).
    """
    made: list[Task] = []
    try:
        made = list(_from_creators(tasks)) if isinstance(tasks, Mapping) else _from_dicts(tasks)
        control = TaskControl(made)
        control.process(list(selected) if selected else None)
        return from_doit(control.tasks, control.selected_tasks or ())
    except InvalidCommand as error:
        wanted = error.not_found
        near = difflib.get_close_matches(str(wanted), [task.name for task in made], n=1)
        raise InputError(
            f"there is no task {wanted}", try_=f"Did you mean {near[0]}?" if near else "See the list of tasks."
        ) from None
    except (InvalidTask, InvalidDodoFile) as error:
        raise ConvertError("the tasks do not make a graph", str(error)) from None


def _from_creators(namespace: Mapping[str, Any]) -> Iterator[Task]:
    """What its functions task_NAME give, in their order (doit's own loader reads their sources to order them)."""
    for name, creator in namespace.items():
        if name.startswith("task_"):
            yield from generate_tasks(name.removeprefix("task_"), creator(), creator.__doc__)


def _from_dicts(dicts: Sequence[dict]) -> list[Task]:
    """doit tasks, plus a group for every basename; the name of a subtask is basename:name."""
    made: list[Task] = []
    groups: dict[str, Task] = {}
    for given in dicts:
        fields = dict(given)
        basename, name = fields.pop("basename", None), fields.pop("name", None)
        if basename and name:
            full = f"{basename}:{name}"
            if basename not in groups:
                groups[basename] = Task(basename, None, has_subtask=True)
                made.append(groups[basename])
            groups[basename].task_dep.append(full)
            made.append(dict_to_task({**fields, "name": full}))
            made[-1].subtask_of = basename
        else:
            made.append(dict_to_task({**fields, "name": name or basename}))
    return made
