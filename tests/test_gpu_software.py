"""Whether programs can use the GPUs: every way in which they cannot is named with what to do, and no sound node is."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.node.findings import Action, NodeFinding, NodeVerdict
from runner.node.gpu.asking import Refusal
from runner.node.gpu.driver_access import (
    DeviceNode,
    DriverAccess,
    ShadowingLibrary,
    device_nodes,
    read_driver_access,
)
from runner.node.gpu.driver_host import DriverHost, NvidiaDevice
from runner.node.gpu.group import GpuReading, NvmlFailure
from runner.node.gpu.nvml_failure import judge_nvml_failure
from runner.node.gpu.software import judge_software
from runner.node.gpu.software_reading import GpuSoftware, SoftwareFacts
from tests.driver_trees import driver_tree
from tests.nvml import EIGHT_B200, environment
from tests.nvml.boards import FOUR_L40S, HEALTHY, ONE_H200_VM, TWO_4090

BUSES = tuple(f"0000:{0x1B + 8 * index:02x}:00.0" for index in range(8))
MODULES = frozenset({"nvidia", "nvidia_uvm"})
HOST = DriverHost(
    uptime_s=86_400.0,
    modules=MODULES,
    module_version="580.95.05",
    gpus=tuple(NvidiaDevice(bus, "0x2901", "nvidia") for bus in BUSES),
)
NODES = tuple(
    DeviceNode(name) for name in ("nvidiactl", "nvidia-uvm", *(f"nvidia{index}" for index in range(8)))
)
MINORS = {bus: index for index, bus in enumerate(BUSES)}
ACCESS = DriverAccess(
    host=HOST, nodes=NODES, library="580.95.05", minors=MINORS, linked=True, can_create_nodes=True
)
EPERM, EACCES = errno.errorcode[errno.EPERM], errno.errorcode[errno.EACCES]


def gpu(index: int, **more: Any) -> GpuSoftware:
    known: dict[str, Any] = {"persistent": True, "compute_mode": "Default", "vbios": "97.00.88", **more}
    return GpuSoftware(index=index, name="NVIDIA B200", bus_id=BUSES[index], **known)


FACTS = SoftwareFacts(
    gpus=tuple(gpu(index) for index in range(8)),
    unopened=(),
    hung=(),
    driver="580.95.05",
    cuda=13000,
    access=ACCESS,
)


def judged(facts: SoftwareFacts) -> NodeVerdict:
    return judge_software([GpuReading(0.0, facts)])


def only(verdict: NodeVerdict) -> NodeFinding:
    (found,) = verdict.findings
    return found


def refused(kind: Any, text: str = "no", of: str = "GPU 3") -> Refusal:
    return Refusal("nvmlDeviceGetHandleByIndex", of, kind, text)


def denied(*names: str, nodes: tuple[DeviceNode, ...] = NODES) -> tuple[DeviceNode, ...]:
    return tuple(replace(node, refused=EPERM) if node.name in names else node for node in nodes)


def program(tmp_path: Path, board: str, text: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment(tmp_path, board)},
    )
    assert "Traceback" not in done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout or "{}")
    return done.returncode, {"said": done.stderr, **found}


RUN = "import sys; from runner.probes.gpu_state import PROBE; sys.exit(PROBE.main(['--group', 'software']))"
# A host with signs of GPUs, of which the machine that runs the tests has none.
RUN_WITH_SIGNS = f"import runner.hardware.gpus as gpus; gpus._signs_of_gpus = lambda: True; {RUN}"


def probe(tmp_path: Path, board: str) -> tuple[int, dict[str, Any]]:
    return program(tmp_path, board, RUN)


def kinds(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["kind"], one["action"]) for one in document["details"]["findings"]]


@pytest.mark.parametrize("name", HEALTHY)
def test_no_healthy_board_has_a_fault_of_its_software(name: str, tmp_path: Path) -> None:
    status, document = probe(tmp_path, HEALTHY[name][0])
    assert (status, document["details"]["findings"]) == (0, []), document["said"]


@pytest.mark.parametrize("board", [ONE_H200_VM + "virtualization 0 1\n", FOUR_L40S, EIGHT_B200 + "mig 1\n"])
def test_virtual_machines_and_split_gpus_are_sound(board: str, tmp_path: Path) -> None:
    status, document = probe(tmp_path, board)
    assert (status, document["details"]["findings"]) == (0, [])


def test_an_old_board_without_firmware_of_its_own_has_no_such_setting(tmp_path: Path) -> None:
    _, document = probe(tmp_path, EIGHT_B200 + "gsp -\n")
    assert "GSP firmware" not in document["details"]["settings"]


def test_settings_of_the_node_are_counted_where_its_gpus_differ(tmp_path: Path) -> None:
    status, document = probe(tmp_path, EIGHT_B200 + "vbios 4 96.00.68.00.01\npersistence 2 0\ncuda 12080\n")
    assert status == 0
    assert document["details"]["settings"] == {
        "driver": "580.95.05",
        "CUDA of the driver": "12.8",
        "VBIOS": "96.00.A5.00.01 × 7, 96.00.68.00.01 × 1",
        "GSP firmware": "580.95.05",
        "InfoROM": "G520.0200.00.05",
        "persistence mode": "on × 7, off × 1",
        "MIG": "off",
        "compute mode": "Default",
    }
    assert kinds(document) == [("persistence-off", "keep")]


def test_persistence_off_is_no_note_on_a_desktop(tmp_path: Path) -> None:
    _, document = probe(tmp_path, TWO_4090 + "persistence 0 0\npersistence 1 0\n")
    assert document["details"]["findings"] == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("off_bus 3", ("gpu-lost", "drain")),
        ("opening 3 16", ("gpu-needs-reset", "reset")),
        ("opening 3 999", ("gpu-not-opened", "drain")),
        ("compute_mode 3 2", ("compute-mode-prohibited", "restart")),
    ],
)
def test_a_gpu_that_cannot_be_used_is_found_by_a_real_reading(
    line: str, expected: tuple[str, str], tmp_path: Path
) -> None:
    status, document = probe(tmp_path, f"{EIGHT_B200}{line}\n")
    assert (status, kinds(document)) == (1, [expected])
    assert document["details"]["findings"][0]["where"] == "GPU 3"


@pytest.mark.parametrize(
    ("line", "where", "call"),
    [
        ("opening 3 9999", "GPU 3", "nvmlDeviceGetHandleByIndex"),
        ("fail nvmlDeviceGetVbiosVersion 9999", "GPU 0", "nvmlDeviceGetVbiosVersion"),
    ],
)
def test_a_call_that_never_returns_is_named_with_its_gpu(
    line: str, where: str, call: str, tmp_path: Path
) -> None:
    shorter = f"import runner.hardware.nvml as nvml; nvml._limit = lambda name: 1.0; {RUN}"
    status, document = program(tmp_path, f"{EIGHT_B200}{line}\n", shorter)
    assert (status, kinds(document)) == (1, [("nvml-hangs", "drain")])
    (found,) = document["details"]["findings"]
    assert (found["where"], call in found["found"]) == (where, True)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (18, ("driver-library-mismatch", "drain")),
        (999, ("nvml-unknown-error", "drain")),
        (15, ("gpu-lost", "drain")),
        (16, ("gpu-needs-reset", "reset")),
        (9, ("driver-not-loaded", "drain")),
        (4, ("no-permission", "restart")),
        (17, ("blocked-by-system", "restart")),
        (77, ("nvml-fails", "drain")),
        (9999, ("nvml-hangs", "drain")),
    ],
)
def test_an_nvml_that_does_not_start_is_judged_by_its_code(
    code: int, expected: tuple[str, str], tmp_path: Path
) -> None:
    text = (
        "import runner.hardware.nvml as nvml; nvml._limit = lambda name: 1.0; "
        f"from runner.node.gpu.driver_access import DriverAccess; DriverAccess.in_container = False; {RUN_WITH_SIGNS}"
    )
    status, document = program(tmp_path, f"{EIGHT_B200}fail nvmlInit {code}\n", text)
    assert (status, kinds(document)) == (1, [expected])


def test_a_host_without_gpus_is_not_applicable(tmp_path: Path) -> None:
    status, document = probe(tmp_path, EIGHT_B200 + "fail nvmlInit 9\n")
    assert (status, document["reason"]) == (80, "this host has no NVIDIA GPU")


def test_a_driver_that_gives_this_process_no_gpu_is_not_applicable(tmp_path: Path) -> None:
    status, document = probe(tmp_path, EIGHT_B200.replace("count 8", "count 0"))
    assert (status, document["status"]) == (80, "not_applicable")


def failed(code: int | None, access: DriverAccess = ACCESS, text: str = "x") -> NodeFinding:
    return only(judge_nvml_failure(NvmlFailure(code, text), access))


def test_devices_that_a_daemon_reload_took_are_named_and_the_node_is_sound() -> None:
    taken = replace(ACCESS, nodes=denied(*(node.name for node in NODES)))
    found = failed(999, taken)
    assert (found.kind, found.action) == ("device-cgroup-denied", Action.RESTART)
    assert "/dev/nvidiactl and /dev/nvidia-uvm and /dev/nvidia{0-7}" in found.found
    assert "recreate the container" in found.next


def test_a_mismatch_names_both_versions() -> None:
    found = failed(18, replace(ACCESS, library="580.105.08"))
    assert "kernel module is 580.95.05 and the library 580.105.08" in found.found


CONTAINER = replace(ACCESS, host=replace(HOST, whole=False), library="570.133.20")


@pytest.mark.parametrize("code", [12, 18, 999])
def test_in_a_container_a_library_of_its_own_drains_no_node(code: int) -> None:
    found = failed(code, CONTAINER)
    assert (found.action, found.where) == (Action.RESTART, "this process")


def test_in_a_container_versions_that_differ_drain_no_node() -> None:
    found = only(judged(replace(FACTS, access=CONTAINER)))
    assert (found.kind, found.action) == ("driver-library-mismatch", Action.RESTART)


def test_a_missing_library_is_judged_by_where_it_is_missing() -> None:
    text = "NVML Shared Library Not Found"
    assert failed(None, text=text).action is Action.DRAIN
    container = DriverAccess(host=replace(HOST, whole=False))
    assert (failed(None, container, text).kind, failed(None, container, text).action) == (
        "no-gpu-in-container",
        Action.RESTART,
    )
    windows = DriverAccess(host=DriverHost(windows=True))
    assert "/usr/lib/wsl/lib" in failed(None, windows, text).next
    bare = DriverAccess(host=replace(HOST, module_version=None, gpus=(NvidiaDevice("a", "b", "nouveau"),)))
    assert "nouveau holds the GPU" in failed(None, bare, text).found


def test_a_host_that_hands_its_gpus_to_virtual_machines_is_not_applicable() -> None:
    vfio = DriverAccess(host=DriverHost(gpus=(NvidiaDevice("a", "b", "vfio-pci"),)))
    assert judge_nvml_failure(NvmlFailure(9, "x"), vfio).not_applicable


def test_a_sound_node_has_no_finding() -> None:
    verdict = judged(FACTS)
    assert not verdict.findings
    assert not verdict.not_read
    assert verdict.numbers[0].value == 8


@pytest.mark.parametrize(
    "access",
    [
        # Kubernetes' device plugin: one GPU, and only its nodes.
        replace(
            ACCESS,
            host=replace(HOST, whole=False),
            nodes=(DeviceNode("nvidiactl"), DeviceNode("nvidia-uvm"), DeviceNode("nvidia0")),
        ),
        # Slurm's ConstrainDevices: all nodes are there, and the control group denies those of the others.
        replace(ACCESS, nodes=denied(*(f"nvidia{index}" for index in range(1, 8)))),
        # Rootless, without the driver's folder in /proc.
        replace(ACCESS, host=replace(HOST, whole=False), nodes=NODES[:3], minors={}),
        # The whole node's processes are visible, and the container has its marks.
        replace(ACCESS, container=True, minors={}),
        # The other GPUs belong to virtual machines.
        replace(
            ACCESS,
            host=replace(
                HOST,
                gpus=(HOST.gpus[0], *(NvidiaDevice(bus, "0x2901", "vfio-pci") for bus in BUSES[1:])),
            ),
        ),
        # Linux within Windows has no nodes, no module and no PCI devices.
        DriverAccess(host=DriverHost(uptime_s=50.0, windows=True), library="581.80"),
    ],
    ids=["device plugin", "Slurm", "rootless", "shared PID namespace", "vfio", "WSL"],
)
def test_a_part_of_the_gpus_is_no_fault(access: DriverAccess) -> None:
    verdict = judged(replace(FACTS, gpus=FACTS.gpus[:1], access=access))
    assert not verdict.findings


def test_a_gpu_that_the_driver_holds_and_nvml_lacks_is_missing() -> None:
    found = only(judged(replace(FACTS, gpus=FACTS.gpus[:7])))
    assert (found.kind, found.action, found.where) == ("gpu-missing", Action.DRAIN, f"GPU {BUSES[7]}")
    assert "holds 8 GPUs on PCIe, and NVML reports 7" in found.found
    assert only(judged(replace(FACTS, gpus=()))).kind == "gpu-missing"
    # One that cannot be opened is reported once.
    lost = replace(FACTS, gpus=FACTS.gpus[:7], unopened=(refused("lost", of="GPU 7"),))
    assert [one.kind for one in judged(lost).findings] == ["gpu-lost"]


def test_a_gpu_without_a_driver_beside_equal_ones_is_found() -> None:
    host = replace(HOST, gpus=(*HOST.gpus[:7], NvidiaDevice(BUSES[7], "0x2901", None)))
    found = only(judged(replace(FACTS, gpus=FACTS.gpus[:7], access=replace(ACCESS, host=host))))
    assert (found.kind, found.action) == ("gpu-without-driver", Action.DRAIN)
    other = replace(host, gpus=(*HOST.gpus[:7], NvidiaDevice(BUSES[7], "0x1eb8", None)))
    assert not judged(replace(FACTS, gpus=FACTS.gpus[:7], access=replace(ACCESS, host=other))).findings


def test_gpus_that_this_process_may_not_open_are_unknown_only_if_it_has_none() -> None:
    some = judged(replace(FACTS, gpus=FACTS.gpus[:7], unopened=(refused("closed"),)))
    assert not some.findings
    assert not some.not_read[0].matters
    none = judged(replace(FACTS, gpus=(), unopened=(refused("closed"),)))
    assert none.not_read[0].matters


def test_a_control_node_that_is_taken_while_nvml_still_works_is_found() -> None:
    found = only(judged(replace(FACTS, access=replace(ACCESS, nodes=denied("nvidia-uvm")))))
    assert (found.kind, found.action) == ("device-cgroup-denied", Action.RESTART)


def test_the_node_of_unified_memory_matters_where_it_cannot_be_made() -> None:
    without = tuple(node for node in NODES if node.name != "nvidia-uvm")
    lacking = replace(ACCESS, nodes=without)
    assert only(judged(replace(FACTS, access=lacking))).action is Action.KEEP
    lasting = replace(lacking, can_create_nodes=False)
    assert only(judged(replace(FACTS, access=lasting))).action is Action.RESTART


def test_missing_links_are_a_note_where_containers_run() -> None:
    assert not judged(replace(FACTS, access=replace(ACCESS, linked=False))).findings
    busy = replace(ACCESS, linked=False, host=replace(HOST, daemons=frozenset({"containerd"})))
    assert only(judged(replace(FACTS, access=busy))).action is Action.KEEP


def test_versions_that_differ_are_drained() -> None:
    found = only(judged(replace(FACTS, access=replace(ACCESS, library="570.133.20"))))
    assert (found.kind, found.action) == ("driver-library-mismatch", Action.DRAIN)


def test_a_library_that_shadows_the_hosts_is_a_fault_only_where_it_cannot_work() -> None:
    def with_shadow(version: str, name: str = "NVIDIA B200") -> NodeVerdict:
        access = replace(ACCESS, shadow=ShadowingLibrary("/usr/local/cuda/compat", version))
        return judged(
            replace(FACTS, gpus=tuple(replace(one, name=name) for one in FACTS.gpus), access=access)
        )

    assert only(with_shadow("590.48.01")).action is Action.KEEP
    assert only(with_shadow("550.54.15")).action is Action.RESTART
    assert only(with_shadow("590.48.01", "NVIDIA GeForce RTX 4090")).action is Action.RESTART
    assert not with_shadow("580.95.05").findings


def test_the_access_to_the_driver_is_read_from_the_host(tmp_path: Path) -> None:
    tree = driver_tree(
        tmp_path / "host", gpus=dict.fromkeys(BUSES[:2], "nvidia"), minors={BUSES[0]: 0, BUSES[1]: 1}
    )
    dev = tmp_path / "dev"
    compat = tmp_path / "compat"
    for folder in (dev, compat):
        folder.mkdir()
    for name in ("nvidiactl", "nvidia0", "nvidia1", "nvidia-uvm-tools", "nvidia-caps", "null"):
        (dev / name).touch()
    (compat / "libcuda.so.590.48.01").touch()
    (compat / "libcuda.so.1").symlink_to("libcuda.so.590.48.01")
    access = read_driver_access(tree, dev, {"LD_LIBRARY_PATH": f":/nowhere:{compat}:/lib"})
    assert [node.name for node in access.nodes] == ["nvidia0", "nvidia1", "nvidiactl"]
    assert access.minors == {BUSES[0]: 0, BUSES[1]: 1}
    assert access.shadow == ShadowingLibrary(str(compat), "590.48.01")
    assert (access.linked, access.library, access.may_use(BUSES[1])) == (False, None, True)


def test_the_library_is_known_by_its_file(tmp_path: Path) -> None:
    tree = driver_tree(tmp_path)
    (tmp_path / "proc/self").mkdir()
    maps = "7f00-7f01 r-xp 00000000 08:01 42 /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.95.05 (deleted)\n"
    (tmp_path / "proc/self/maps").write_text(maps, encoding="utf-8")
    assert read_driver_access(tree, tmp_path, {}).library == "580.95.05"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open files of any mode")
def test_a_mode_that_forbids_is_told_from_a_control_group(tmp_path: Path) -> None:
    (tmp_path / "nvidiactl").touch(mode=0o000)
    assert device_nodes(tmp_path) == (DeviceNode("nvidiactl", EACCES),)
    assert not DriverAccess(host=HOST, nodes=device_nodes(tmp_path)).denied


@given(st.one_of(st.none(), st.integers(0, 1000)), st.text(max_size=40), st.booleans(), st.booleans())
def test_every_failure_has_a_verdict_with_a_next_step(
    code: int | None, text: str, whole: bool, windows: bool
) -> None:
    host = replace(HOST, whole=whole, windows=windows)
    found = only(judge_nvml_failure(NvmlFailure(code, text), replace(ACCESS, host=host)))
    assert all((found.where, found.found, found.next, found.source))
