"""Every shell block of every entry, pasted into a shell that has none of this project's programs, does no harm.

The shell is a real bash that sources the block, as a paste does. Its PATH holds a few harmless programs, HOME and the
working folder are empty, and `kill` is switched off, so that nothing of the host can be changed.
"""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from mdit_py_plugins.front_matter import front_matter_plugin

from runner.entry.by_hand import is_shell

RUNBOOKS = Path(__file__).parents[1] / "runbooks"
# None of them changes a file, a process or the host.
HARMLESS = (
    "bash", "basename", "cat", "cut", "date", "dirname", "env", "false", "grep", "head", "id", "ls", "nproc", "printf",
    "seq", "sort", "tail", "timeout", "tr", "true", "uname", "uniq", "wc",
)  # fmt: skip
# What blocks call where it is installed; here each says nothing and succeeds.
SILENT = (
    "python", "python3", "nvidia-smi", "torchrun", "vllm", "nvbandwidth", "all_reduce_perf", "dcgmi", "curl", "kubectl",
    "srun", "systemctl", "dmesg", "ps", "pgrep", "py-spy", "find", "sleep",
)  # fmt: skip
# Variables that inject a fault of an entry, by the beginning of their names.
FAULTS = (
    "NCCL_", "TORCH_NCCL_", "GLOO_", "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_", "TORCHELASTIC_",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_LAUNCH_BLOCKING", "CUDA_VISIBLE_DEVICES", "TORCHDYNAMO_DISABLE",
    "TORCH_COMPILE_DISABLE", "TORCHINDUCTOR_", "PYTORCH_NO_CUDA_MEMORY_CACHING", "TENSOR_PARALLEL_SIZE", "TP_SIZE",
)  # fmt: skip
LEFT_OVER = {
    "NCCL_P2P_DISABLE": "1",
    "WORLD_SIZE": "8",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "CUDA_VISIBLE_DEVICES": "0,1",
}
# What bash itself changes from one command to the next.
OF_BASH = frozenset(
    {"_", "PIPESTATUS", "BASH_REMATCH", "RANDOM", "SRANDOM", "SECONDS", "LINENO", "EPOCHSECONDS", "EPOCHREALTIME"}
    | {"BASH_ARGC", "BASH_ARGV", "BASH_COMMAND", "BASH_LINENO", "BASH_MONOSECONDS", "BASH_SOURCE", "FUNCNAME", "OPTIND"}
)  # fmt: skip
# After the variables: what else a paste may leave in a shell, in the line order of bash.
DRIVER = (
    "enable -n kill\numask 022\nstate() { alias -p; trap -p; umask; ulimit -a; jobs -r; declare -f; }\n"
    'declare -p > "$1"\nstate > "$1.more"\n'
    'source "$2" > /dev/null 2>&1 < /dev/null\n'
    'declare -p > "$3"\nstate > "$3.more"\n'
)
# `declare -x NAME="value"`: the attributes, `-` for none, the name, the value.
VARIABLE = re.compile(r"^declare -(\S+) ([A-Za-z_]\w*)(?:=(.*))?$", re.MULTILINE)
# `PID=4711   # a rank`, `LOG=server.log CONFIG=/models/NAME/config.json`: constants for the reader to replace.
CONSTANT = r"[A-Z][A-Z0-9_]*=(?:\"[^\"$`]*\"|'[^']*'|[\w./:@-]+)"
PLACEHOLDERS = re.compile(rf"^{CONSTANT}(?: {CONSTANT})*\s*(?:#.*)?$")
WRITES_TO_THE_HOST = re.compile(r">\s*/(?!dev/(null|stderr|stdout)\b)")


@dataclass(frozen=True)
class Block:
    """A fenced shell block of an entry: the file's stem, the fence's line, its section, the commands."""

    entry: str
    line: int
    section: str
    text: str

    @property
    def placeholders(self) -> frozenset[str]:
        """Shell variables that it sets, on lines of their own, for the reader to replace."""
        lines = [line for line in self.text.splitlines() if PLACEHOLDERS.match(line)]
        return frozenset(found.partition("=")[0] for line in lines for found in re.findall(CONSTANT, line))


def blocks_of(path: Path) -> list[Block]:
    found: list[Block] = []
    section = ""
    tokens = MarkdownIt("commonmark").use(front_matter_plugin).parse(path.read_text(encoding="utf-8"))
    for place, token in enumerate(tokens):
        if token.type == "heading_open":
            section = tokens[place + 1].content
        if token.type == "fence" and token.map and is_shell(token.info):
            found.append(Block(path.stem, token.map[0] + 1, section, token.content))
    return found


BLOCKS = [block for path in sorted(RUNBOOKS.glob("*.md")) for block in blocks_of(path)]
every_block = pytest.mark.parametrize(
    "block", BLOCKS, ids=[f"{block.entry}-{block.line}-{block.section}" for block in BLOCKS]
)
# A shell without those programs, and one in which each of them says nothing and succeeds.
either_shell = pytest.mark.parametrize("silent", [False, True], ids=["no-programs", "silent-programs"])


@dataclass(frozen=True)
class Shell:
    """A shell to paste into: its programs, its home and working folder, and its environment."""

    place: Path
    silent: bool

    def paste(self, block: Block, **environment: str) -> "Pasted":
        """What the variables of the shell are before and after the block.

        The block is sourced without a terminal, and the shell is ended where it still waits after a minute.
        """
        if WRITES_TO_THE_HOST.search(block.text):
            pytest.fail(f"writes outside the working folder: {block.text}")
        for name in ("bin", "home", "cwd"):
            (self.place / name).mkdir(parents=True)
        for name in HARMLESS:
            program = shutil.which(name)
            assert program, name
            (self.place / "bin" / name).symlink_to(program)
        if self.silent:
            for name in SILENT:
                (self.place / "bin" / name).write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
                (self.place / "bin" / name).chmod(0o755)
        before, source, after = (self.place / name for name in ("before", "block.sh", "after"))
        source.write_text(block.text, encoding="utf-8")
        subprocess.run(
            ["bash", "--noprofile", "--norc", "-c", DRIVER, "bash", str(before), str(source), str(after)],
            env={"PATH": str(self.place / "bin"), "HOME": str(self.place / "home"), "LC_ALL": "C"}
            | environment,
            cwd=self.place / "cwd",
            check=False,
            timeout=60,
        )
        # Without it the block ended the reader's shell.
        ended = not after.exists()
        return Pasted(
            variables(before),
            None if ended else variables(after),
            () if ended else tuple(sorted(set(lines_of(f"{after}.more")) ^ set(lines_of(f"{before}.more")))),
            tuple(
                str(path.relative_to(self.place))
                for name in ("home", "cwd")
                for path in sorted((self.place / name).rglob("*"))
            ),
        )


@dataclass(frozen=True)
class Pasted:
    """What a paste changed.

    Attributes:
        before, after: variables of the shell, each with its attributes and value; `after` is None where the shell was
            ended.
        state: lines of the aliases, traps, limits, jobs and functions that were added, removed or changed.
        files: what is in the home and the working folder, which were empty.
    """

    before: Mapping[str, tuple[str, str]]
    after: Mapping[str, tuple[str, str]] | None
    state: Sequence[str] = ()
    files: Sequence[str] = ()

    @property
    def set_or_changed(self) -> Mapping[str, tuple[str, str]]:
        assert self.after is not None, "it ended the reader's shell"
        return {name: value for name, value in self.after.items() if self.before.get(name) != value}


def lines_of(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


def variables(path: Path) -> dict[str, tuple[str, str]]:
    found = VARIABLE.findall(path.read_text(encoding="utf-8"))
    return {name: (attributes, value) for attributes, name, value in found if name not in OF_BASH}


def harm(pasted: Pasted, placeholders: frozenset[str]) -> list[str]:
    """What a paste did to the shell that it must not: an empty list where it removed variables at most."""
    left = [f"writes {name}" for name in pasted.files]
    if pasted.after is None:
        return ["ends the reader's shell", *left]
    return [*pasted.state, *left] + [
        f"{name}={value} ({attributes})"
        for name, (attributes, value) in pasted.set_or_changed.items()
        if name not in placeholders or "x" in attributes or name in pasted.before
    ]


@either_shell
@every_block
def test_a_pasted_block_sets_and_changes_no_variable_of_the_readers_shell(
    block: Block, silent: bool, tmp_path: Path
) -> None:
    assert harm(Shell(tmp_path, silent).paste(block), block.placeholders) == []


@either_shell
@every_block
def test_a_pasted_block_only_removes_what_a_launch_left_in_the_readers_shell(
    block: Block, silent: bool, tmp_path: Path
) -> None:
    pasted = Shell(tmp_path, silent).paste(block, **LEFT_OVER)
    assert harm(pasted, block.placeholders) == []
    assert pasted.after is not None
    assert {name for name in pasted.after if name.startswith(FAULTS)} <= set(LEFT_OVER)


@either_shell
@every_block
def test_no_pasted_block_leaves_a_fault_set(block: Block, silent: bool, tmp_path: Path) -> None:
    pasted = Shell(tmp_path, silent).paste(block)
    assert pasted.after is not None, "it ended the reader's shell"
    assert [name for name in pasted.after if name.startswith(FAULTS)] == []


def test_every_entry_has_blocks_and_those_by_hand_are_found() -> None:
    assert {block.entry for block in BLOCKS} == {path.stem for path in RUNBOOKS.glob("*.md")}
    assert {block.entry for block in BLOCKS if block.section == "By hand"} == {
        block.entry for block in BLOCKS
    }


@pytest.mark.parametrize("entry", sorted({block.entry for block in BLOCKS}))
def test_the_first_block_by_hand_fits_on_a_phone(entry: str) -> None:
    first = next(block for block in BLOCKS if block.entry == entry and block.section == "By hand")
    lines = first.text.splitlines()
    assert len(lines) <= 8
    assert max(map(len, lines)) <= 76


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("export NCCL_P2P_DISABLE=1\n", ['NCCL_P2P_DISABLE="1" (x)']),
        ('export TP_SIZE=8\neval "$(python -m runner.probes.stale_env --shell)"\n', ['TP_SIZE="8" (x)']),
        ("command -v nvbandwidth || exit 80\n", ["ends the reader's shell"]),
        ("JOB=./train.sh\nexport JOB\n", ['JOB="./train.sh" (x)']),
        ("JOB=$(echo ./train.sh)\n", ['JOB="./train.sh" (-)']),
        ("JOB=./train.sh; echo $JOB\n", ['JOB="./train.sh" (-)']),
        ("HOME=/tmp\n", ['HOME="/tmp" (x)']),
        ("JOB=./train.sh   # yours\nenv NCCL_DEBUG=INFO $JOB\n", []),
        ("true\nLOG=server.log JOB='echo ./train.sh'\n$JOB $LOG\n", []),
        ("( export NCCL_P2P_DISABLE=1 )\n", []),
        ("echo export NCCL_P2P_DISABLE=1 >> ~/.bashrc\n", ["writes home/.bashrc"]),
        ("alias train='NCCL_P2P_DISABLE=1 train'\n", ["alias train='NCCL_P2P_DISABLE=1 train'"]),
        ("trap 'export TP_SIZE=8' EXIT\n", ["trap -- 'export TP_SIZE=8' EXIT"]),
        ("umask 027\n", ["0022", "0027"]),
        ("python3() { true; }\n", ["    true", "python3 () "]),
        ("unset HOME\n", []),
        ("nvidia-smi && export NCCL_ALGO=Ring\n", []),
    ],
)  # fmt: skip
def test_harm_is_seen_where_it_is_done(text: str, found: Sequence[str], tmp_path: Path) -> None:
    block = Block("planted", 1, "Fix", text)
    assert harm(Shell(tmp_path, silent=False).paste(block), block.placeholders) == found


def test_what_a_block_sets_only_where_a_program_is_installed_is_seen_too(tmp_path: Path) -> None:
    block = Block("planted", 1, "Fix", "nvidia-smi && export NCCL_ALGO=Ring\n")
    assert harm(Shell(tmp_path, silent=True).paste(block), frozenset()) == ['NCCL_ALGO="Ring" (x)']


def test_a_changed_shell_option_and_a_changed_folder_are_harm(tmp_path: Path) -> None:
    options = harm(
        Shell(tmp_path / "a", silent=False).paste(Block("planted", 1, "Fix", "set -u\n")), frozenset()
    )
    folder = harm(
        Shell(tmp_path / "b", silent=False).paste(Block("planted", 1, "Fix", "cd /\n")), frozenset()
    )
    assert [line.partition("=")[0] for line in options] == ["SHELLOPTS"]
    assert [line.partition("=")[0] for line in folder] == ["OLDPWD", "PWD"]
