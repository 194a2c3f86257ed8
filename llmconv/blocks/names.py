"""What a checkpoint calls its tensors: the published names, or those of another way to save the same model."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

BASE = "model."  # what a class with a head calls the model below it


@dataclass(frozen=True)
class Names:
    """By role, the paths in a checkpoint, and those that its publisher has; they differ only where the model was saved
    in another way. called: (beginning of a published name, what the checkpoint has in its place)."""

    found: Mapping[str, str]
    published: Mapping[str, str]
    called: tuple[tuple[str, str], ...] = ()

    @property
    def bare(self) -> bool:
        """Whether a base model was saved alone."""
        return (BASE, "") in self.called

    def of(self, name: str) -> str:
        """What the checkpoint calls the tensor that its publisher calls `name`."""
        for old, new in self.called:
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name


def found_names(names: Mapping[str, str], prefixes: tuple[str, ...], tensors: Container[str], tied: bool) -> Names:
    """The names in a checkpoint with these tensors.

    names: as published, under "model."; prefixes: what may stand there instead. A base model that was saved alone lacks
    "model."; a head may stand under the prefix of the language model; and a tied model may have its table under the
    name of its head. Without known tensors the names are those under the first prefix.
    """

    def under(prefix: str, role: str) -> str:
        name = names[role]
        return prefix + name.removeprefix(BASE) if name.startswith(BASE) else name

    def there(path: str) -> bool:
        return f"{path}.weight" in tensors

    bare = tuple(p.removeprefix(BASE) for p in prefixes if p.startswith(BASE))
    heads = (names["head"], *(p.removesuffix(BASE) + names["head"] for p in (*prefixes, *bare)))
    head = next(filter(there, heads), names["head"])
    shared = tied and there(head)
    prefix = next((p for p in (*prefixes, *bare) if there(under(p, "embedding"))), None)
    if prefix is None and shared:  # the norm tells it then
        prefix = next((p for p in (*prefixes, *bare) if there(under(p, "norm"))), None)
    full = prefix = prefixes[0] if prefix is None else prefix
    called = []
    if prefix not in prefixes:
        full = BASE + prefix
        called.append((BASE, ""))
    published = {role: under(full, role) for role in names}
    found = {role: under(prefix, role) for role in names} | {"head": head}
    if shared and not there(found["embedding"]):
        found["embedding"] = head
    for role in ("head", "embedding"):
        if found[role] != under(prefix, role):
            called.insert(0, (f"{published[role]}.", f"{found[role]}."))
    return Names(found, published, tuple(called))
