"""Reads the wiring of this node through NVML."""

from itertools import combinations
from typing import Any

from runner.base.errors import RunbookError
from runner.base.time_limit import answer_within
from runner.hardware.fabric_health import fabric_complaints
from runner.hardware.gpus import nvml_deadline
from runner.hardware.nvml import load_nvml, shut_down_nvml
from runner.hardware.topology import FABRIC_STATES, UNKNOWN, GpuPair, GpuWiring, Topology

# NVML's nvmlGpuTopologyLevel_t, as `nvidia-smi topo -m` shows it.
_LEVELS = {0: "PIX", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}
# nvmlGpuP2PStatus_t.
_P2P = {
    0: "ok",
    1: "not supported by the chipset",
    2: "not supported by the GPU",
    3: "not supported by the I/O hub",
    4: "disabled by a registry key",
    5: "not supported",
}
_REMOTE_IS_GPU, _REMOTE_IS_SWITCH = 0, 2
# Error counters of a link, without single-symbol errors, which a healthy link corrects.
_FIELDS = (
    "EFFECTIVE_ERRORS",
    "LINK_RECOVERY_EVENTS",
    "RCV_ERRORS",
    "BUFFER_OVERRUN_ERRORS",
    "MALFORMED_PACKET_ERRORS",
)
# nvmlValueType_t, whole numbers only.
_VALUE_OF = {1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal"}
# NUMA nodes of the host are bits, 64 per word.
_NODE_WORDS = 16


def read_topology() -> Topology | None:
    """The wiring as reported by NVML; None on a host without an NVIDIA library or driver.

    With fewer than two GPUs there is no wiring between them: only the fabric state is read, which CUDA depends on.

    Raises:
        RunbookError: the host has GPUs that cannot be read, or the driver does not answer.
    """
    try:
        return answer_within(nvml_deadline(), _read)
    except TimeoutError as error:
        raise RunbookError(f"NVML: {error}; the driver may be hung; check dmesg for Xid messages") from error


def _read() -> Topology | None:
    pynvml = load_nvml()
    if pynvml is None:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_DriverNotLoaded:
        return None
    except pynvml.NVMLError as error:
        raise RunbookError(f"cannot initialize NVML: {error}; check the driver with nvidia-smi") from error
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        reader = _Reader(pynvml)
        read = reader.gpu if len(handles) > 1 else reader.alone
        gpus = tuple(read(index, handle) for index, handle in enumerate(handles))
        pairs = tuple(
            reader.pair(gpus[a], gpus[b], handles[a], handles[b])
            for a, b in combinations(range(len(handles)), 2)
        )
        mig = any((reader.ask("nvmlDeviceGetMigMode", handle) or (0,))[0] for handle in handles)
    except pynvml.NVMLError as error:
        raise RunbookError(f"NVML cannot read the GPUs: {error}; check dmesg for Xid messages") from error
    finally:
        shut_down_nvml(pynvml)
    return Topology("nvml", gpus, pairs, mig)


class _Reader:
    """Queries NVML; a query that this board or driver does not support gives None."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        # Numbers of the active links of each GPU.
        self._active: dict[int, list[int]] = {}

    def ask(self, name: str, *arguments: object) -> Any:
        """The result of one query, or None if it gave none. Raises if nothing more can be read from this GPU.

        Boards, drivers and sandboxes refuse single queries with many codes, new ones among them.
        """
        unreadable = (
            self._nvml.NVML_ERROR_UNINITIALIZED,
            self._nvml.NVML_ERROR_DRIVER_NOT_LOADED,
            self._nvml.NVML_ERROR_GPU_IS_LOST,
            self._nvml.NVML_ERROR_RESET_REQUIRED,
        )
        try:
            return getattr(self._nvml, name)(*arguments)
        except self._nvml.NVMLError as error:
            if error.value in unreadable:
                raise
            return None

    def alone(self, index: int, handle: Any) -> GpuWiring:
        """The fabric state of the only GPU."""
        return GpuWiring(index, **self._fabric(handle))

    def gpu(self, index: int, handle: Any) -> GpuWiring:
        """One GPU's links, fabric, PCIe and NUMA node."""
        states = [
            self.ask("nvmlDeviceGetNvLinkState", handle, link)
            for link in range(self._nvml.NVML_NVLINK_MAX_LINKS)
        ]
        known = [(link, state) for link, state in enumerate(states) if state is not None]
        self._active[index] = [link for link, state in known if state]
        return GpuWiring(
            index,
            links_active=len(self._active[index]) if known else None,
            links_down=tuple(link for link, state in known if not state),
            link_errors=self._errors(handle, [link for link, _ in known]),
            **self._fabric(handle),
            pcie_generation=self.ask("nvmlDeviceGetCurrPcieLinkGeneration", handle),
            pcie_width=self.ask("nvmlDeviceGetCurrPcieLinkWidth", handle),
            pcie_max_generation=self.ask("nvmlDeviceGetMaxPcieLinkGeneration", handle),
            pcie_max_width=self.ask("nvmlDeviceGetMaxPcieLinkWidth", handle),
            numa_node=self._numa_node(handle),
        )

    def _numa_node(self, handle: Any) -> int | None:
        """The nearest NUMA node of the host; None if NVML reports none, or several."""
        # nvmlDeviceGetNumaNodeId works only if the GPU's own memory is a NUMA node of the host.
        scope = self._nvml.NVML_AFFINITY_SCOPE_NODE
        words = self.ask("nvmlDeviceGetMemoryAffinity", handle, _NODE_WORDS, scope) or ()
        nodes = [64 * place + bit for place, word in enumerate(words) for bit in range(64) if word >> bit & 1]
        return nodes[0] if len(nodes) == 1 else None

    def _errors(self, handle: Any, links: list[int]) -> int | None:
        counters = (
            self._nvml.NVML_NVLINK_ERROR_DL_REPLAY,
            self._nvml.NVML_NVLINK_ERROR_DL_RECOVERY,
            self._nvml.NVML_NVLINK_ERROR_DL_CRC_FLIT,
            self._nvml.NVML_NVLINK_ERROR_DL_CRC_DATA,
        )
        read = [
            self.ask("nvmlDeviceGetNvLinkErrorCounter", handle, link, kind)
            for link in links
            for kind in counters
        ]
        found = [value for value in read if value is not None]
        # Blackwell answers 0 to these calls, whatever the fields say.
        if any(found):
            return int(sum(found))
        fields = self._error_fields(handle, links)
        return 0 if fields is None and found else fields

    def _error_fields(self, handle: Any, links: list[int]) -> int | None:
        """The same for boards whose driver keeps the counters as fields (Blackwell), link by link."""
        wanted = [
            (getattr(self._nvml, f"NVML_FI_DEV_NVLINK_COUNT_{name}"), link)
            for link in links
            for name in _FIELDS
        ]
        fields = self.ask("nvmlDeviceGetFieldValues", handle, wanted) if wanted else None
        read = [
            int(getattr(field.value, _VALUE_OF[field.valueType]))
            for field in fields or ()
            if field.nvmlReturn == self._nvml.NVML_SUCCESS and field.valueType in _VALUE_OF
        ]
        return sum(read) if read else None

    def _fabric(self, handle: Any) -> dict[str, Any]:
        """The fields of `GpuWiring` about the fabric, as far as they are known."""
        info = self._nvml.c_nvmlGpuFabricInfoV_t()
        if self.ask("nvmlDeviceGetGpuFabricInfoV", handle, self._nvml.byref(info)) is None:
            return {}
        state = FABRIC_STATES.get(info.state, f"unknown ({info.state})")
        # Status, partition and health are valid only after a registration attempt.
        if state in {"not supported", "not started"}:
            return {"fabric_state": state}
        complaints = tuple(one.text for one in fabric_complaints(info.healthMask) if one.is_fault)
        return {
            "fabric_state": state,
            "fabric_error": int(info.status),
            "fabric_clique": int(info.cliqueId),
            "fabric_complaints": complaints,
        }

    def pair(self, a: GpuWiring, b: GpuWiring, handle_a: Any, handle_b: Any) -> GpuPair:
        """How two GPUs are connected: NVLinks if the driver reports any, else the PCIe path."""
        readable = self.ask("nvmlDeviceGetP2PStatus", handle_a, handle_b, 0)  # 0: NVML_P2P_CAPS_INDEX_READ
        p2p = None if readable is None else _P2P.get(readable, "unknown")
        links = self._links_between(a, b, handle_a, handle_b)
        if links is None:
            return GpuPair(a.index, b.index, UNKNOWN, p2p)
        if links:
            return GpuPair(a.index, b.index, f"NV{links}", p2p)
        level = self.ask("nvmlDeviceGetTopologyCommonAncestor", handle_a, handle_b)
        return GpuPair(a.index, b.index, _LEVELS.get(level, UNKNOWN), p2p)

    def _links_between(self, a: GpuWiring, b: GpuWiring, handle_a: Any, handle_b: Any) -> int | None:
        """With switches, every active link reaches every GPU; without, only the links to this peer are counted.

        None if the driver does not tell.
        """
        status = self.ask("nvmlDeviceGetP2PStatus", handle_a, handle_b, self._nvml.NVML_P2P_CAPS_INDEX_NVLINK)
        if status != self._nvml.NVML_P2P_STATUS_OK:
            return None if status is None else 0
        if a.links_active is None or b.links_active is None:
            return None
        links = self._active[a.index]
        remote = [self.ask("nvmlDeviceGetNvLinkRemoteDeviceType", handle_a, link) for link in links]
        if _REMOTE_IS_GPU in remote:
            peer = self.ask("nvmlDeviceGetPciInfo", handle_b)
            ends = [self.ask("nvmlDeviceGetNvLinkRemotePciInfo", handle_a, link) for link in links]
            if peer is None or None in ends:
                return None
            return [end.busId for end in ends].count(peer.busId)
        if links and _REMOTE_IS_SWITCH not in remote and a.fabric_state != "completed":
            return None
        return min(a.links_active, b.links_active)
