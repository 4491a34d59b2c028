"""What depends on the NCCL version: the home of its file, how it reads that file, and how the version is found."""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest

from runner.kit.nccl.names import Version
from runner.kit.nccl.settings import judge_setting
from runner.kit.nccl.sources import Found, homes, parse_conf, read_own, read_process
from runner.kit.nccl.version import installed_version, loaded_version
from tests.test_nccl_sources import job, of

NAMED_BY_HOME, OF_THE_USER = "NCCL_ALGO", "NCCL_PROTO"


@pytest.fixture
def two_homes(tmp_path: Path) -> tuple[Path, Path]:
    """Another user's home, as HOME names it under `sudo -E`, and the home in the user database."""
    for name, line in (("named", f"{NAMED_BY_HOME}=Ring\n"), ("own", f"{OF_THE_USER}=LL\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".nccl.conf").write_text(line, encoding="utf-8")
    return tmp_path / "named", tmp_path / "own"


def found_in(places: tuple[Path, Path], version: Version | None, **environment: str) -> Found:
    return read_own({"HOME": str(places[0]), **environment}, places[1], version)


@pytest.mark.parametrize(
    ("version", "names"),
    [((2, 29), {OF_THE_USER}), ((2, 30), {NAMED_BY_HOME}), (None, {NAMED_BY_HOME, OF_THE_USER})],
)
def test_the_home_is_the_one_in_which_the_version_looks(
    two_homes: tuple[Path, Path], version: Version | None, names: set[str]
) -> None:
    assert set(of(found_in(two_homes, version).settings)) == names


def test_a_setting_that_one_version_would_use_is_not_called_overridden_by_that_of_another(
    two_homes: tuple[Path, Path],
) -> None:
    for home in two_homes:
        (home / ".nccl.conf").write_text("NCCL_P2P_DISABLE=1\n", encoding="utf-8")
    found = found_in(two_homes, None).settings
    assert [judge_setting(setting, 1).judgement.is_fault for setting in found] == [True, True]
    set_before = found_in(two_homes, None, NCCL_P2P_DISABLE="0").settings
    assert [judge_setting(setting, 1).judgement.is_fault for setting in set_before] == [False, False, False]


def test_a_shell_finds_the_file_that_is_shown(two_homes: tuple[Path, Path]) -> None:
    assert {setting.source for setting in found_in(two_homes, None).settings} == {
        "~/.nccl.conf",
        f"{two_homes[1]}/.nccl.conf",
    }


def test_without_home_only_older_versions_have_a_file_of_the_user(tmp_path: Path) -> None:
    assert homes(None, tmp_path, (2, 30)) == homes("", tmp_path, (2, 30)) == ()
    assert homes(None, tmp_path, (2, 29)) == homes(None, tmp_path, None) == (tmp_path,)
    assert homes(str(tmp_path), tmp_path, None) == (tmp_path,)


def test_a_file_is_named_by_a_variable_from_2_23_on(two_homes: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "x.conf").write_text("NCCL_BUFFSIZE=1\n", encoding="utf-8")
    named = {"NCCL_CONF_FILE": str(tmp_path / "x.conf")}
    assert "NCCL_BUFFSIZE" in of(found_in(two_homes, (2, 23), **named).settings)
    before = found_in(two_homes, (2, 22), **named).settings
    assert OF_THE_USER in of(before)
    assert "NCCL_BUFFSIZE" not in of(before)
    assert judge_setting(before[0], 1, (2, 22)).why.startswith("no effect: NCCL 2.22 does not read it")


def test_a_tilde_in_the_name_of_a_file_is_said_not_to_be_expanded(two_homes: tuple[Path, Path]) -> None:
    for version in (None, (2, 29), (2, 30)):
        named, *_ = found_in(two_homes, version, NCCL_CONF_FILE="~/.nccl.conf").settings
        assert judge_setting(named, 1).why.endswith("it does not expand ~: write the whole path")


def test_lines_of_windows_are_read_from_2_30_on() -> None:
    text = "NCCL_P2P_LEVEL=NVL\r\n"
    assert of(parse_conf(text, "f", (2, 30))) == {"NCCL_P2P_LEVEL": "NVL"}
    for version in (None, (2, 29)):
        assert of(parse_conf(text, "f", version)) == {"NCCL_P2P_LEVEL": "NVL\r"}


@pytest.mark.host
@pytest.mark.parametrize(
    ("name", "package", "version"),
    [
        ("libnccl.so.2.27.7", None, (2, 27)),
        ("libnccl.so.2", "nvidia_nccl_cu13-2.30.7.dist-info", (2, 30)),
        ("libnccl.so.2", "nvidia_nccl_cu12-2.26.2.post1.dist-info", (2, 26)),
        ("libnccl.so.2", None, None),
        ("libnccl.so.2", "nvidia_nccl_cu12-x.dist-info", None),
    ],
)
def test_the_version_of_a_job_is_told_by_its_library_or_by_the_package_that_holds_it(
    name: str, package: str | None, version: Version | None, tmp_path: Path
) -> None:
    library = tmp_path / "nvidia" / "nccl" / "lib" / name
    library.parent.mkdir(parents=True)
    if package:
        (tmp_path / package).mkdir()
    with job(library.parent, name, NCCL_P2P_DISABLE="1") as pid:
        assert loaded_version(Path("/proc", str(pid))) == version
        assert read_process(pid).version == version


@pytest.mark.host
def test_a_job_is_read_with_the_home_that_its_version_looks_in(two_homes: tuple[Path, Path]) -> None:
    """The user database of this host is real, so a job with 2.30 tells by HOME alone."""
    with job(two_homes[0], "libnccl.so.2.30.7", HOME=str(two_homes[0])) as pid:
        assert NAMED_BY_HOME in of(read_process(pid).settings)
    with job(two_homes[0], "libnccl.so.2.29.7", HOME=str(two_homes[0])) as pid:
        assert NAMED_BY_HOME not in of(read_process(pid).settings)


def test_a_process_without_nccl_has_no_version() -> None:
    assert loaded_version(Path("/proc/self")) is None
    assert loaded_version(Path("/proc/99999999")) is None


@pytest.mark.parametrize(
    ("packages", "version"),
    [
        ({}, None),
        ({"nvidia-nccl-cu13": "2.28.9"}, (2, 28)),
        ({"nvidia-nccl-cu12": "2.26.2.post1"}, (2, 26)),
        ({"nvidia-nccl-cu12": "2.26.2", "nvidia-nccl-cu13": "2.28.9"}, None),
        ({"nvidia-nccl-cu12": "unknown"}, None),
    ],
)
def test_the_version_of_this_python_is_that_of_its_package(
    packages: Mapping[str, str], version: Version | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(name: str) -> str:
        if name not in packages:
            raise metadata.PackageNotFoundError(name)
        return packages[name]

    monkeypatch.setattr(metadata, "version", held)
    assert installed_version() == version


def test_a_package_without_a_version_is_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    # As importlib answers for a package whose metadata were lost.
    monkeypatch.setattr(metadata, "version", lambda _: None)
    assert installed_version() is None
