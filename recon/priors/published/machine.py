"""A pickle machine that can only build plain values: it decodes the opcodes and calls nothing of the file's choosing.

Opcodes are decoded by the standard library's `pickletools`, which interprets nothing. Where pickle would import a
name, call it or set an object's state, `inert` decides what plain value stands for it, or refuses it.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, final

from recon.priors.published.inert import EMBEDDED, Name, call, check_key, new, resolve, set_state
from recon.priors.published.limits import Budget, Damaged, refused
from recon.priors.published.tensors import Array, Storage

Persistent = Callable[[Any], Storage]
Embedded = Callable[[bytes, Budget], Storage]

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = set(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8".split()
)
_IGNORED = {"PROTO", "FRAME"}


def load_pickle(
    stream: BinaryIO, budget: Budget, persistent: Persistent | None = None, embedded: Embedded | None = None
) -> Any:
    """Return the plain value of the pickle at a stream's position, and leave the stream right behind it.

    persistent: what becomes of persistent ids (storages kept elsewhere in the file); None refuses them.
    embedded: reads a storage that is a file inside the pickle; None refuses them.
    Raises InputError for what is refused, with its name; Damaged, or what `pickletools` raises, for broken bytes.
    """
    machine = _Machine(budget, persistent, embedded)
    for opcode, argument, _ in pickletools.genops(stream):
        budget.work(1)
        if opcode.name == "STOP":
            return machine.pop()
        machine.step(opcode.name, argument)
    raise Damaged("a pickle has no end")


@final
class _Machine:
    def __init__(self, budget: Budget, persistent: Persistent | None, embedded: Embedded | None) -> None:
        self.budget, self.persistent, self.embedded = budget, persistent, embedded
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Carry out one opcode."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in _IGNORED:
            raise refused(f"the pickle operation {name}")

    def pop(self) -> Any:
        if not self.stack:
            raise Damaged("a pickle takes a value that is not there")
        return self.stack.pop()

    def pop_many(self) -> list[Any]:
        """Return everything since the last mark."""
        if not self.outer:
            raise Damaged("a pickle has no mark")
        values, self.stack = self.stack, self.outer.pop()
        return values

    def top(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise Damaged(f"a pickle adds to something that is no {kind.__name__}")
        return self.stack[-1]

    def mark(self, _: Any) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def drop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_many()

    def drop_many(self, _: Any) -> None:
        self.pop_many()

    def duplicate(self, _: Any) -> None:
        value = self.pop()
        self.stack += [value, value]

    def put(self, index: Any) -> None:
        value = self.pop()
        self.memo[len(self.memo) if index is None else index] = value
        self.stack.append(value)

    def get(self, index: Any) -> None:
        if index not in self.memo:
            raise Damaged("a pickle recalls what it never stored")
        value = self.memo[index]
        # an array is stored before its numbers arrive
        self.stack.append(value.value if isinstance(value, Array) and value.value is not None else value)

    def make_list(self, _: Any) -> None:
        values = self.pop_many()
        self.stack.append(values)

    def make_tuple(self, _: Any) -> None:
        values = tuple(self.pop_many())
        self.stack.append(values)

    def make_small_tuple(self, count: int) -> None:
        self.stack.append(tuple(self.pop() for _ in range(count))[::-1])

    def make_dict(self, _: Any) -> None:
        values = self.pop_many()
        self.stack.append({})
        self._set(values)

    def make_frozen_set(self, _: Any) -> None:
        values = self.pop_many()
        self.stack.append({check_key(value) for value in values})

    def append(self, _: Any) -> None:
        value = self.pop()
        self.top(list).append(value)

    def extend(self, _: Any) -> None:
        values = self.pop_many()
        self.top(list).extend(values)

    def set_item(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self._set([key, value])

    def set_items(self, _: Any) -> None:
        self._set(self.pop_many())

    def add_items(self, _: Any) -> None:
        values = self.pop_many()
        self.top(set).update(check_key(value) for value in values)

    def _set(self, values: list[Any]) -> None:
        if len(values) % 2:
            raise Damaged("a pickle sets a key without a value")
        target = self.top(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[check_key(key)] = value

    def global_name(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(resolve(module, name))

    def stacked_name(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise Damaged("a pickle's name is no text")
        self.stack.append(resolve(module, name))

    def reduce(self, _: Any) -> None:
        args, function = self.pop(), self.pop()
        if isinstance(function, Name) and function == EMBEDDED:
            if self.embedded is None or not isinstance(args, tuple) or not args or not isinstance(args[0], bytes):
                raise refused("a storage inside a storage")
            self.stack.append(self.embedded(args[0], self.budget))
        else:
            self.stack.append(call(function, args, self.budget))

    def new_object(self, _: Any) -> None:
        args, kind = self.pop(), self.pop()
        self.stack.append(new(kind, args, self.budget))

    def new_object_with_keywords(self, _: Any) -> None:
        kwargs, args, kind = self.pop(), self.pop(), self.pop()
        if kwargs:
            raise refused(f"an instance of {kind} with keywords")
        self.stack.append(new(kind, args, self.budget))

    def instance(self, argument: str) -> None:
        args = tuple(self.pop_many())
        module, _, name = argument.partition(" ")
        self.stack.append(new(resolve(module, name), args, self.budget))

    def object_of(self, _: Any) -> None:
        kind, *args = self.pop_many() or [None]
        self.stack.append(new(kind, tuple(args), self.budget))

    def build(self, _: Any) -> None:
        state, target = self.pop(), self.pop()
        self.stack.append(set_state(target, state, self.budget))

    def persistent_id(self, _: Any) -> None:
        record = self.pop()
        if self.persistent is None:
            raise refused("a persistent id")
        self.stack.append(self.persistent(record))


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.drop,
    "POP_MARK": _Machine.drop_many,
    "DUP": _Machine.duplicate,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_SET": lambda machine, _: machine.stack.append(set()),
    "LIST": _Machine.make_list,
    "TUPLE": _Machine.make_tuple,
    "TUPLE1": lambda machine, _: machine.make_small_tuple(1),
    "TUPLE2": lambda machine, _: machine.make_small_tuple(2),
    "TUPLE3": lambda machine, _: machine.make_small_tuple(3),
    "DICT": _Machine.make_dict,
    "FROZENSET": _Machine.make_frozen_set,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.extend,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "ADDITEMS": _Machine.add_items,
    "GLOBAL": _Machine.global_name,
    "STACK_GLOBAL": _Machine.stacked_name,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.new_object,
    "NEWOBJ_EX": _Machine.new_object_with_keywords,
    "INST": _Machine.instance,
    "OBJ": _Machine.object_of,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent_id,
}
