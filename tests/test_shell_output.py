"""What `--shell` prints and people paste: a stranger's name, value or path is never a part of what a shell runs."""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from runner.base.plain import visible_line
from runner.base.remedy import Remedy, is_plain, shell_lines, word
from runner.cli.diagnosis_text import as_text
from runner.kit.leftovers.variables import leftovers
from runner.kit.nccl import report
from runner.kit.nccl.settings import NcclSetting, Origin, judge_setting
from runner.kit.probe import OK
from runner.probes import nccl_env, stale_env
from runner.record.diagnosis import diagnose_entry
from tests.builders import a_runbook
from tests.evaluated import Evaluated, evaluate
from tests.test_cli import ROOT
from tests.test_diagnosis import a_result
from tests.test_nccl_sources import job

NONE: Mapping[str, str] = MappingProxyType({})
# Variables without any that a probe would name.
CLEAN = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
TWIN = "NCCL_IB_ROCE_VERSION_NUM"
CODE = "export CUDA_VISIBLE_DEVICES=0"


def printed(probe: str, *words: str, environment: Mapping[str, str] = NONE, cwd: Path | None = None) -> str:
    """What the real program prints with `--shell`."""
    command = [sys.executable, "-m", f"runner.probes.{probe}", *words, "--shell"]
    variables = {**CLEAN, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, env=variables, cwd=cwd, capture_output=True, check=False, timeout=60)
    assert done.returncode == OK, done.stderr
    return done.stdout.decode()


def demand_inert(text: str, environment: Mapping[str, str]) -> list[str]:
    """Evaluate what `--shell` printed in a real bash; the names that it took away and nothing else.

    Then every comment is pasted as if it were a line of shell: one command that is not there, and no more.
    """
    lines = text.split("\n")[:-1]
    assert text.splitlines() == lines
    assert all(line.isprintable() for line in lines)
    code = [line for line in lines if not line.startswith("# by hand: ")]
    names = [line.removeprefix("unset ") for line in code if line != CODE]
    assert all(is_plain(name) for name in names)
    found = evaluate(text, environment)
    assert found.commands == code
    assert (found.same_shell, found.marks, found.not_found) == (True, [], [])
    left = {name: value for name, value in found.before.items() if name not in names}
    assert found.after == (left | {"CUDA_VISIBLE_DEVICES": "0"} if CODE in code else left)
    pasted = [line.removeprefix("# by hand: ") for line in lines if line not in code]
    demand_harmless(evaluate("\n".join(pasted), environment), len(pasted))
    return names


def demand_harmless(pasted: Evaluated, commands: int) -> None:
    assert len(pasted.commands) == len(pasted.not_found) == commands
    assert (pasted.same_shell, pasted.marks, pasted.after) == (True, [], pasted.before)


# What each kind of healthy finding prints, to the letter.


def test_a_plain_variable_is_unset() -> None:
    environment = {"NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1", "NCCL_SOCKET_IFNAME": "eth0"}
    text = printed("nccl_env", "--units", environment=environment)
    assert text == "unset NCCL_P2P_DISABLE\nunset NCCL_SHM_DISABLE\n"
    assert demand_inert(text, environment) == ["NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE"]


def test_leftovers_are_unset_and_several_gpus_are_pinned_to_one() -> None:
    environment = {"WORLD_SIZE": "8", "CUDA_VISIBLE_DEVICES": "0,1", "TORCHELASTIC_RUN_ID": "none"}
    text = printed("stale_env", environment=environment)
    assert text == "unset WORLD_SIZE\nexport CUDA_VISIBLE_DEVICES=0\nunset TORCHELASTIC_RUN_ID\n"
    assert demand_inert(text, environment) == ["WORLD_SIZE", "TORCHELASTIC_RUN_ID"]


def test_files_units_and_sizes_are_one_comment_each(tmp_path: Path) -> None:
    conf, unit, config = (tmp_path / name for name in ("my nccl.conf", "train.service", "serve.yaml"))
    conf.write_text("NCCL_P2P_DISABLE=1\n", encoding="utf-8")
    unit.write_text("[Service]\nEnvironment=NCCL_SHM_DISABLE=1\n", encoding="utf-8")
    config.write_text("model: m\ntp_size: 8\n", encoding="utf-8")
    environment = {"NCCL_CONF_FILE": str(conf)}
    text = printed("nccl_env", "--units", str(tmp_path), environment=environment)
    assert text.splitlines() == [
        f"# by hand: sed -i '/^[[:space:]]*NCCL_P2P_DISABLE[[:space:]]*=/d' -- '{conf}'",
        f"# by hand: remove NCCL_SHM_DISABLE from {unit}, then run systemctl daemon-reload and restart the unit",
    ]
    assert demand_inert(text, environment) == []
    text = printed("stale_env", "--config", str(config))
    assert text == "# by hand: change tp_size to 1 in serve.yaml, line 2\n"


# The attacks.

HOSTILE_NAMES = (
    "NCCL_X\ntouch ran\n",
    "NCCL_X\rtouch ran\r",
    "NCCL_P2P_DISABLE\u2028touch ran\u2028",
    # `unset` evaluates the subscript of a variable that is there.
    f"{TWIN}[$(x)]",
    "NCCL_P2P_DISABL`x`",
    # The first ends what a terminal takes for pasted text.
    "NCCL_P2P_DISABLE \x1b[201~\ntouch ran\n\x1b[200~ ",
    "NCCL_P2P_DISABLe",
)
HOSTILE = dict.fromkeys([*HOSTILE_NAMES, TWIN, "NCCL_SHM_DISABLE"], "1")


def test_a_variable_with_a_hostile_name_is_reported_and_never_code() -> None:
    texts = {
        printed("nccl_env", "--units", environment=HOSTILE): {"NCCL_SHM_DISABLE"},
        printed("stale_env", environment=HOSTILE): {"NCCL_SHM_DISABLE", TWIN},
    }
    for text, unset in texts.items():
        assert set(demand_inert(text, HOSTILE)) == unset
        for name in HOSTILE_NAMES:
            assert f"or start the job with env -u {word(name)}: " in text


def test_what_is_said_of_a_hostile_name_really_takes_it_away() -> None:
    for name in HOSTILE_NAMES:
        command = f"exec env -u {word(name)} env -0"
        done = subprocess.run(
            ["bash", "-c", command], env={**CLEAN, name: "1"}, capture_output=True, check=True
        )
        assert os.fsencode(name) not in done.stdout


@pytest.mark.parametrize("inside", ["NCCL_P2P_DISABLE=1\n", None])
def test_a_file_in_a_folder_with_a_line_break_is_named_in_one_comment(
    inside: str | None, tmp_path: Path
) -> None:
    conf = tmp_path / "d\ntouch ran #" / "nccl.conf"
    if inside:
        conf.parent.mkdir()
        conf.write_text(inside, encoding="utf-8")
    environment = {"NCCL_CONF_FILE": str(conf)}
    text = printed("nccl_env", "--units", environment=environment)
    assert demand_inert(text, environment) == ([] if inside else ["NCCL_CONF_FILE"])
    if inside:
        assert text == f"# by hand: remove line 1 from {word(str(conf))}: it sets NCCL_P2P_DISABLE\n"


def test_a_unit_in_a_folder_with_a_line_break_is_named_in_one_comment(tmp_path: Path) -> None:
    folder = tmp_path / "u\ntouch ran\n'$(touch ran)"
    folder.mkdir()
    (folder / "job.service").write_text(
        '[Service]\nEnvironment=NCCL_P2P_DISABLE=1 "NCCL_SHM_DISABL$(touch ran)E=1"\n', encoding="utf-8"
    )
    text = printed("nccl_env", "--units", str(folder))
    assert demand_inert(text, {}) == []
    assert text.startswith(f"# by hand: remove NCCL_P2P_DISABLE from {word(str(folder / 'job.service'))}, ")


def test_a_configuration_with_a_line_break_in_its_name_is_named_in_one_comment(tmp_path: Path) -> None:
    config = tmp_path / "c\ntouch ran\n.yaml"
    config.write_text("tp_size: 8\n", encoding="utf-8")
    text = printed("stale_env", "--config", str(config))
    assert demand_inert(text, {}) == []
    assert text == r"# by hand: change tp_size to 1 in $'c\x0atouch ran\x0a.yaml', line 1" + "\n"


# GNU sed runs what stands behind `e`, and writes to what stands behind `w`.
SED = (" NCCL_X/e>ran;: ", " NCCL_X/w\tran ", "NCCL_P2P_DISABL/;e>ran;/E", " NCCL_X\\\n/e>ran ")


@pytest.mark.parametrize("name", SED)
def test_a_line_of_a_file_is_never_a_command_of_sed(name: str, tmp_path: Path) -> None:
    conf = tmp_path / "-e 1e>ran"
    conf.write_text(f"NCCL_DEBUG=WARN\n{name}=1\n NCCL_P2P_DISABLE=1\n", encoding="utf-8")
    text = printed("nccl_env", "--units", environment={"NCCL_CONF_FILE": conf.name}, cwd=tmp_path)
    pasted = [line.removeprefix("# by hand: ") for line in text.splitlines()]
    assert sum(line.startswith("sed ") for line in pasted) == 1
    subprocess.run(["bash", "-c", "\n".join(pasted)], cwd=tmp_path, capture_output=True, check=False)
    assert conf.read_text(encoding="utf-8") == f"NCCL_DEBUG=WARN\n{name}=1\n"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("ran")] == []
    demand_harmless(evaluate("\n".join(pasted), {}), len(pasted))


@pytest.mark.host
def test_a_variable_of_another_process_is_never_code(tmp_path: Path) -> None:
    conf = tmp_path / "d\ntouch ran #" / "nccl.conf"
    conf.parent.mkdir()
    conf.write_text("NCCL_P2P_DISABLE=1\n NCCL_X/e>ran;: =1\n", encoding="utf-8")
    theirs = {**HOSTILE, "NCCL_CONF_FILE": str(conf), "WORLD_SIZE": "8"}
    with job(tmp_path, **theirs) as pid:
        texts = [
            printed("nccl_env", "--units", "--running"),
            printed("nccl_env", "--pid", str(pid)),
            printed("stale_env", "--pid", str(pid)),
        ]
    for text in texts:
        # Evaluated in a shell that has the same variables.
        assert demand_inert(text, theirs) == []
        for name in (*HOSTILE_NAMES, "NCCL_SHM_DISABLE"):
            assert f"# by hand: restart process {pid} without {word(name)}: it keeps" in text


NOBODY = 65534


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start another user's process, and read it")
def test_a_process_of_another_user_runs_nothing_as_root(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with tempfile.TemporaryDirectory() as name:
        # A program maps its own file, so a program of this name holds NCCL.
        program = Path(name) / "libnccl.so.2"
        program.write_bytes(Path("/bin/sleep").resolve().read_bytes())
        program.chmod(0o755)
        program.parent.chmod(0o755)
        theirs = {f"NCCL_X\nid > {mark}\n": "1", f"{TWIN}[$(id>{mark})]": "1", TWIN: "1"}
        with subprocess.Popen([str(program), "60"], user=NOBODY, env=theirs) as process:
            try:
                for words in ("--running", f"--pid {process.pid}"):
                    command = f'eval "$({sys.executable} -m runner.probes.nccl_env {words} --shell)"'
                    subprocess.run(["bash", "-c", command], cwd=ROOT, env={**CLEAN, **theirs}, check=True)
                    assert "restart process" in printed("nccl_env", *words.split())
            finally:
                process.kill()
    assert not mark.exists()


# The kind.

PIECES = (
    *("$(touch ran)", "`touch ran`", "\ntouch ran\n", ";touch ran;", "&touch ran&", "|touch ran|", ">ran"),
    *("[$(x)]", "[0]", "${x:=1}", "$((x=1))", "'", '"', "\\", "$'", "#", "!", "!!", "*", "~", "~/", "{a,b}"),
    *("\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029", "\x1b[201~", "\x1b]0;x\x07", "\u202e", "\x7f"),
    *("/", "-", "--", " ", "\t", "\n", "\n#", "# \n", "/e>ran;", "/w ran", "=(x)", "()", "PATH=x ", "%1"),
    *("é", "\udcff", "\xa0", "_", "A", "a", "0", "[[:space:]]", "\\\n", "if ", "{ ", "x", "\N{KELVIN SIGN}"),
)
TEXT = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=6).map("".join)


def _for_system(text: str) -> str:
    """The text as the kernel can hold it: no zero byte, no half of a pair that is no byte."""
    return (
        text.replace("\0", "").encode("utf-8", "replace").decode() if _odd(text) else text.replace("\0", "")
    )


def _odd(text: str) -> bool:
    return any("\ud800" <= one <= "\udfff" and not "\udc80" <= one <= "\udcff" for one in text)


VALUES = TEXT.map(_for_system)
TAILS = VALUES.map(lambda text: text.replace("=", ""))
FILES = VALUES.map(lambda text: os.fsdecode(os.fsencode(text.replace("/", ""))[:200]) or "f").filter(
    lambda name: name not in {".", ".."}
)
NEAR = ("NCCL_P2P_DISABLE", "NCCL_P2P_DISABL", "NCCL_SHM_DISABLE ", TWIN, "NCCL_P2P_LEVEL", "NCCL_X ")
PREFIXES = (*NEAR, "NCCL_", "TORCHELASTIC_", "TORCH_NCCL_", "GLOO_", "WORLD_SIZE", "RANK", "NUM_SHARD")
NAMES = st.builds(
    "".join, st.tuples(st.sampled_from(PREFIXES), TAILS | st.just(""), st.sampled_from(["", "E", "\n", " "]))
)
ENVIRONMENTS = st.dictionaries(NAMES, st.sampled_from(["1", "0", "8", "NVLINK"]) | VALUES, max_size=8)


@contextlib.contextmanager
def within(environment: Mapping[str, str]) -> Iterator[io.StringIO]:
    """This process with that environment, what it prints caught."""
    printed = io.StringIO()
    with (
        patch.dict(os.environ, environment, clear=True),
        patch.object(report, "home_of", lambda _: Path("/nonexistent")),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(io.StringIO()) as said,
    ):
        yield printed
    # What is said is one line a message too, without an escape for the terminal.
    assert all(line.isprintable() for line in said.getvalue().split("\n"))


@examples(max_examples=60)
@given(ENVIRONMENTS, FILES, FILES, st.lists(NAMES, max_size=4), VALUES)
def test_whatever_steers_nccl_evaluates_to_unset_names_alone(
    environment: dict[str, str], folder: str, unit: str, names: list[str], value: str
) -> None:
    with tempfile.TemporaryDirectory() as place:
        conf = Path(place, folder, "nccl.conf")
        conf.parent.mkdir()
        text = "".join(f"{name}=1\n" for name in names).encode("utf-8", "surrogateescape")
        conf.write_bytes(text)
        shown = [f'"{name.translate(str.maketrans("", "", chr(34) + chr(92)))}={value}"' for name in names]
        Path(place, f"{unit}.service").write_bytes(
            ("[Service]\nEnvironment=" + " ".join(shown)).encode("utf-8", "surrogateescape")
        )
        environment = {**environment, "NCCL_CONF_FILE": str(conf)}
        with within(environment) as found:
            assert nccl_env.PROBE.main(["--units", place, "--shell"]) == OK
        unset = demand_inert(found.getvalue(), environment)
    settings = [
        NcclSetting(name, value, "") for name, value in environment.items() if name.startswith("NCCL_")
    ]
    faults = {setting.name for setting in settings if judge_setting(setting, 1).judgement.is_fault}
    assert set(unset) == {name for name in faults if is_plain(name)}
    for name in faults - set(unset):
        assert f"env -u {word(name)}:" in found.getvalue()


@example({}, "%1")
@example({}, "-")
@examples(max_examples=60)
@given(ENVIRONMENTS, FILES)
def test_whatever_a_launch_left_behind_evaluates_to_unset_names_alone(
    environment: dict[str, str], file: str
) -> None:
    with tempfile.TemporaryDirectory() as place:
        config = Path(place, file)
        config.write_text("tp_size: 8\nargs: --tensor-parallel-size=4\n", encoding="utf-8")
        with within(environment) as found:
            assert stale_env.PROBE.main(["--config", str(config), "--shell"]) == OK
    text = found.getvalue()
    unset = demand_inert(text, environment)
    stale = {leftover.name for leftover in leftovers(environment, 2)} - {"CUDA_VISIBLE_DEVICES"}
    assert set(unset) == {name for name in stale if is_plain(name)}
    for name in stale - set(unset):
        assert f"env -u {word(name)}:" in text
    assert f"# by hand: change tp_size to 1 in {word(file)}, line 1\n" in text


@examples(max_examples=60)
@given(
    st.lists(
        st.builds(NcclSetting, NAMES, VALUES, VALUES, st.sampled_from(Origin), line=st.none() | st.just(3)),
        max_size=20,
    )
)
def test_any_setting_of_any_source_has_a_remedy_that_is_inert(found: list[NcclSetting]) -> None:
    remedies = [setting.undo for setting in found]
    lines = shell_lines([r.text for r in remedies if r.is_code], [r.text for r in remedies if not r.is_code])
    demand_inert("".join(f"{line}\n" for line in lines), {setting.name: "1" for setting in found})


@examples(max_examples=60)
@given(st.lists(TEXT, max_size=20), st.lists(TEXT, max_size=20))
def test_a_document_that_anything_wrote_is_evaluated_as_comments(undo: list[str], by_hand: list[str]) -> None:
    lines = shell_lines([*undo, "unset GONE", *(f"unset {text}" for text in undo)], [*by_hand, "unset KEPT"])
    text = "".join(f"{line}\n" for line in lines)
    assert text.splitlines() == lines
    found = evaluate(text, {"GONE": "1", "KEPT": "1"})
    assert set(found.commands) - {f"unset {text}" for text in undo if is_plain(text)} == {"unset GONE"}
    assert (found.same_shell, found.marks, found.not_found) == (True, [], [])
    assert "KEPT" in found.after


@examples(max_examples=60)
@given(st.lists(TEXT, min_size=1, max_size=20))
def test_a_word_is_what_it_was_to_a_shell_and_nothing_more(texts: list[str]) -> None:
    texts = [_for_system(text) for text in texts if not text.startswith("~/")]
    printed = subprocess.run(
        ["/bin/bash", "-c", f"printf '%s\\0' {' '.join(map(word, texts))} ''"],
        capture_output=True,
        check=True,
    ).stdout
    assert printed == b"".join(os.fsencode(text) + b"\0" for text in [*texts, ""])
    # Another shell may know no $'…', and shows it to the letter: no part of it is run there either.
    dashed = subprocess.run(
        ["/bin/sh", "-c", f"printf '%s\\n' {' '.join(map(word, texts))}"],
        env={},
        capture_output=True,
        check=True,
    )
    assert dashed.stderr == b""


# How it is made.


@pytest.mark.parametrize(
    "text",
    [
        "unset A; x",
        "unset A\n",
        "unset 1A",
        "unset a",
        "unset",
        "unset A B",
        " unset A",
        "unset É",
        "export A=1",
    ],
)
def test_code_of_any_other_form_cannot_be_made(text: str) -> None:
    with pytest.raises(ValueError, match="not code that a shell may evaluate"):
        Remedy(text, is_code=True)
    assert shell_lines([text], []) == [f"# by hand: {visible_line(text)}"]


def test_more_than_one_line_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="not one line"):
        Remedy("take this\ntouch ran")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("NCCL_P2P_DISABLE", "NCCL_P2P_DISABLE"),
        ("/etc/nccl.conf", "/etc/nccl.conf"),
        ("~/.nccl.conf", "~/.nccl.conf"),
        ("~/my conf", "~/'my conf'"),
        ("--flag", "--flag"),
        ("A=b", "'A=b'"),
        ("", "''"),
        ("it's", """'it'"'"'s'"""),
        ("a\n'b'\\", r"$'a\x0a\x27b\x27\x5c'"),
        ("\udcff\x85", r"$'\xff\xc2\x85'"),
    ],
)
def test_a_word_is_quoted_where_it_must_be(text: str, shown: str) -> None:
    assert word(text) == shown


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "utf-8"])
def test_a_terminal_without_utf8_gets_escapes_and_no_traceback(encoding: str) -> None:
    environment = {"NCCL_P2P_DISABLE\u2192": "1", "PYTHONIOENCODING": encoding}
    assert printed("nccl_env", "--units", environment=environment).isascii() is (encoding != "utf-8")


def test_what_a_look_prints_as_a_fix_is_code_of_that_form_or_a_comment() -> None:
    said = {
        "undo": ["unset NCCL_P2P_DISABLE", "unset NCCL_X\ntouch ran", "rm -rf x"],
        "by_hand": ["a\r\x1b[2Kb"],
    }
    found = diagnose_entry(
        a_runbook(runbook_id="an-entry", number=7), [a_result("d", "symptom", "x", **said)]
    )
    assert found.fix == (
        "unset NCCL_P2P_DISABLE",
        r"# by hand: unset NCCL_X\ntouch ran",
        "# by hand: rm -rf x",
        r"# by hand: a\r\x1b[2Kb",
    )
    fixes = [line for line in as_text([found], "cpu", 1.0) if "fix:" in line]
    assert fixes == [f"         fix:    {line}" for line in found.fix]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("touch ran", "marks"),
        ("unset 'B[$(touch ran)]'", "marks"),
        ("# x\x85\nnosuch", "not_found"),
        ("f() { :; }", "same_shell"),
        ("export B=2", "after"),
    ],
)
def test_the_bash_that_evaluates_here_sees_what_is_run(text: str, seen: str) -> None:
    found, quiet = (evaluate(one, {"B": "1"}) for one in (text, "# nothing\n"))
    assert getattr(found, seen) != getattr(quiet, seen)
    assert quiet == Evaluated([], [], quiet.before, quiet.before, same_shell=True, marks=[])


def test_with_shell_the_reason_of_a_finding_still_goes_to_standard_error() -> None:
    command = [sys.executable, "-m", "runner.probes.stale_env"]
    variables = {**CLEAN, "PYTHONPATH": str(ROOT), "LOCAL_RANK": "3"}
    plain, shell = (
        subprocess.run([*command, *words], env=variables, capture_output=True, check=False, timeout=60)
        for words in ((), ("--shell",))
    )
    assert b"stale_env: leftover LOCAL_RANK" in shell.stderr
    assert shell.stderr == plain.stderr
