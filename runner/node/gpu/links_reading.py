"""Reads the facts about NVLinks of GPUs from NVML."""

from collections.abc import Mapping, Sequence

from runner.node.gpu.asking import NvmlAsker, OpenGpu
from runner.node.gpu.links_facts import LINK_COUNTERS, GpuLinks, LinkFacts, NvLink
from runner.node.gpu.together import UnreadFact

STATES, ERRORS = "the states of NVLinks", "the error counters of NVLinks"
_STATE = "nvmlDeviceGetNvLinkState"
_COUNTING = ("nvmlDeviceGetNvLinkErrorCounter", "nvmlDeviceGetFieldValues")
# nvmlIntNvLinkDeviceType_t.
_REMOTE: Mapping[object, str] = {0: "GPU", 1: "CPU", 2: "switch"}
# NVML_NVLINK_VERSION_*.
_VERSIONS: Mapping[object, str] = {
    1: "1.0",
    2: "2.0",
    3: "2.2",
    4: "3.0",
    5: "3.1",
    6: "4.0",
    7: "5.0",
    8: "6.0",
}
# The first architecture whose counters are fields; the older calls then answer 0 whatever happened.
_BLACKWELL = 10


def read_links(asker: NvmlAsker, gpus: Sequence[OpenGpu]) -> LinkFacts:
    """The facts of all GPUs, at this moment."""
    return tuple(_of_gpu(asker, gpu) for gpu in gpus)


def _of_gpu(asker: NvmlAsker, gpu: OpenGpu) -> GpuLinks:
    states, unread = _states(asker, gpu)
    capability = asker.ask("nvmlDeviceGetCudaComputeCapability", gpu.handle, of=gpu.where)
    fields = _fields(asker, gpu, list(states))
    old = capability is None or capability[0] < _BLACKWELL
    links = []
    for number, active in states.items():
        counters = {} if not old else _errors(asker, gpu, number)
        counters |= fields.get(number, {})
        remote = (
            asker.ask("nvmlDeviceGetNvLinkRemoteDeviceType", gpu.handle, number, of=gpu.where)
            if active
            else None
        )
        version = asker.ask("nvmlDeviceGetNvLinkVersion", gpu.handle, number, of=gpu.where)
        links.append(NvLink(number, active, _VERSIONS.get(version), _REMOTE.get(remote), counters))
    if any(link.active for link in links) and not any(link.counters for link in links):
        unread.append(_no_counters(asker, gpu))
    lacking = any(one.kind == "unsupported" for one in unread if one.what == STATES)
    return GpuLinks(
        where=gpu.where,
        name=gpu.name,
        board=gpu.board,
        mig=gpu.mig,
        links=tuple(links),
        supported=True if links else False if lacking or not unread else None,
        unread=tuple(unread),
    )


def _no_counters(asker: NvmlAsker, gpu: OpenGpu) -> UnreadFact:
    """Why no counter was read: a board or driver without them is not a fault, and a failing one is unknown."""
    for one in reversed(asker.refusals):
        if one.call in _COUNTING and one.of == gpu.where and one.kind != "unsupported":
            return UnreadFact(ERRORS, one.kind, one.text)
    return UnreadFact(ERRORS, "unsupported", "neither as counters nor as fields")


def _states(asker: NvmlAsker, gpu: OpenGpu) -> tuple[dict[int, bool], list[UnreadFact]]:
    """The links that exist, by number, and why none could be read. The first may be missing where others are there."""
    found: dict[int, bool] = {}
    refused: list[UnreadFact] = []
    # A link beyond the last one is an invalid argument.
    beyond = str(asker.nvml.NVMLError(asker.nvml.NVML_ERROR_INVALID_ARGUMENT))
    for number in range(asker.nvml.NVML_NVLINK_MAX_LINKS):
        state = asker.ask(_STATE, gpu.handle, number, of=gpu.where)
        if state is not None:
            found[number] = bool(state)
            continue
        refusal = asker.refusal(_STATE, gpu.where)
        if refusal is None or (number and refusal.text == beyond):
            break
        refused.append(UnreadFact(STATES, refusal.kind, refusal.text))
        if refusal.kind != "unsupported" and refusal.text != beyond:
            return found, refused[-1:]
    return found, [] if found else list(dict.fromkeys(refused))


def _errors(asker: NvmlAsker, gpu: OpenGpu, link: int) -> dict[str, int]:
    """The counters up to NVLink 4."""
    call, _ = _COUNTING
    read = {
        one.key: asker.ask(call, gpu.handle, link, one.error, of=gpu.where)
        for one in LINK_COUNTERS
        if one.error is not None
    }
    return {key: int(value) for key, value in read.items() if value is not None}


def _fields(asker: NvmlAsker, gpu: OpenGpu, links: Sequence[int]) -> dict[int, dict[str, int]]:
    """The counters from NVLink 5 on, in one call; those that the board does not have are left out."""
    keys = {one.number: one.key for one in LINK_COUNTERS if one.number is not None}
    wanted = [(number, link) for link in links for number in keys]
    found: dict[int, dict[str, int]] = {}
    for (number, link), value in asker.fields(gpu.handle, wanted, of=gpu.where).items():
        found.setdefault(link, {})[keys[number]] = value
    return found
