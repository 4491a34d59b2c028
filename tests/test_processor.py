import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.hardware.processor import Processor, read_processor
from runner.record.redaction.redact import redact_text

CLASS = re.compile(r"cpu-[a-z0-9_-]*[a-z0-9]-\d+c")
V2 = "fpu cx16 lahf_lm pni popcnt sse4_1 sse4_2 ssse3"
V3 = f"{V2} abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"


def x86(name: str, flags: str) -> str:
    return f"processor\t: 0\nvendor_id\t: any\nmodel name\t: {name}\nflags\t\t: {flags}\n"


def arm(*kinds: tuple[str, str], features: str = "fp asimd") -> str:
    return "\n".join(
        f"processor\t: {number}\nFeatures\t: {features}\nCPU implementer\t: {vendor}\nCPU part\t: {part}\n"
        for number, (vendor, part) in enumerate(kinds)
    )


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("AMD EPYC", "amd-epyc"),
        ("AMD EPYC 7B13 64-Core Processor", "amd-epyc-7b13"),
        ("AMD EPYC-Milan Processor", "amd-epyc-milan"),
        ("AMD Ryzen Threadripper PRO 5995WX 64-Cores", "amd-ryzen-threadripper-pro-5995wx"),
        ("Dual-Core AMD Opteron(tm) Processor 2216", "amd-opteron-2216"),
        ("Intel(R) Xeon(R) Processor @ 2.60GHz", "intel-xeon"),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "intel-xeon"),
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "intel-xeon-platinum-8481c"),
        ("Intel(R) Xeon(R) CPU E5-2690 v4 @ 2.60GHz", "intel-xeon-e5-2690-v4"),
        ("13th Gen Intel(R) Core(TM) i7-13700K", "13th-gen-intel-core-i7-13700k"),
        ("QEMU Virtual CPU version 2.5+", "qemu-virtual-version-2-5"),
    ],
)
def test_a_class_names_vendor_and_model_without_marks_cores_and_clock(name: str, slug: str) -> None:
    assert Processor(name, "x86_64", 2).machine_class == f"cpu-{slug}-x86_64-2c"


@pytest.mark.parametrize(
    ("name", "flags", "expected"),
    [
        ("AMD EPYC", V4, "cpu-amd-epyc-x86_64-v4-2c"),
        ("Intel(R) Xeon(R) Processor", f"{V4} amx_bf16 amx_tile amx_int8", "cpu-intel-xeon-x86_64-v4-amx-2c"),
        ("AMD EPYC 7763 64-Core Processor", V3, "cpu-amd-epyc-7763-x86_64-v3-2c"),
        ("Old", V2, "cpu-old-x86_64-v2-2c"),
        ("Older", "fpu sse2", "cpu-older-x86_64-v1-2c"),
        # AVX-512 without what comes before it is no v4.
        ("Odd", f"{V2} avx512f avx512bw avx512cd avx512dq avx512vl", "cpu-odd-x86_64-v2-2c"),
    ],
)
def test_level_and_matrix_extension_follow_from_the_flags(name: str, flags: str, expected: str) -> None:
    assert read_processor(x86(name, flags), "x86_64", 2).machine_class == expected


def test_two_processors_of_one_size_are_two_classes() -> None:
    epyc, xeon = (read_processor(x86(name, V4), "x86_64", 2) for name in ("AMD EPYC", "Intel(R) Xeon(R) CPU"))
    assert epyc.machine_class != xeon.machine_class


@pytest.mark.parametrize(
    ("kinds", "features", "expected"),
    [
        ([("0x41", "0xd4f")] * 2, "asimd sve sve2 i8mm", "cpu-arm-neoverse-v2-aarch64-sve2-i8mm-72c"),
        ([("0x41", "0xd0c")], "fp asimd", "cpu-arm-neoverse-n1-aarch64-asimd-72c"),
        ([("0x46", "0x001")], "asimd sve", "cpu-fujitsu-a64fx-aarch64-sve-72c"),
        ([("0x61", "0x032")], "asimd i8mm sme sme2", "cpu-apple-blizzard-m2-aarch64-asimd-sme2-72c"),
        ([("0x41", "0xfff")], "asimd", "cpu-arm-part-0xfff-aarch64-asimd-72c"),
        ([("0x99", "0x1")], "asimd", "cpu-implementer-0x99-part-0x001-aarch64-asimd-72c"),
        (
            [("0x41", "0xd05"), ("0x41", "0xd0b"), ("0x41", "0xd05")],
            "asimd",
            "cpu-arm-cortex-a55-arm-cortex-a76-aarch64-asimd-72c",
        ),
    ],
)
def test_an_arm_processor_is_named_by_implementer_and_part(
    kinds: list[tuple[str, str]], features: str, expected: str
) -> None:
    assert read_processor(arm(*kinds, features=features), "aarch64", 72).machine_class == expected


@pytest.mark.parametrize(
    "cpuinfo",
    ["", "nonsense", "model name\t:\n", "CPU part\t: 0xd4f\n", "CPU implementer\t: many\nCPU part\t: 1\n"],
)
def test_a_processor_that_does_not_say_what_it_is_is_unknown(cpuinfo: str) -> None:
    found = read_processor(cpuinfo, "aarch64", 8)
    assert (found.name, found.machine_class) == (None, "cpu-unknown-aarch64-8c")


def test_a_name_without_flags_gives_a_class_without_a_level() -> None:
    assert Processor("AMD EPYC", "x86_64", 2).machine_class == "cpu-amd-epyc-x86_64-2c"


@given(st.text(), st.text(), st.text(), st.integers(1, 4096))
def test_whatever_cpuinfo_says_the_class_can_name_a_folder_and_stand_in_a_link(
    name: str, arch: str, rest: str, cores: int
) -> None:
    for found in (
        read_processor(f"model name\t: {name}\n{rest}", arch, cores),
        read_processor(f"CPU implementer: 0x{name}\nCPU part: 0x{rest}", arch, cores),
        Processor(name, arch, cores, rest, rest),
    ):
        assert CLASS.fullmatch(found.machine_class), found.machine_class
        assert len(found.machine_class) <= 100


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "a" * 10_000,
        "Xeon\x00\x1b[31m",
        "<script>alert(1)</script>",
        "\u0130ntel \uff19\uff19 \u216b",
    ],
)
def test_a_hostile_name_stays_within_its_class(name: str) -> None:
    named = read_processor(x86(name, V4), "x86_64", 2).machine_class
    assert CLASS.fullmatch(named)
    assert len(named) <= 100


@pytest.mark.parametrize(
    "name", ["AMD EPYC", "AMD EPYC 9654 96-Core Processor", "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"]
)
def test_redaction_leaves_a_processor_and_its_class_as_they_are(name: str) -> None:
    found = read_processor(x86(name, f"{V4} amx_tile"), "x86_64", 224)
    assert redact_text(name) == name
    assert redact_text(found.machine_class) == found.machine_class
