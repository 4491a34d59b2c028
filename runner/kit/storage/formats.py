"""Formats of checkpoints: how each is saved and loaded, and where in its files the bytes of tensors are."""

import contextlib
import io
import logging
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

State = Mapping[str, "torch.Tensor"]
TENSORS = 8
# Of the local header of a zip file: its fixed part, and where in it the lengths of name and extra field are.
_LOCAL, _LENGTHS = 30, slice(26, 30)


@dataclass(frozen=True)
class ByteRange:
    """Bytes of tensor data in a file: the path within the folder, the first byte, and how many."""

    file: str
    start: int
    length: int


class CheckpointFormat(ABC):
    """One format. A checkpoint is a folder. Attributes: `name`, as in `--format`."""

    name: str

    @abstractmethod
    def save(self, state: State, folder: Path) -> None:
        """Save as its users do, into a folder that exists."""

    @abstractmethod
    def load(self, folder: Path, like: State) -> State:
        """Load the tensors; raises what its users see. `like`: tensors of the same names, shapes and types."""

    @abstractmethod
    def tensor_bytes(self, folder: Path) -> Sequence[ByteRange]:
        """Where the bytes of the tensors are, in a sound folder."""

    def shards(self, folder: Path) -> list[Path]:
        """Its data files, the last one last."""
        return sorted(one for one in folder.iterdir() if one.suffix in {".pt", ".distcp"})


class TorchFormat(CheckpointFormat):
    """One file, by torch.save."""

    name = "torch"

    def save(self, state: State, folder: Path) -> None:
        """Save the state as `state.pt`."""
        import torch

        torch.save(dict(state), folder / "state.pt")

    def load(self, folder: Path, like: State) -> State:
        """Load `state.pt` to the CPU."""
        import torch

        found: State = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        return {name: found[name] for name in like}

    def tensor_bytes(self, folder: Path) -> Sequence[ByteRange]:
        """The records `data/N` of the zip file."""
        return [
            ByteRange("state.pt", start, length)
            for start, length in _records((folder / "state.pt").read_bytes())
        ]


class DcpFormat(CheckpointFormat):
    """Two shards and `.metadata`, by torch.distributed.checkpoint."""

    name = "dcp"

    def save(self, state: State, folder: Path) -> None:
        """Save with two threads, so that there are two shards as of two ranks."""
        from torch.distributed.checkpoint.filesystem import FileSystemWriter
        from torch.distributed.checkpoint.state_dict_saver import save

        with _quiet():
            save(dict(state), storage_writer=FileSystemWriter(folder, thread_count=2), no_dist=True)

    def load(self, folder: Path, like: State) -> State:
        """Load into new tensors on the CPU."""
        import torch
        from torch.distributed.checkpoint.filesystem import FileSystemReader
        from torch.distributed.checkpoint.state_dict_loader import load

        found = {name: torch.empty_like(one, device="cpu") for name, one in like.items()}
        with _quiet():
            load(found, storage_reader=FileSystemReader(folder), no_dist=True)
        return found

    def tensor_bytes(self, folder: Path) -> Sequence[ByteRange]:
        """The records `data/N` of each item that `.metadata` names: an item is a zip file within a shard."""
        from torch.distributed.checkpoint.filesystem import FileSystemReader

        found = []
        for item in FileSystemReader(folder).read_metadata().storage_data.values():
            with (folder / item.relative_path).open("rb") as file:
                file.seek(item.offset)
                content = file.read(item.length)
            found += [
                ByteRange(item.relative_path, item.offset + start, length)
                for start, length in _records(content)
            ]
        return found


FORMATS: Mapping[str, CheckpointFormat] = {one.name: one for one in (TorchFormat(), DcpFormat())}


def checkpoint_state(size: int, seed: int, device: str = "cpu") -> State:
    """Eight float32 tensors of random numbers, of about `size` bytes together; another seed gives other numbers."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    each = max(1, size // TENSORS // 4)
    return {f"layer{number}": torch.rand(each, generator=generator).to(device) for number in range(TENSORS)}


def two_states(size: int, seed: int) -> Sequence[State]:
    """What a drill saves: the first at even steps, the second at odd ones."""
    return checkpoint_state(size, seed), checkpoint_state(size, seed + 1)


def same_state(one: State, other: State) -> bool:
    """Whether two states are equal in every bit."""
    import torch

    if one.keys() != other.keys():
        return False
    pairs = ((one[name].cpu().view(torch.uint8), other[name].cpu().view(torch.uint8)) for name in one)
    return all(torch.equal(left, right) for left, right in pairs)


def loads_as(form: CheckpointFormat, folder: Path, saved: Sequence[State]) -> tuple[bool, bool]:
    """Whether a folder loads without an error, and whether it then is one of the states that were saved."""
    try:
        found = form.load(folder, saved[0])
    # DCP's own exception is no Exception.
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - whatever it is, the job ends with it
        return False, False
    return True, any(same_state(found, one) for one in saved)


def _records(content: bytes) -> Iterator[tuple[int, int]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for one in archive.infolist():
            if one.filename.split("/")[-2:-1] == ["data"] and one.file_size:
                header = content[one.header_offset : one.header_offset + _LOCAL][_LENGTHS]
                skip = int.from_bytes(header[:2], "little") + int.from_bytes(header[2:], "little")
                yield one.header_offset + _LOCAL + skip, one.file_size


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without DCP's warnings and the tracebacks in its log: its exception tells the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
