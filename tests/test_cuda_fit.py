"""Which GPU runs which code: architecture lists of real builds of torch against the capabilities of real GPUs."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.errors import InputError
from runner.hardware.cuda_code import CodeFit, CudaTarget, fit, parse_capability, parse_targets
from runner.kit.cuda_fit import _neighbours, listed_targets
from runner.node.findings import Action
from runner.node.gpu.cuda_build import BuildFacts, BuildGpu, CodePackage, judge_build
from tests.nvml import EIGHT_B200, environment

# torch 2.6.0+cu118 prints this list; 2.11+cu126 and 2.10+cu128 are those of pytorch #182250 (2026-05); 2.7+cu128 and
# cu130 are TORCH_CUDA_ARCH_LIST of pytorch's .ci/manywheel (2025-04, 2026).
CU118 = "['sm_50', 'sm_60', 'sm_70', 'sm_75', 'sm_80', 'sm_86', 'sm_37', 'sm_90']"
CU126 = "['sm_50', 'sm_60', 'sm_70', 'sm_75', 'sm_80', 'sm_86', 'sm_90']"
CU128 = "['sm_70', 'sm_75', 'sm_80', 'sm_86', 'sm_90', 'sm_100', 'sm_120']"
CU128_FIRST = "7.5;8.0;8.6;9.0;10.0;12.0+PTX"
CU130 = "7.5;8.0;8.6;9.0;10.0;12.0+PTX"
CU130_ARM = "8.0;9.0;10.0;11.0;12.0+PTX"


def words(text: str) -> list[str]:
    return text.translate(str.maketrans("[]',;", "     ")).split()


def found(text: str, capability: str) -> tuple[str, str | None]:
    best = fit(parse_capability(capability), parse_targets(words(text)))
    return best.how, None if best.by is None else str(best.by)


@pytest.mark.parametrize("build", [CU118, CU126])
def test_builds_before_cuda_12_8_run_on_hopper_and_not_on_blackwell(build: str) -> None:
    assert found(build, "9.0") == ("exact", "sm_90")
    for capability in ("10.0", "10.3", "12.0"):
        assert found(build, capability) == ("none", None)


@pytest.mark.parametrize("build", [CU128, CU128_FIRST, CU130, CU130_ARM])
def test_builds_from_cuda_12_8_on_run_on_hopper_and_blackwell(build: str) -> None:
    assert found(build, "9.0") == ("exact", "sm_90")
    assert found(build, "10.0") == ("exact", "sm_100")
    assert found(build, "10.3") == ("compatible", "sm_100")
    assert found(build, "12.0") == ("exact", "sm_120")
    assert found(build, "12.1") == ("compatible", "sm_120")


def test_new_builds_dropped_old_gpus() -> None:
    assert found(CU128, "7.0") == ("exact", "sm_70")
    assert found(CU130, "7.0") == ("none", None)
    assert found(CU118, "3.7") == ("exact", "sm_37")
    assert found(CU126, "8.9") == ("compatible", "sm_86")


@pytest.mark.parametrize(
    ("build", "capability", "expected"),
    [
        ("sm_90a", "9.0", ("exact", "sm_90a")),
        ("sm_90a", "10.0", ("none", None)),
        ("sm_100a", "10.0", ("exact", "sm_100a")),
        ("sm_100a", "10.3", ("none", None)),
        ("sm_100f", "10.3", ("compatible", "sm_100f")),
        ("sm_100f", "12.0", ("none", None)),
        ("sm_103f", "10.0", ("none", None)),
        ("compute_90", "10.0", ("jit", "compute_90")),
        ("compute_90a", "10.0", ("none", None)),
        ("compute_90a", "9.0", ("jit", "compute_90a")),
        ("compute_100f", "10.3", ("jit", "compute_100f")),
        ("compute_100f", "12.0", ("none", None)),
        ("compute_120", "10.0", ("none", None)),
        ("sm_80 compute_90", "9.0", ("jit", "compute_90")),
        ("sm_90 compute_80", "9.0", ("exact", "sm_90")),
        ("sm_86", "8.0", ("none", None)),
        ("sm_80", "8.7", ("none", None)),
        ("sm_101", "11.0", ("exact", "sm_101")),
        ("", "9.0", ("none", None)),
    ],
)
def test_suffixes_ptx_and_minor_versions(
    build: str, capability: str, expected: tuple[str, str | None]
) -> None:
    how, by = found(build, capability)
    assert by == expected[1]
    assert (how != "none") == (expected[0] != "none")
    if build != "sm_101":
        assert how == expected[0]


def test_the_rules_are_those_of_torch() -> None:
    cuda = pytest.importorskip("torch.cuda")
    table = getattr(cuda, "DEVICE_REQUIREMENT", None)
    if table is None:
        pytest.skip("this torch has no such table")
    for code in table:
        target = CudaTarget("sm", divmod(code, 10))
        for device in table:
            assert target.runs_on(divmod(device, 10)) == (device in table[code]), (code, device)


@given(st.text(max_size=30))
def test_no_word_breaks_the_parser(word: str) -> None:
    with contextlib.suppress(InputError):
        parse_targets([word])


@given(
    st.integers(1, 20), st.integers(0, 9), st.sampled_from(["", "a", "f"]), st.sampled_from(["sm", "compute"])
)
def test_targets_are_written_as_they_are_read(major: int, minor: int, suffix: str, kind: Any) -> None:
    target = CudaTarget(kind, (major, minor), suffix)
    assert parse_targets([str(target)]) == (target,)
    assert target.runs_on((major, minor))


def facts(build: str = CU128, **more: Any) -> BuildFacts:
    known: dict[str, Any] = {
        "packages": (CodePackage("torch", "2.10.0", parse_targets(words(build))),),
        "gpus": tuple(BuildGpu(index, "NVIDIA B200", (10, 0), launched=True) for index in range(8)),
        "cuda": (12, 8),
        "driver_cuda": (13, 0),
        **more,
    }
    return BuildFacts(**known)


def test_a_fitting_build_has_no_finding_and_is_measured() -> None:
    verdict = judge_build(facts())
    assert not verdict.findings
    numbers = {(one.metric, dict(one.labels).get("gpu")): one.value for one in verdict.numbers}
    assert numbers["gpus_without_code", None] == 0
    assert numbers["kernel_launched", 7] == 1
    assert numbers["toolkit_is_driver_cuda", None] == 0


def test_an_extension_that_is_older_than_its_torch_is_named() -> None:
    old = CodePackage("flash_attn", "2.5.0", parse_targets(["sm_80", "sm_90"]))
    (one,) = judge_build(facts(packages=(*facts().packages, old))).findings
    assert (one.kind, one.action, one.where) == ("no-code-for-gpu", Action.RESTART, "flash_attn 2.5.0")
    assert "TORCH_CUDA_ARCH_LIST=10.0" in one.next


def test_an_extension_that_cannot_be_read_is_unknown_and_no_fault() -> None:
    unknown = CodePackage("vllm", "0.12.0", None, "no cuobjdump")
    verdict = judge_build(facts(packages=(*facts().packages, unknown)))
    assert not verdict.findings
    assert "vllm" in str(verdict.not_read[0])


def test_code_that_the_driver_has_to_compile_is_a_note_and_a_fault_if_it_cannot() -> None:
    (note,) = judge_build(facts("sm_80 compute_90")).findings
    assert (note.kind, note.action) == ("ptx-only", Action.KEEP)
    (fault,) = judge_build(facts("sm_80 compute_90", cuda=(12, 8), driver_cuda=(12, 4))).findings
    assert (fault.kind, fault.action) == ("ptx-only", Action.RESTART)
    assert "error 222" in fault.found


def test_a_driver_of_an_older_major_version_is_too_old_and_of_an_older_minor_is_not() -> None:
    assert [one.kind for one in judge_build(facts(cuda=(13, 0), driver_cuda=(12, 8))).findings] == [
        "driver-too-old"
    ]
    assert not judge_build(facts(cuda=(12, 8), driver_cuda=(12, 4))).findings
    assert not judge_build(facts(driver_cuda=None)).findings


def test_a_kernel_that_fails_is_a_finding_of_its_own() -> None:
    broken = tuple(BuildGpu(index, "NVIDIA B200", (10, 0), launched=index != 3) for index in range(8))
    (one,) = judge_build(facts(gpus=broken)).findings
    assert (one.kind, one.where) == ("kernel-not-launched", "GPU 3")


# Lines as cuobjdump of CUDA 12.8 prints them, written anew.
LISTING = """\
ELF file    1: flash_api.1.sm_80.cubin
ELF file    2: flash_api.2.sm_90a.cubin
PTX file    1: flash_api.1.sm_90.ptx
No PTX file found to extract
"""


def test_the_output_of_cuobjdump_is_read() -> None:
    assert set(map(str, listed_targets(LISTING))) == {"sm_80", "sm_90a", "compute_90"}
    assert listed_targets("cuobjdump info    : File has no device code\n") == ()


def test_packages_beside_torch_are_read_with_the_tool_and_unknown_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "flash_attn-2.8.3.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: flash_attn\nVersion: 2.8.3\n", encoding="utf-8"
    )
    (folder / "RECORD").write_text("flash_attn_2_cuda.so,,\nflash_attn/__init__.py,,\n", encoding="utf-8")
    (tmp_path / "flash_attn_2_cuda.so").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (unknown,) = _neighbours()
    assert (unknown.name, unknown.version, unknown.targets) == ("flash_attn", "2.8.3", None)
    tool = tmp_path / "bin" / "cuobjdump"
    tool.parent.mkdir()
    tool.write_text(
        f"#!/bin/sh\n[ $1 = --list-elf ] && echo '{LISTING.splitlines()[0]}'\nexit 0\n", encoding="utf-8"
    )
    tool.chmod(0o755)
    (read,) = _neighbours()
    assert read.targets == parse_targets(["sm_80"])


def probe(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, "-m", "runner.probes.cuda_fit", *arguments],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def test_a_pasted_pair_is_judged_without_a_gpu() -> None:
    status, document, said = probe("--arch-list", CU126, "--capability", "10.0")
    assert (status, document["effective"]["source"]) == (1, "pasted")
    assert "no code for 10.0" in said
    assert (
        probe("--arch-list", CU130, "--capability", "10.0", "--cuda", "13.0", "--driver-cuda", "13.0")[0] == 0
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("--arch-list", "sm_90"),
        ("--capability", "9.0"),
        ("--arch-list", "gfx942", "--capability", "9.0"),
        ("--arch-list", "sm_90", "--capability", "nine"),
        ("--arch-list", " [] ", "--capability", "9.0"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments: tuple[str, ...]) -> None:
    status, document, said = probe(*arguments)
    assert (status, document, said.count("\n")) == (2, {}, 1)


def test_a_torch_without_cuda_beside_gpus_is_named(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.version.cuda or torch.version.hip:
        pytest.skip("this torch is built for GPUs")
    status, document, _ = probe(env=environment(tmp_path, EIGHT_B200))
    assert status == 1
    assert document["details"]["findings"][0]["kind"] == "build-without-cuda"
    assert document["effective"]["simulated"] is True


def test_the_best_code_is_the_newest_machine_code() -> None:
    targets = parse_targets(["sm_80", "sm_86", "compute_89"])
    assert fit((8, 9), targets) == CodeFit("compatible", targets[1])
