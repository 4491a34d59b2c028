"""The block stacks that `torch_compile_repro` compiles, by preset, and the memory that they need. Pure."""

from dataclasses import asdict, dataclass

from runner.hardware.machine import Machine
from runner.kit.probe import NotApplicableError


@dataclass(frozen=True)
class StackSize:
    """The stack of a preset. `deadline_s`: seconds, well above the time of a healthy cold compile."""

    blocks: int
    width: int
    heads: int
    hidden: int
    tokens: int
    deadline_s: float

    @property
    def shape(self) -> dict[str, int | str]:
        """The sizes, as arguments of `block_stack.build`."""
        return {name: size for name, size in asdict(self).items() if name != "deadline_s"}


# 40b and 70b are above the 40e9 parameters that the entry mentions (40.4e9 and 70.0e9).
SIZES = {
    "tiny": StackSize(2, 64, 4, 128, 32, 180),
    "8b": StackSize(32, 4096, 32, 14336, 2048, 900),
    "40b": StackSize(50, 8192, 64, 22016, 2048, 1800),
    "70b": StackSize(72, 8192, 64, 28672, 2048, 1800),
}
# Activations, the compiler's allocations and the CUDA context add to the weights.
_HEADROOM = 1.1


def parameters(shape: dict[str, int | str]) -> int:
    """Parameters of the stack: per block 4·width² for attention, 3·width·hidden for the network, 2·width for norms."""
    width, hidden, blocks = (int(shape[key]) for key in ("width", "hidden", "blocks"))
    return blocks * (4 * width**2 + 3 * width * hidden + 2 * width)


def memory(shape: dict[str, int | str], *, backward: bool) -> float:
    """Bytes that a child needs: the weights; with `backward`, the gradients of both runs and eager's activations too.

    Autograd keeps 9 values of the width per token and block (inputs and outputs of the norms, queries, keys, values and
    the mixed heads) and 4 of the hidden width (gate, up, the activated gate and the product).
    """
    element = 2 if shape["device"] == "cuda" else 4
    held = parameters(shape)
    if backward:
        width, hidden, tokens, blocks = (int(shape[key]) for key in ("width", "hidden", "tokens", "blocks"))
        held = 3 * held + blocks * tokens * (9 * width + 4 * hidden)
    return held * element * _HEADROOM


def check_memory(machine: Machine, shape: dict[str, int | str], *, alone: bool, backward: bool) -> None:
    """Refuse a stack that the first device of this host cannot hold.

    Args:
        machine: this host.
        shape: the arguments of `block_stack.build`.
        alone: whether only one block is allocated.
        backward: whether gradients are computed.

    Raises:
        NotApplicableError: it does not fit.
    """
    built = shape | {"blocks": 1} if alone else shape
    held, needed = parameters(built), memory(built, backward=backward)
    there = machine.gpus[0].memory_bytes if shape["device"] == "cuda" else machine.memory_bytes
    if needed > there:
        work = f"{held / 1e9:.1f}e9 parameters{' with a backward pass' if backward else ''}"
        raise NotApplicableError(
            f"{work} need {needed / 2**30:.0f} GiB on one device, which has {there / 2**30:.0f}; choose a smaller"
            " --preset or --blocks, or --compile-mode per-block"
        )
