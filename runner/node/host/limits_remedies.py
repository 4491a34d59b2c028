"""How to raise a limit, by what started the process. Words only."""

from collections.abc import Mapping
from types import MappingProxyType

from runner.node.host.limits_reading import Starter

# What a container needs at least for NCCL; loaders need the size of the batches that wait in them.
_SHM_FLAG = "--shm-size=16g"
_SYSTEM = "restart the service after `systemctl edit`"

_DOCKER: Mapping[str, str] = MappingProxyType(
    {
        "shm": f"start the container with {_SHM_FLAG} (docker run, podman run; shm_size: in Compose)",
        "memlock": "start the container with --ulimit memlock=-1",
        "nofile": "start the container with --ulimit nofile=524288:524288",
        "memory": "start the container with a larger --memory, or none",
        "pids": "start the container with a larger --pids-limit (-1 is none)",
    }
)
_KUBERNETES: Mapping[str, str] = MappingProxyType(
    {
        "shm": "mount at /dev/shm an emptyDir with medium: Memory and sizeLimit: 16Gi; it counts as memory of the pod",
        "memlock": "a pod has no field for it: add the capability IPC_LOCK to the container, or set "
        "LimitMEMLOCK=infinity in the node's containerd.service",
        "nofile": "a pod has no field for it: set LimitNOFILE in the node's containerd.service",
        "memory": "raise resources.limits.memory of the container",
        "pids": "raise podPidsLimit in the kubelet's configuration",
    }
)
_SLURM: Mapping[str, str] = MappingProxyType(
    {
        "shm": "as root on the node: `mount -o remount,size=50% /dev/shm`, and the same in /etc/fstab",
        "memlock": "set LimitMEMLOCK=infinity in slurmd.service, and "
        "PropagateResourceLimitsExcept=MEMLOCK in slurm.conf",
        "nofile": "set LimitNOFILE in slurmd.service and PropagateResourceLimitsExcept=NOFILE in slurm.conf",
        "memory": "submit the job with a larger --mem (--mem=0 is all memory of the node)",
        "pids": "raise TasksMax= of slurmd.service",
    }
)
_SERVICE: Mapping[str, str] = MappingProxyType(
    {
        "shm": "as root: `mount -o remount,size=50% /dev/shm`, and the same in /etc/fstab",
        "memlock": f"set LimitMEMLOCK=infinity in the service; {_SYSTEM}",
        "nofile": f"set LimitNOFILE=524288 in the service; {_SYSTEM}",
        "memory": f"raise MemoryMax= of the service; {_SYSTEM}",
        "pids": f"raise TasksMax= of the service; {_SYSTEM}",
    }
)
_UNKNOWN: Mapping[str, str] = MappingProxyType(
    {
        "shm": f"in a container: {_SHM_FLAG}; on a host, as root: `mount -o remount,size=50% /dev/shm`",
        "memlock": "in a container: --ulimit memlock=-1; of a login: `* - memlock unlimited` in "
        "/etc/security/limits.conf, then log in again",
        "nofile": "in a container: --ulimit nofile=524288:524288; of a shell: `ulimit -n 524288` before the job",
        "memory": "raise the limit of the control group (docker --memory, systemd MemoryMax=, Slurm --mem)",
        "pids": "raise the limit of the control group (docker --pids-limit, systemd TasksMax=)",
    }
)
_BY_STARTER: Mapping[Starter, Mapping[str, str]] = MappingProxyType(
    {
        Starter.DOCKER: _DOCKER,
        Starter.PODMAN: _DOCKER,
        Starter.KUBERNETES: _KUBERNETES,
        Starter.SLURM: _SLURM,
        Starter.SERVICE: _SERVICE,
        Starter.UNKNOWN: _UNKNOWN,
    }
)


def how_to_raise(limit: str, starter: Starter) -> str:
    """What to set so that a limit is larger: `shm`, `memlock`, `nofile`, `memory` or `pids`."""
    return _BY_STARTER[starter][limit]
