"""Asks NVML one thing at a time, and keeps what it refused: nothing that could not be read counts as zero."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from runner.base.plain import one_line
from runner.hardware.boards import Board, board_of
from runner.hardware.nvml import NvmlHungError

RefusalKind = Literal["unsupported", "closed", "lost", "reset", "hung", "other"]


@dataclass(frozen=True)
class Refusal:
    """A call that gave no answer.

    Attributes:
        call: the function of NVML.
        of: what it was asked about: `GPU 3`, `GPU 3, NVLink 7`, or empty for the node.
        kind: `unsupported`: this board, driver or virtual machine does not have it. `closed`: no permission. `lost`:
            the GPU fell off the bus. `reset`: it needs a reset first. `hung`: no answer in time.
        text: NVML's message.
    """

    call: str
    of: str
    kind: RefusalKind
    text: str

    def __str__(self) -> str:
        return f"{self.call}{f' ({self.of})' if self.of else ''}: {self.text}"


@dataclass(frozen=True)
class OpenGpu:
    """A GPU that NVML opened.

    Attributes:
        handle: NVML's; valid as long as NVML is initialized.
        board: its row of `hardware.boards`; None for an unknown board.
        bus_id: `0000:1b:00.0`, in the kernel's form; None if it cannot be read.
        mig: split into instances.
    """

    index: int
    handle: Any
    name: str
    board: Board | None
    bus_id: str | None
    mig: bool

    @property
    def where(self) -> str:
        """`GPU 3`."""
        return f"GPU {self.index}"


class NvmlAsker:
    """Asks NVML. A call that does not return is cut off singly and not asked again."""

    def __init__(self, nvml: Any) -> None:
        self.nvml = nvml
        self.refusals: list[Refusal] = []

    def ask(self, call: str, *arguments: object, of: str = "") -> Any:
        """The answer of one call; None if there is none, which `refusals` then explains.

        Args:
            call: the function of pynvml. One that this pynvml does not have counts as unsupported.
            arguments: of the call.
            of: what it is asked about, for the refusal.
        """
        function: Callable[..., Any] | None = getattr(self.nvml, call, None)
        if function is None:
            self._refused(call, of, "unsupported", "this pynvml does not have it")
            return None
        try:
            return function(*arguments)
        except NvmlHungError as error:
            self._refused(call, of, "hung", str(error))
            return None
        except self.nvml.NVMLError as error:
            self._refused(call, of, self._kind(error), str(error))
            return None

    def field(self, handle: Any, number: int, scope: int = 0, *, of: str = "") -> int | None:
        """One whole number of nvmlDeviceGetFieldValues; `scope` is the link, where the field has one."""
        answer = self.ask("nvmlDeviceGetFieldValues", handle, [(number, scope)], of=of)
        if not answer:
            return None
        (found,) = answer
        if found.nvmlReturn != self.nvml.NVML_SUCCESS:
            error = self.nvml.NVMLError(found.nvmlReturn)
            self._refused(f"nvmlDeviceGetFieldValues field {number}", of, self._kind(error), str(error))
            return None
        return _whole(found)

    def fields(
        self, handle: Any, wanted: Sequence[tuple[int, int]], *, of: str = ""
    ) -> dict[tuple[int, int], int]:
        """Many whole numbers of nvmlDeviceGetFieldValues in one call, by (field, scope).

        Those that the board does not have are left out, without a refusal.
        """
        answer = self.ask("nvmlDeviceGetFieldValues", handle, list(wanted), of=of) if wanted else None
        read = {
            pair: _whole(found)
            for pair, found in zip(wanted, answer or (), strict=False)
            if found.nvmlReturn == self.nvml.NVML_SUCCESS
        }
        return {pair: value for pair, value in read.items() if value is not None}

    def refusal(self, call: str, of: str) -> Refusal | None:
        """The newest refusal of this call about this GPU."""
        return next((one for one in reversed(self.refusals) if (one.call, one.of) == (call, of)), None)

    def _kind(self, error: Any) -> RefusalKind:
        nvml = self.nvml
        kinds: dict[int, RefusalKind] = {
            nvml.NVML_ERROR_NOT_SUPPORTED: "unsupported",
            nvml.NVML_ERROR_FUNCTION_NOT_FOUND: "unsupported",
            nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH: "unsupported",
            nvml.NVML_ERROR_NO_PERMISSION: "closed",
            nvml.NVML_ERROR_GPU_IS_LOST: "lost",
            nvml.NVML_ERROR_RESET_REQUIRED: "reset",
        }
        return kinds.get(error.value, "other")

    def _refused(self, call: str, of: str, kind: RefusalKind, text: str) -> None:
        self.refusals.append(Refusal(call, of, kind, one_line(text)))


def open_gpus(asker: NvmlAsker) -> tuple[OpenGpu, ...]:
    """The GPUs that can be opened; the asker's refusals tell of the others, as calls of nvmlDeviceGetHandleByIndex."""
    count = asker.ask("nvmlDeviceGetCount") or 0
    found = []
    for index in range(count):
        of = f"GPU {index}"
        handle = asker.ask("nvmlDeviceGetHandleByIndex", index, of=of)
        if handle is None:
            continue
        name = _text(asker.ask("nvmlDeviceGetName", handle, of=of)) or "unknown"
        place = asker.ask("nvmlDeviceGetPciInfo", handle, of=of)
        mig = asker.ask("nvmlDeviceGetMigMode", handle, of=of)
        bus = None if place is None else kernel_bus_id(_text(place.busId) or "")
        found.append(OpenGpu(index, handle, name, board_of(name), bus, bool(mig and mig[0])))
    return tuple(found)


def kernel_bus_id(nvml: str) -> str:
    """NVML's `00000000:1B:00.0` as the kernel writes it: `0000:1b:00.0`."""
    domain, _, rest = nvml.lower().partition(":")
    return f"{domain[-4:]}:{rest}"


def unopened(refusals: Sequence[Refusal]) -> tuple[Refusal, ...]:
    """The GPUs that could not be opened."""
    return tuple(one for one in refusals if one.call == "nvmlDeviceGetHandleByIndex")


def _whole(field: Any) -> int | None:
    """The value of a field; None if it is no whole number."""
    # nvmlValueType_t.
    names = {1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal"}
    return int(getattr(field.value, names[field.valueType])) if field.valueType in names else None


def _text(value: str | bytes | None) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
