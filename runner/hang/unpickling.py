"""Reads a pickle that another program wrote, and never runs what it asks for.

A pickle is a program for a small stack machine. Python's own unpickler, with `find_class` refused, still lets a file of
a few bytes take all memory (one memo index of 4 bytes), all time (a nested tuple as a key of a dict), or the stack of
whoever walks the result. So the machine here knows only the instructions that build containers, strings, numbers,
booleans, None and bytes, and counts what it builds: there is no instruction that calls, imports or looks up anything.
"""

import pickle
import pickletools
import struct
from collections.abc import Callable

from runner.base.errors import InputError
from runner.base.plain import visible_line

Plain = (
    None | bool | int | float | str | bytes | list["Plain"] | tuple["Plain", ...] | dict[str | int, "Plain"]
)
"""What a pickle may hold."""

MOST_BYTES = 64 << 20
MOST_VALUES = 2_500_000
"""Instructions of a pickle, and values of the tree that it builds, in which a shared value counts once a place."""
DEEPEST = 32
_LONGEST_TEXT, _LONGEST_INTEGER, _LARGEST_KEY = 1 << 20, 16, 1 << 20
_CONTAINERS = (list, tuple, dict)
_AGAIN = "get the dump from its rank again"
_SMALLER = "dump fewer entries (TORCH_FR_BUFFER_SIZE=2000)"


def read_pickle(data: bytes) -> Plain:
    """The value of a pickle of protocol 2 to 5.

    The result is a tree: it has no cycles, is at most `DEEPEST` levels deep and, written out, has at most
    `MOST_VALUES` values. Equal parts may be the same object. The keys of its dicts are strings or numbers of process
    groups. Memory and time grow with the length of `data`.

    Raises:
        InputError: one line; it is truncated or malformed, exceeds a limit, or asks for something other than
            containers, strings, numbers, booleans, None and bytes.
    """
    if len(data) > MOST_BYTES:
        raise InputError(f"is larger than {MOST_BYTES >> 20} MiB; {_SMALLER}")
    machine = _Machine(data)
    try:
        value = machine.run()
    except (LookupError, TypeError, ValueError) as error:
        # An instruction that finds no byte, too few values, or values of other types than it needs.
        raise machine.at_end() or InputError(f"is a malformed pickle; {_AGAIN}") from error
    demand_tree(value)
    return value


def demand_tree(value: Plain) -> None:
    """Check that a value has no cycles and stays within the limits of `read_pickle`.

    Raises:
        InputError: it has a cycle, is nested too deeply, or is too large when every shared part is written out.
    """
    # A level at a time, each container once a level with the number of its places there: neither recursion nor a
    # walk whose length grows with the tree that is written out.
    level: dict[int, tuple[Plain, int]] = {id(value): (value, 1)} if isinstance(value, _CONTAINERS) else {}
    values = 0
    for _ in range(DEEPEST):
        below: dict[int, tuple[Plain, int]] = {}
        for container, places in level.values():
            assert isinstance(container, _CONTAINERS)
            values += places * (1 + len(container))
            for item in container.values() if isinstance(container, dict) else container:
                if isinstance(item, _CONTAINERS):
                    known = below.get(id(item))
                    below[id(item)] = (item, places + (known[1] if known else 0))
        if values > MOST_VALUES:
            raise InputError(f"holds more than {MOST_VALUES:,} values; {_SMALLER}")
        level = below
        if not level:
            return
    raise InputError(f"is nested deeper than {DEEPEST} levels, which no flight recorder writes; {_AGAIN}")


class _Machine:
    """The stack machine: values, and the outer stacks that a mark has set aside."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        self.stack: list[Plain] = []
        self._outer: list[list[Plain]] = []
        self.memo: dict[int, Plain] = {}

    def run(self) -> Plain:
        for _ in range(MOST_VALUES):
            code = self.byte()
            if code == _STOP:
                return self.stack.pop()
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise self._refusal(code)
            instruction(self)
        raise InputError(f"holds more than {MOST_VALUES:,} values; {_SMALLER}")

    def byte(self) -> int:
        """The next byte; an IndexError, and `at_end`, behind the last one."""
        self._at += 1
        return self._data[self._at - 1]

    def take(self, length: int) -> bytes:
        """The next bytes of the file."""
        found = self._data[self._at : self._at + length]
        if len(found) < length:
            raise _truncated()
        self._at += length
        return found

    def number(self, form: struct.Struct) -> int:
        return int(form.unpack(self.take(form.size))[0])

    def text(self, length: int) -> bytes:
        """A string of this many bytes."""
        if length > len(self._data) - self._at:
            raise _truncated()
        if length > _LONGEST_TEXT:
            raise InputError(f"holds a string of {length:,} bytes, which no flight recorder writes; {_AGAIN}")
        return self.take(length)

    def long(self) -> int:
        length = self.byte()
        if length > _LONGEST_INTEGER:
            raise InputError(f"holds an integer of {length} bytes, which no flight recorder writes; {_AGAIN}")
        return int.from_bytes(self.take(length), "little", signed=True)

    def demand_protocol(self) -> None:
        if self.byte() > pickle.HIGHEST_PROTOCOL:
            raise ValueError

    def skip_frame(self) -> None:
        if self.number(_U8) > len(self._data) - self._at:
            raise _truncated()

    def mark(self) -> None:
        self._outer.append(self.stack)
        self.stack = []

    def marked(self) -> list[Plain]:
        """The values since the last mark."""
        found, self.stack = self.stack, self._outer.pop()
        return found

    def marked_tuple(self) -> None:
        found = self.marked()
        self.stack.append(tuple(found))

    def extend(self, items: list[Plain]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError
        target.extend(items)

    def update(self, items: list[Plain]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError
        for key, value in zip(items[::2], items[1::2], strict=True):
            # The hash of any other key may take a time that grows exponentially, or be chosen to collide. Recorders
            # before version 2 number the process groups.
            if type(key) is not int and type(key) is not str:
                raise InputError(f"has a key of type {type(key).__name__}, as no flight recorder; {_AGAIN}")
            if isinstance(key, int) and not 0 <= key < _LARGEST_KEY:
                raise InputError(f"has a key that is not the number of a process group; {_AGAIN}")
            target[key] = value

    def last(self, count: int) -> list[Plain]:
        """Pop this many values."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def store(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def memorise(self) -> None:
        self.store(len(self.memo))

    def at_end(self) -> InputError | None:
        """The error of a file that ends too early, if this one does."""
        return _truncated() if self._at > len(self._data) else None

    def _refusal(self, code: int) -> InputError:
        """What to say of an instruction that is not admitted."""
        known = pickletools.code2op.get(chr(code))  # type: ignore[attr-defined]
        if known is None:
            return InputError(f"is a malformed pickle; {_AGAIN}")
        if known.name in _IMPORTING:
            names = visible_line(self._imported(known.name))
            return InputError(
                f"asks to import {names}, as a flight recorder never does: do not load it; {_AGAIN}"
            )
        return InputError(
            f"has the pickle instruction {known.name}, which no flight recorder writes: do not load it; {_AGAIN}"
        )

    def _imported(self, instruction: str) -> str:
        if instruction == "STACK_GLOBAL":
            names = [str(one)[:100] for one in self.stack[-2:] if isinstance(one, str)]
        else:
            lines = self._data[self._at : self._at + 400].split(b"\n")[:2]
            names = [line.decode("utf-8", "replace") for line in lines]
        return ".".join(names)[:200] or "a class"


def _truncated() -> InputError:
    return InputError(f"is truncated: it ends in the middle of a value; {_AGAIN}, or leave this rank out")


def _decoded(data: bytes) -> str:
    # C++ strings need not be UTF-8, such as the name of a thread that was cut.
    return data.decode("utf-8", "replace")


_U2, _U4, _U8 = (struct.Struct(form) for form in ("<H", "<I", "<Q"))
_I4, _F8 = struct.Struct("<i"), struct.Struct(">d")
_STOP = ord(".")
_IMPORTING = {"GLOBAL", "STACK_GLOBAL", "INST"}

_Instruction = Callable[[_Machine], None]
# Everything that Python's pickler writes for such values in protocols 2 to 5, and all that torch's writes. The
# instructions that are left out import, call, ask for objects by id, or are of the text protocols 0 and 1.
_INSTRUCTIONS: dict[int, _Instruction] = {
    ord(code): instruction
    for code, instruction in {
        "\x80": _Machine.demand_protocol,
        "\x95": _Machine.skip_frame,
        "N": lambda m: m.stack.append(None),
        "\x88": lambda m: m.stack.append(True),
        "\x89": lambda m: m.stack.append(False),
        "K": lambda m: m.stack.append(m.byte()),
        "M": lambda m: m.stack.append(m.number(_U2)),
        "J": lambda m: m.stack.append(m.number(_I4)),
        "\x8a": lambda m: m.stack.append(m.long()),
        "G": lambda m: m.stack.append(_F8.unpack(m.take(8))[0]),
        "\x8c": lambda m: m.stack.append(_decoded(m.text(m.byte()))),
        "X": lambda m: m.stack.append(_decoded(m.text(m.number(_U4)))),
        "\x8d": lambda m: m.stack.append(_decoded(m.text(m.number(_U8)))),
        "C": lambda m: m.stack.append(m.text(m.byte())),
        "B": lambda m: m.stack.append(m.text(m.number(_U4))),
        "\x8e": lambda m: m.stack.append(m.text(m.number(_U8))),
        "]": lambda m: m.stack.append([]),
        "a": lambda m: m.extend(m.last(1)),
        "e": lambda m: m.extend(m.marked()),
        "}": lambda m: m.stack.append({}),
        "s": lambda m: m.update(m.last(2)),
        "u": lambda m: m.update(m.marked()),
        ")": lambda m: m.stack.append(()),
        "t": _Machine.marked_tuple,
        "\x85": lambda m: m.stack.append(tuple(m.last(1))),
        "\x86": lambda m: m.stack.append(tuple(m.last(2))),
        "\x87": lambda m: m.stack.append(tuple(m.last(3))),
        "(": _Machine.mark,
        "q": lambda m: m.store(m.byte()),
        "r": lambda m: m.store(m.number(_U4)),
        "\x94": _Machine.memorise,
        "h": lambda m: m.stack.append(m.memo[m.byte()]),
        "j": lambda m: m.stack.append(m.memo[m.number(_U4)]),
    }.items()
}
