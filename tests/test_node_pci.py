"""The PCI tree of a host: links that are narrower than both ends, processes on the far NUMA node, ACS, errors."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.errors import InputError
from runner.node.findings import Action, NodeFinding, NodeVerdict
from runner.node.host.capture import CapturingTree
from runner.node.host.pci import GROUP
from runner.node.host.pci_config import access_control
from runner.node.host.tree import REFUSED, HostTree
from tests import pci_trees as trees
from tests.pci_trees import GEN1, GEN4, PciTree

ROOT = Path(__file__).parents[1]
HEALTHY = {
    "eight H100 on switches": trees.switched,
    "eight B200 with management adapters": trees.hgx_b200,
    "four L40S": trees.cards,
    "a desktop with a slot of eight lanes": trees.desktop,
    "a laptop that switches lanes off": trees.laptop,
    "a virtual machine with one GPU": trees.one_gpu_vm,
    "AWS p5 with EFA": trees.aws_p5,
}
# The first GPU of `trees.switched`, the port above it, the uplink of their switch, and the adapter beside it.
GPU, PORT, UPLINK, ROOT_PORT, NIC = (
    "0000:13:00.0",
    "0000:12:00.0",
    "0000:11:00.0",
    "0000:10:01.0",
    "0000:14:00.0",
)


def judged(tree: PciTree, pid: int | None = None) -> NodeVerdict:
    return GROUP.judge(GROUP.read(HostTree(tree.root, pid)))


def only(verdict: NodeVerdict) -> NodeFinding:
    (found,) = verdict.faults
    return found


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_host_has_no_fault_and_nothing_unknown_that_matters(name: str, tmp_path: Path) -> None:
    verdict = judged(HEALTHY[name](tmp_path))
    assert not verdict.faults
    assert not [one for one in verdict.not_read if one.matters]
    assert verdict.not_applicable is None
    assert verdict.judged


@pytest.mark.parametrize("name", ["eight H100 on switches", "four L40S"])
def test_a_healthy_server_has_no_note_either(name: str, tmp_path: Path) -> None:
    assert not judged(HEALTHY[name](tmp_path)).findings


def test_a_host_without_an_nvidia_gpu_is_not_judged(tmp_path: Path) -> None:
    assert "no NVIDIA GPU" in (judged(PciTree(tmp_path)).not_applicable or "")


def test_a_gpu_that_was_given_to_a_virtual_machine_is_not_judged(tmp_path: Path) -> None:
    tree = trees.one_gpu_vm(tmp_path)
    driver = tmp_path / "sys/bus/pci/devices/0000:00:05.0/driver"
    driver.unlink()
    driver.symlink_to("../../../../bus/pci/drivers/vfio-pci")
    assert judged(tree).not_applicable


def test_a_gpu_with_half_of_its_lanes_drains_the_node(tmp_path: Path) -> None:
    tree = trees.switched(tmp_path)
    tree.set(GPU, current_link_width="8")
    tree.set(PORT, current_link_width="8")
    found = only(judged(tree))
    assert (found.kind, found.action, found.where) == ("pcie-link-narrow", Action.DRAIN, f"GPU {GPU}")
    assert f"{PORT} to {GPU} runs x8, both ends can do x16" in found.found
    assert "reseat" in found.next


def test_a_narrow_uplink_is_found_at_the_bridge_and_names_all_that_it_slows_down(tmp_path: Path) -> None:
    tree = trees.switched(tmp_path)
    for address in (ROOT_PORT, UPLINK):
        tree.set(address, current_link_width="8")
    found = only(judged(tree))
    assert f"{ROOT_PORT} to {UPLINK} runs x8" in found.found
    assert found.where == f"GPU {GPU} and 1 more below the link"


def test_a_narrow_uplink_of_a_switch_below_a_switch_is_found(tmp_path: Path) -> None:
    tree = PciTree(tmp_path)
    path = ("0000:10:01.0", "0000:11:00.0", "0000:12:00.0", "0000:13:00.0", "0000:14:00.0", "0000:15:00.0")
    for end in range(1, len(path)):
        tree.device(
            *path[:end], kind=trees.BRIDGE, vendor="0x1000", width=(4, 16) if end in {3, 4} else (16, 16)
        )
    tree.device(*path, kind=trees.SERVER_GPU, driver="nvidia")
    assert "0000:12:00.0 to 0000:13:00.0 runs x4" in only(judged(tree)).found


def test_an_idle_gpu_at_generation_1_is_no_fault_and_a_slow_uplink_is(tmp_path: Path) -> None:
    tree = trees.switched(tmp_path)
    assert not judged(tree).faults
    for address in (ROOT_PORT, UPLINK):
        tree.set(address, current_link_speed=GEN4)
    found = only(judged(tree))
    assert (found.kind, found.action) == ("pcie-link-slow", Action.DRAIN)
    assert "runs at 16 GT/s, both ends can do 32" in found.found


def test_an_adapter_at_generation_1_is_a_fault(tmp_path: Path) -> None:
    tree = trees.switched(tmp_path)
    for address in ("0000:12:01.0", NIC):
        tree.set(address, current_link_speed=GEN1)
    assert only(judged(tree)).where == f"adapter {NIC}"


def test_one_adapter_with_few_lanes_is_a_fault_and_four_alike_are_a_note(tmp_path: Path) -> None:
    assert {one.action for one in judged(trees.hgx_b200(tmp_path / "four")).findings} == {Action.KEEP}
    tree = trees.switched(tmp_path / "one")
    for address in ("0000:12:01.0", NIC):
        tree.set(address, current_link_width="2")
    assert only(judged(tree)).where == f"adapter {NIC}"


def test_the_speed_before_linux_5_5_has_no_decimals(tmp_path: Path) -> None:
    tree = trees.switched(tmp_path)
    for address in ("0000:12:01.0", NIC):
        tree.set(address, current_link_speed="8 GT/s", max_link_speed="16 GT/s")
    (found,) = judged(tree).findings
    assert "runs at 8 GT/s, both ends can do 16" in found.found


@pytest.mark.parametrize("changed", [{"current_link_speed": "8.0 GT/s PCIe"}, {"current_link_width": "2"}])
def test_an_adapter_without_an_equal_one_is_only_compared_with_another_node(
    changed: dict[str, str], tmp_path: Path
) -> None:
    # One for management, whose slot the board or the BIOS may limit.
    tree = trees.switched(tmp_path)
    for address in ("0000:12:01.0", NIC):
        tree.set(address, max_link_speed="16.0 GT/s PCIe", current_link_speed="16.0 GT/s PCIe")
        tree.set(address, **changed)
    (found,) = judged(tree).findings
    assert (found.action, found.where) == (Action.KEEP, f"adapter {NIC}")


def test_idle_gpus_that_all_have_fewer_lanes_drain_no_node(tmp_path: Path) -> None:
    tree = trees.switched(tmp_path)
    for path in (tmp_path / "sys/bus/pci/devices").iterdir():
        if (path / "class").read_text().startswith("0x0302"):
            tree.set(path.name, current_link_width="8")
    found = judged(tree).findings
    assert found
    assert {one.action for one in found} == {Action.KEEP}


def test_where_it_is_not_known_whether_this_is_a_virtual_machine_no_link_drains_the_node(
    tmp_path: Path,
) -> None:
    tree = trees.switched(tmp_path)
    tree.file("proc/cpuinfo", "processor : 0\nFeatures : fp asimd\n")
    tree.set(GPU, current_link_width="8")
    assert [one.action for one in judged(tree).findings] == [Action.KEEP]


def test_an_external_gpu_may_have_fewer_lanes_in_its_tunnel(tmp_path: Path) -> None:
    tree = trees.desktop(tmp_path)
    tree.set("0000:01:00.0", current_link_width="1", removable="removable")
    assert not judged(tree).findings


def test_a_width_that_the_kernel_does_not_know_is_unknown_on_a_server_and_not_fine(tmp_path: Path) -> None:
    tree = trees.switched(tmp_path)
    tree.set(GPU, current_link_width="0", max_link_width="255")
    verdict = judged(tree)
    assert not verdict.faults
    (unknown,) = [one for one in verdict.not_read if one.matters]
    assert GPU in unknown.what


def test_a_process_on_the_far_node_of_all_gpus_is_started_anew_with_the_line_that_binds_it(
    tmp_path: Path,
) -> None:
    tree = PciTree(tmp_path)
    tree.device("0000:80:01.0", kind=trees.BRIDGE, vendor="0x8086", node=1)
    tree.device("0000:80:01.0", "0000:81:00.0", kind=trees.SERVER_GPU, node=1, driver="nvidia")
    tree.allow("0-3")
    found = only(judged(tree))
    assert (found.kind, found.action) == ("far-numa-node", Action.RESTART)
    assert found.next == "start it with numactl --cpunodebind=1 --membind=1, or taskset -c 56-111,168-223"


def test_a_shell_bound_to_one_of_two_nodes_is_only_noted_where_both_have_gpus(tmp_path: Path) -> None:
    tree = trees.switched(tmp_path)
    tree.allow("0-7")
    verdict = judged(tree)
    assert not verdict.faults
    assert [one.kind for one in verdict.notes] == ["far-numa-node"]


def open_in(tree: PciTree, *minors: int) -> None:
    """The judged process has these GPUs open; the eight of `trees.switched` have the minors 0 to 7."""
    for index in range(8):
        address = f"0000:{0x13 + 0x10 * index:02x}:00.0"
        tree.file(f"/proc/driver/nvidia/gpus/{address}/information", f"Model: \t x\nDevice Minor: \t {index}")
    descriptors = tree.root / "proc/self/fd"
    descriptors.mkdir(parents=True)
    for number, minor in enumerate(minors):
        (descriptors / str(number)).symlink_to(f"/dev/nvidia{minor}")


def test_a_rank_whose_own_gpu_is_on_the_far_node_is_found_among_gpus_of_both(tmp_path: Path) -> None:
    tree = trees.switched(tmp_path)
    tree.allow("0-7")
    open_in(tree, 6)
    assert "0000:73:00.0 is on NUMA node 1" in only(judged(tree)).found


def test_a_rank_that_is_near_its_own_gpu_has_no_finding(tmp_path: Path) -> None:
    tree = trees.switched(tmp_path)
    tree.allow("0-7")
    open_in(tree, 2)
    assert not judged(tree).findings


def test_a_numa_node_that_the_firmware_does_not_name_is_unknown_and_not_node_0(tmp_path: Path) -> None:
    tree = trees.switched(tmp_path)
    tree.allow("56-60")
    for index in range(8):
        tree.set(f"0000:{0x13 + 0x10 * index:02x}:00.0", numa_node="-1")
    verdict = judged(tree)
    assert not verdict.faults
    assert any("numa_node is -1" in one.why for one in verdict.not_read)


def test_acs_that_redirects_between_a_gpu_and_an_adapter_on_one_switch_is_found_on_bare_metal_only(
    tmp_path: Path,
) -> None:
    tree = trees.switched(tmp_path, control=0x001D)
    found = only(judged(tree))
    assert (found.kind, found.action) == ("acs-redirects", Action.RESTART)
    assert "15 more ports" in found.where
    tree.machine(virtual=True)
    assert not judged(tree).faults


def test_acs_that_lets_translated_requests_through_is_no_fault(tmp_path: Path) -> None:
    assert not judged(trees.switched(tmp_path, control=0x005D)).findings


def test_acs_without_an_adapter_on_the_switch_is_no_fault(tmp_path: Path) -> None:
    assert not judged(trees.switched(tmp_path, nics=False, control=0x001D)).faults


def test_acs_that_only_root_can_read_is_named_as_not_read(tmp_path: Path) -> None:
    tree = trees.switched(tmp_path, control=0x001D)
    for device in (tmp_path / "sys/bus/pci/devices").iterdir():
        (device / "config").write_bytes(bytes(64))
    verdict = judged(tree)
    assert not verdict.faults
    assert any("ACS" in one.what and "root" in one.why for one in verdict.not_read)


@pytest.mark.parametrize(
    ("errors", "kind", "action"),
    [
        ("fatal", "aer-fatal", Action.KEEP),
        ("nonfatal", "aer-nonfatal", Action.KEEP),
        ("correctable", "aer-corrected", Action.KEEP),
    ],
)
def test_pcie_errors_since_boot_are_notes_since_their_total_does_not_tell_when(
    errors: str, kind: str, action: Action, tmp_path: Path
) -> None:
    tree = trees.switched(tmp_path)
    total = {"fatal": "FATAL", "nonfatal": "NONFATAL", "correctable": "COR"}[errors]
    tree.set(UPLINK, **{f"aer_dev_{errors}": f"Data Link Protocol 3\nTOTAL_ERR_{total} 3"})
    (found,) = judged(tree).findings
    assert (found.kind, found.action, found.where) == (kind, action, f"bridge {UPLINK}")


def test_a_kernel_that_counts_no_pcie_errors_has_none_that_are_known(tmp_path: Path) -> None:
    tree = trees.switched(tmp_path)
    for device in (tmp_path / "sys/bus/pci/devices").iterdir():
        for file in device.glob("aer_dev_*"):
            file.unlink()
    assert any("AER" in one.what for one in judged(tree).not_read)


def test_gpus_without_an_adapter_on_their_node_are_noted(tmp_path: Path) -> None:
    tree = trees.switched(tmp_path)
    for index in range(8):
        tree.set(f"0000:{0x14 + 0x10 * index:02x}:00.0", numa_node="0")
    assert [one.kind for one in judged(tree).findings] == ["adapters-on-other-nodes"]


def test_settings_count_what_differs(tmp_path: Path) -> None:
    settings = judged(trees.switched(tmp_path)).settings
    assert settings == {
        "PCIe of the GPUs, highest": "32 GT/s x16",
        "NUMA nodes of the GPUs": "0 × 4, 1 × 4",
        "PCI and IOMMU on the kernel command line": "iommu=pt",
    }


def test_a_tree_that_leads_out_of_its_folder_shows_nothing_of_this_host(tmp_path: Path) -> None:
    tree = trees.one_gpu_vm(tmp_path / "tree")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "class").write_text("0x030200")
    gpu = tmp_path / "tree/sys/bus/pci/devices/0000:00:07.0"
    gpu.symlink_to(tmp_path / "secret")
    (tmp_path / "tree/out").symlink_to("/etc")
    captured = HostTree(tree.root)
    assert captured.text("/sys/bus/pci/devices/0000:00:07.0/class") is None
    assert captured.names("/out") == ()
    assert not captured.exists("/out/passwd")
    assert captured.link("/out/mtab") is None


@given(st.binary(max_size=4096))
def test_any_configuration_space_is_read_to_its_end(space: bytes) -> None:
    found = access_control(space)
    assert found is None or 0 <= found <= 0xFFFF


@given(st.integers(0, 0xFFFF))
def test_the_acs_control_is_found_behind_other_capabilities(control: int) -> None:
    assert access_control(trees.config(control)) == control
    assert access_control(trees.config(control)[:256]) is None


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_no_content_of_a_file_ends_the_reader(speed: str, width: str, cpus: str) -> None:
    folder = Path("/proc/self")

    class Lying(HostTree):
        def data(self, path: str) -> bytes | None:
            name = path.rpartition("/")[2]
            known = {"class": "0x030200", "vendor": "0x10de"}
            lies = {
                "current_link_speed": speed,
                "max_link_width": width,
                "local_cpulist": cpus,
                "status": cpus,
            }
            return {**known, **lies}.get(name, width).encode(errors="replace")

        def names(self, folder: str) -> tuple[str, ...]:
            return ("0000:01:00.0", speed) if folder.endswith("devices") else ()

        def link(self, path: str) -> str | None:
            return f"../../../devices/pci0000:00/{speed}/0000:01:00.0" if path.endswith("00.0") else None

    verdict = GROUP.judge(GROUP.read(Lying(folder)))
    assert verdict.judged


def run(*arguments: str) -> tuple[int, dict[str, object], str]:
    done = subprocess.run(
        [sys.executable, "-m", "runner.probes.host_paths", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def test_the_probe_over_a_captured_tree_says_what_to_do(tmp_path: Path) -> None:
    tree = trees.switched(tmp_path)
    tree.set(GPU, current_link_width="8")
    status, document, _ = run("--group", "pci", "--root", str(tmp_path))
    assert (status, document["status"]) == (1, "symptom")
    assert str(document["reason"]).startswith(f"drain: GPU {GPU}: the link {PORT} to {GPU} runs x8")
    assert document["effective"] == {"source": "captured"}


def test_a_capture_of_this_host_holds_what_was_read_and_gives_the_same_verdict(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    there, first, told = run("--group", "pci", "--capture", str(kept))
    assert f"into {kept}" in told
    again, second, _ = run("--group", "pci", "--root", str(kept))
    assert (there, first["status"], first["reason"]) == (again, second["status"], second["reason"])
    read = [one for one in kept.rglob("*") if one.is_file() and not one.is_symlink()]
    assert (kept / "proc/self/status").read_text().startswith("Name:")
    assert all(one.stat().st_mode & 0o222 == 0 for one in read)
    status, _, why = run("--group", "pci", "--capture", str(kept))
    assert status == InputError.exit_status
    assert "is not empty" in why


def test_a_captured_tree_is_not_captured_again(tmp_path: Path) -> None:
    status, _, why = run("--group", "pci", "--root", str(tmp_path), "--capture", str(tmp_path / "kept"))
    assert status == InputError.exit_status
    assert "use one of them" in why


@pytest.mark.parametrize("build", [trees.switched, trees.hgx_b200, trees.aws_p5])
def test_a_capture_of_a_host_replays_to_the_same_facts(
    build: Callable[[Path], PciTree], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = build(tmp_path / "host")
    tree.set("0000:43:00.0" if build is not trees.aws_p5 else "0000:41:00.0", current_link_width="4")

    class Host(CapturingTree):
        """The host whose root directory is the tree."""

        def data(self, path: str) -> bytes | None:
            return super().data(f"{tree.root}{path}")

        def names(self, folder: str) -> tuple[str, ...]:
            return tuple(super().names(f"{tree.root}{folder}"))

        def link(self, path: str) -> str | None:
            return super().link(f"{tree.root}{path}")

        def exists(self, path: str) -> bool:
            return super().exists(f"{tree.root}{path}")

    capturing = Host(tmp_path / "kept")
    facts = GROUP.read(capturing)
    assert capturing.finish() > 20
    replayed = GROUP.read(HostTree(tmp_path / "kept" / str(tree.root).lstrip("/")))
    assert dataclasses.asdict(facts) == dataclasses.asdict(replayed)
    assert GROUP.judge(facts).findings


def test_what_could_not_be_read_stays_unread_in_a_captured_tree(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    capturing = CapturingTree(kept)
    # A file of the kernel that exists and refuses every reader.
    assert capturing.data("/proc/self/mem") is None
    (refused,) = capturing.not_read
    capturing.finish()
    replayed = HostTree(kept)
    assert replayed.text("/proc/self/mem") is None
    assert [(one.what, one.why) for one in replayed.not_read] == [(refused.what, refused.why)]


@pytest.mark.parametrize("content", ["[", "[]", '{"/x": 3}', "null", "[" * 100_000])
def test_a_list_of_refusals_that_is_none_says_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / REFUSED).write_text(content)
    assert HostTree(tmp_path).text("/x") is None


def test_a_capture_keeps_no_link_that_leads_somewhere_private(tmp_path: Path) -> None:
    with (tmp_path / "private").open("w") as opened:
        capturing = CapturingTree(tmp_path / "kept", os.getpid())
        assert str(opened.fileno()) in capturing.names(f"/proc/{os.getpid()}/fd")
        capturing.link(f"/proc/{os.getpid()}/fd/{opened.fileno()}")
    assert "private" not in " ".join(
        str(one.readlink()) for one in (tmp_path / "kept").rglob("*") if one.is_symlink()
    )
