"""Puts kitae's classes in the place of the books', at import or in loaded modules, and takes them away.

A name is replaced if the book's own has the same signature, the same attributes and, tried on a few small arrays, the
same numbers (``_same``). Everything else is left alone, and reported.
"""

import functools
import inspect
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TextIO

from kitae import _checks
from kitae.dlfs import _masks
from kitae.dlfs._same import why_not

# Once the module on the left is loaded, names in those on the right can be replaced.
_TRIGGERS = {
    "common.layers": {"common.layers": "kitae.dlfs.layers"},
    "common.optimizer": {"common.optimizer": "kitae.dlfs.optimizer"},
    "common.time_layers": {"common.time_layers": "kitae.dlfs.time_layers"},
    "common.util": {"common.util": "kitae.dlfs.util"},
    "dezero": {
        "dezero.functions": "kitae.dlfs.dezero.functions",
        "dezero.optimizers": "kitae.dlfs.dezero.optimizers",
    },
}
_TIMED = ("forward", "backward", "update")


@dataclass
class _Replaced:
    module: str
    name: str
    original: Any
    replacement: Any
    calls: dict[str, list[float]] = field(default_factory=dict)  # method -> [calls, seconds]


class _Installation:
    """Everything that install() changed."""

    def __init__(self, rng: str) -> None:
        self.previous_rng = _masks.rng()
        _masks.set_rng(rng)
        self.replaced: list[_Replaced] = []
        self.left_alone: dict[str, dict[str, str]] = {}  # module -> name -> why
        self.start = time.perf_counter()
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec that others find, whose loader replaces names after it has run the module."""
        if name not in _TRIGGERS:
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    self._follow(spec.loader)
                return spec
        return None

    def _follow(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            if _current is self:
                self.replace(module.__name__)

        loader.exec_module = exec_module

    def replace(self, trigger: str) -> None:
        for original, ours in _TRIGGERS[trigger].items():
            module = sys.modules.get(original)
            if module is not None:
                counts = [(total, tuple(total)) for entry in self.replaced for total in entry.calls.values()]
                self._replace_in(module, import_module(ours))
                for total, before in counts:  # comparing is no work of the script
                    total[:] = before

    def _replace_in(self, module: ModuleType, ours: ModuleType) -> None:
        left = self.left_alone[module.__name__] = {}
        self.replaced = [entry for entry in self.replaced if entry.module != module.__name__]  # it was reloaded
        entries = []
        for name, original in list(vars(module).items()):
            if name.startswith("_") or getattr(original, "__module__", None) != module.__name__:
                continue
            if name not in ours.__all__:
                left[name] = ""
                continue
            reason = why_not(name, original, getattr(ours, name), module)
            if reason is not None:
                left[name] = reason
                continue
            entry = _Replaced(module.__name__, name, original, None)
            entry.replacement = _counted(entry, getattr(ours, name))
            entries.append(entry)
        # Not before all were compared: the book's classes use one another.
        for entry in entries:
            setattr(module, entry.name, entry.replacement)
        self.replaced += entries

    def exchange(self, pairs: list[tuple[Any, Any]]) -> None:
        """In every loaded module, the first of each pair by the second: star imports have copied the names."""
        by_id = {id(old): new for old, new in pairs}
        for module in list(sys.modules.values()):
            names = getattr(module, "__dict__", None)
            if module is sys.modules[__name__] or not isinstance(names, dict):
                continue
            for name, value in list(names.items()):
                if id(value) in by_id:
                    names[name] = by_id[id(value)]

    def undo(self) -> None:
        sys.meta_path.remove(self)
        _masks.set_rng(self.previous_rng)
        self.exchange([(entry.replacement, entry.original) for entry in self.replaced])


def _counted(entry: _Replaced, ours: Any) -> Any:
    """Ours with its calls counted and timed, under the name that it has in the book's module (for pickle, too)."""
    if not inspect.isclass(ours):
        return _timed(entry, "", ours)
    methods = {name: _timed(entry, name, getattr(ours, name)) for name in _TIMED if hasattr(ours, name)}
    names = {"__module__": entry.module, "__qualname__": entry.name, "__doc__": ours.__doc__}
    kind: Any = type(ours)
    return kind(entry.name, (ours,), {**names, **methods})


def _timed(entry: _Replaced, method: str, function: Callable[..., Any]) -> Callable[..., Any]:
    total = entry.calls[method] = [0, 0.0]
    clock = time.perf_counter

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        start = clock()
        try:
            return function(*arguments, **keywords)
        finally:
            total[0] += 1
            total[1] += clock() - start

    call.__module__ = entry.module
    return call


_current: _Installation | None = None


def install(rng: str = "numpy") -> None:
    """From now on ``common.layers``, ``common.optimizer``, ``common.util``, ``common.time_layers`` and ``dezero`` have
    kitae's classes where those give the same numbers: in modules that are loaded already, in every module that imported
    names from them, and when they are imported later. Layers and optimizers that exist already stay the book's.

    rng: what dropout draws its masks from, as in ``set_rng``. Installing again starts anew. ``uninstall`` undoes it.
    """
    global _current
    _checks.one_of("dlfs.install", "rng", rng, _masks.RNGS)
    uninstall()
    _current = _Installation(rng)
    for trigger in _TRIGGERS:
        if trigger in sys.modules:
            _current.replace(trigger)
    _current.exchange([(entry.original, entry.replacement) for entry in _current.replaced])


def uninstall() -> None:
    """Give the book's modules their own classes back. Layers and optimizers made in between keep working."""
    global _current
    if _current is not None:
        _current.undo()
        _current = None


def report(file: TextIO | None = None) -> None:
    """Print what is replaced, how often it was called and how long it ran, and which names are left alone."""
    out = file if file is not None else sys.stdout
    if _current is None:
        print("kitae.dlfs: nothing is installed", file=out)
        return
    for line in _lines(_current):
        print(line, file=out)


def _lines(installation: _Installation) -> list[str]:
    seconds = time.perf_counter() - installation.start
    rows, unused = [], []
    for entry in installation.replaced:
        called = {method: total for method, total in entry.calls.items() if total[0]}
        if not called:
            unused.append(f"{entry.module}.{entry.name}")
        for method, (calls, spent) in called.items():
            rows.append((f"{entry.module}.{entry.name}" + f".{method}" * bool(method), int(calls), spent))
    inside = sum(row[2] for row in rows)
    lines = [
        f"kitae.dlfs: {len(installation.replaced)} names replaced, masks from {_masks.rng()}; "
        f"{seconds:.2f} s, of these {inside:.2f} s in what follows"
    ]
    width = max((len(row[0]) for row in rows), default=0)
    lines += [
        f"  {label:<{width}}  {calls:>9,} calls  {spent:9.3f} s  {spent / calls * 1e6:9.1f} us each"
        for label, calls, spent in sorted(rows, key=lambda row: -row[2])
    ]
    if unused:
        lines += _wrapped("replaced, not called: ", ", ".join(unused))
    for module, names in installation.left_alone.items():
        if names:
            words = ", ".join(f"{name} ({why})" if why else name for name, why in names.items())
            lines += _wrapped(f"left alone in {module}: ", words)
    others = sorted(
        name for name in sys.modules if name.startswith(("common.", "dezero.")) and name not in installation.left_alone
    )
    if others:
        lines += _wrapped("left alone, whole modules: ", ", ".join(others))
    if "cupy" in sys.modules:
        lines.append("  on a GPU the times are those of the calls, which do not wait for its work")
    return lines


def _wrapped(head: str, words: str) -> list[str]:
    return textwrap.wrap(head + words, 118, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
