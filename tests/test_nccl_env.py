import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.base.errors import InputError
from runner.kit.nccl import report
from runner.kit.probe import OK, SYMPTOM
from runner.probes.nccl_env import PROBE
from runner.record.documents import read_document
from tests.test_cli import ROOT
from tests.test_nccl_sources import job

main = PROBE.main


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("NCCL_", "RUNBOOK_"))]:
        monkeypatch.delenv(name)
    # NCCL asks the user database up to 2.29, then HOME.
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(report, "home_of", lambda user: tmp_path)
    monkeypatch.setattr(report, "UNIT_FOLDERS", ())


def test_nothing_set_is_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == OK
    assert json.loads(capsys.readouterr().out)["measurements"][0]["value"] == 0


def test_the_leftover_is_the_symptom_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
    assert main([]) == SYMPTOM
    document = json.loads(capsys.readouterr().out)
    assert document["reason"].startswith("NCCL_P2P_DISABLE (environment) is harmful on one node")
    assert document["details"]["undo"] == ["unset NCCL_P2P_DISABLE"]


def test_a_leftover_in_a_file_is_the_symptom_and_left_to_the_reader(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".nccl.conf").write_text("NCCL_P2P_DISABLE=1\n", encoding="utf-8")
    assert main([]) == SYMPTOM
    capsys.readouterr()
    assert main(["--shell"]) == OK
    printed = capsys.readouterr().out
    assert printed.startswith("# by hand: sed -i ")
    assert "~/.nccl.conf" in printed


def test_a_leftover_in_a_unit_file_is_the_symptom_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.service").write_text("[Service]\nEnvironment=NCCL_P2P_DISABLE=1\n", encoding="utf-8")
    assert main(["--units", str(tmp_path)]) == SYMPTOM
    document = json.loads(capsys.readouterr().out)
    assert document["reason"].startswith(f"NCCL_P2P_DISABLE ({tmp_path}/train.service) is harmful")
    assert document["details"]["by_hand"][0].startswith("remove NCCL_P2P_DISABLE from ")
    assert main(["--units"]) == OK


@pytest.mark.parametrize("ask", ["--pid", "--running"])
@pytest.mark.host
def test_a_leftover_in_another_process_is_the_symptom_and_named(
    ask: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with job(tmp_path, NCCL_P2P_DISABLE="1") as pid:
        assert main([ask, str(pid)] if ask == "--pid" else [ask]) == SYMPTOM
    document = json.loads(capsys.readouterr().out)
    assert f"NCCL_P2P_DISABLE (process {pid}) is harmful on one node" in document["reason"]
    assert pid in document["details"]["processes"]


@pytest.mark.host
def test_a_process_is_judged_instead_of_this_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
    with job(tmp_path) as pid:
        assert (main(["--pid", str(pid)]), main([])) == (OK, SYMPTOM)


def test_the_printed_lines_undo_the_fault_in_a_real_shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth0")
    assert main(["--shell"]) == OK
    lines = capsys.readouterr().out
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{lines}\nenv | grep ^NCCL_"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "NCCL_SOCKET_IFNAME=eth0\n"


def test_the_document_of_shell_mode_still_reaches_the_runner(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "result.json"
    monkeypatch.setenv("RUNBOOK_RESULT", str(result))
    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
    assert main(["--shell"]) == OK
    assert json.loads(result.read_text(encoding="utf-8"))["status"] == "symptom"
    assert "{" not in capsys.readouterr().out


def test_two_nodes_make_a_harmless_setting_harmful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_IB_DISABLE", "1")
    assert (main([]), main(["--nodes", "2"])) == (OK, SYMPTOM)


def test_a_value_that_may_name_a_host_is_not_stored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NCCL_COMM_ID", "gpu-node-17.cluster.example:4000")
    assert main([]) == OK
    assert "gpu-node-17" not in capsys.readouterr().out


def test_no_nodes_is_bad_usage() -> None:
    assert main(["--nodes", "0"]) == InputError.exit_status


@pytest.mark.parametrize("value", ["~nosuch/x", "//x", "9" * 100_000])
def test_a_file_of_settings_that_cannot_be_named_is_a_finding_and_no_crash(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NCCL_CONF_FILE", value)
    assert main(["--units"]) == SYMPTOM
    assert "names a file that cannot be read" in json.loads(capsys.readouterr().out)["reason"]


def test_what_could_not_be_read_is_said_and_in_the_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.service").write_text("[Service]\nEnvironmentFile=-\n", encoding="utf-8")
    assert main(["--units", str(tmp_path)]) == OK
    said = capsys.readouterr()
    (line,) = json.loads(said.out)["details"]["unread"]
    assert line.endswith("EnvironmentFile=- is not an absolute path")
    assert f"not read: {line}" in said.err


def test_a_line_break_in_a_path_never_leaves_the_comment_that_a_shell_evaluates(tmp_path: Path) -> None:
    folder = tmp_path / "a\ntouch ran\n"
    folder.mkdir()
    (folder / "job.service").write_text("[Service]\nEnvironment=NCCL_P2P_DISABLE=1\n", encoding="utf-8")
    words = [sys.executable, "-m", "runner.probes.nccl_env", "--shell", "--units", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "remove NCCL_P2P_DISABLE from" in done.stdout
    subprocess.run(["bash", "-c", done.stdout], cwd=tmp_path, check=True)
    assert not (tmp_path / "ran").exists()


def test_a_variable_that_is_no_text_is_judged_and_its_document_is_one(tmp_path: Path) -> None:
    place = tmp_path / "result.json"
    environment = {**os.environb, b"NCCL_\xff": b"\xff", b"RUNBOOK_RESULT": os.fsencode(place)}
    words = [sys.executable, "-m", "runner.probes.nccl_env", "--units"]
    done = subprocess.run(words, env=environment, capture_output=True, check=False, cwd=ROOT)
    assert done.returncode == OK, done.stderr
    document = read_document(place)
    assert document is not None
    assert "NCCL_?" in [finding["name"] for finding in document.model_dump()["details"]["findings"]]
