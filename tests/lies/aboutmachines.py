"""Lies about the machine, its versions and its GPUs."""

from collections.abc import Callable
from typing import Any

from tests.lies.told import Json, NoPlaceError, lie, numbers


def _fact(name: str, fact: str, value: Any, *, gpus: bool | None = None, backend: str | None = None) -> None:
    """A lie about a fact, of machines with or without GPUs, and of records with numbers of such a backend."""

    def told(record: Json) -> None:
        if gpus is not None and gpus != bool(record["machine"]["gpus"]):
            raise NoPlaceError
        if backend and all(one["labels"].get("backend") != backend for _, one in numbers(record)):
            raise NoPlaceError
        record["machine"][fact] = value

    told.__name__ = name
    lie(told)


for _name, _what, _value in (
    ("class_of_eight_b200", "machine_class", "8xB200-180GB"),
    ("class_of_another_cpu", "machine_class", "cpu-intel-xeon-x86_64-v4-2c"),
    ("class_of_several_nodes", "machine_class", "4-nodes-of-cpu-amd-epyc-x86_64-2c"),
    ("cores_none", "cores", 0),
    ("memory_none", "memory_bytes", 0),
    ("memory_below_zero", "memory_bytes", -1),
    ("memory_of_host", "memory_bytes", 25 * 10**9),
    ("cpu_missing", "cpu", None),
    ("os_missing", "os", ""),
    ("version_of_os", "os", "Ubuntu 24.04.1 LTS"),
    ("kernel_missing", "kernel", ""),
    ("kernel_made_up", "kernel", "banana"),
    ("version_of_kernel", "kernel", "6.8.0-1021-nvidia-64k"),
    ("python_missing", "python", ""),
    ("python_made_up", "python", "two"),
    ("python_of_the_past", "python", "2.7.18"),
    ("python_too_old_for_this_project", "python", "3.4.0"),
    ("torch_made_up", "torch", "the newest"),
    ("torch_of_the_past", "torch", "0.1.12"),
    ("version_of_torch", "torch", "2.9.0a0+145a3a7bda.nv25.10"),
    ("nccl_made_up", "nccl", "yes"),
    ("cuda_made_up", "cuda", "thirteen"),
    ("load_below_zero", "load", -1.0),
    ("load_changed", "load", 0.25),
    ("gpus_not_readable", "gpu_error", "NVML: unknown error"),
    ("machine_simulated", "simulated", True),
):
    _fact(_name, _what, _value)

# The class of a machine with GPUs does not name its processor.
for _name, _what, _value in (
    ("cores_more", "cores", 128),
    ("cpu_of_another", "cpu", "Intel(R) Xeon(R) Platinum 8480C"),
    ("level_of_another", "cpu_level", "v3"),
    ("matrix_of_another", "cpu_matrix", "amx"),
    ("architecture_of_another", "arch", "aarch64"),
):
    _fact(_name, _what, _value, gpus=False)
_fact("processor_of_a_gpu_node", "cpu", "AMD EPYC 9654 96-Core Processor", gpus=True)

for _name, _what, _value in (
    ("driver_banana", "driver", "banana"),
    ("driver_missing", "driver", None),
    ("driver_without_a_point", "driver", "580"),
    ("driver_too_old_for_its_board", "driver", "470.82.01"),
    ("class_of_fewer_gpus", "machine_class", "4xB200-180GB"),
    ("class_of_other_gpus", "machine_class", "8xH100-80GB"),
    ("cuda_missing", "cuda", None),
    ("torch_missing", "torch", None),
):
    _fact(_name, _what, _value, gpus=True)
_fact("nccl_missing", "nccl", None, gpus=True, backend="nccl")


def _gpu(name: str, change: Callable[[list[Json]], object]) -> None:
    def told(record: Json) -> None:
        if not record["machine"]["gpus"]:
            raise NoPlaceError
        change(record["machine"]["gpus"])

    told.__name__ = name
    lie(told)


_gpu("gpus_dropped", lambda gpus: gpus.clear())
_gpu("gpu_twice", lambda gpus: gpus.insert(1, gpus[0]))
_gpu("gpu_dropped", lambda gpus: gpus.pop())
_gpu("gpu_added", lambda gpus: gpus.append(gpus[-1] | {"index": len(gpus)}))
_gpu("gpu_of_another_index", lambda gpus: gpus[0].update(index=17))
_gpu("gpu_of_an_index_below_zero", lambda gpus: gpus[0].update(index=-1))
_gpu("gpu_of_another_board", lambda gpus: gpus[0].update(name="NVIDIA H100 80GB HBM3"))
_gpu("gpu_with_the_memory_of_another", lambda gpus: [gpu.update(memory_bytes=80 * 10**9) for gpu in gpus])
_gpu("gpu_without_memory", lambda gpus: gpus[0].update(memory_bytes=0))
_gpu("gpu_of_another_capability", lambda gpus: gpus[0].update(compute_capability="9.0"))
_gpu("gpu_of_a_capability_made_up", lambda gpus: gpus[0].update(compute_capability="best"))
_gpu("gpu_with_a_clock_below_zero", lambda gpus: gpus[0].update(sm_clock_hz=-1.0))
_gpu("gpu_with_no_power", lambda gpus: gpus[0].update(power_limit_w=0.0))
_gpu("gpu_cut_into_slices", lambda gpus: gpus[0].update(mig=True))


@lie
def node_alias_made_up(record: Json) -> None:
    record["node_alias"] = "the best node"


@lie
def node_alias_of_another(record: Json) -> None:
    record["node_alias"] = "node-abc123"


@lie
def joint_class_without_members(record: Json) -> None:
    record["machine"]["machine_class"] = f"2-nodes-of-{record['machine']['machine_class']}"


@lie
def member_twice(record: Json) -> None:
    _joint(record, [record["node_alias"]] * 2)


@lie
def members_fewer_than_the_class(record: Json) -> None:
    _joint(record, [record["node_alias"], "node-000002"])
    record["machine"]["machine_class"] = f"3{record['machine']['machine_class'][1:]}"


@lie
def members_without_itself(record: Json) -> None:
    _joint(record, ["node-000001", "node-000002"])


@lie
def member_alone(record: Json) -> None:
    _joint(record, [record["node_alias"]])


@lie
def one_node_called_two(record: Json) -> None:
    _joint(record, sorted([record["node_alias"], "node-abcdef"]))


@lie
def joint_run_twice(record: Json) -> None:
    record["joint_runs"] = ["a" * 12, "a" * 12]


@lie
def joint_run_of_itself(record: Json) -> None:
    record["joint_runs"] = [record["run_id"]]


def _joint(record: Json, members: list[str]) -> None:
    record["members"] = members
    record["machine"]["machine_class"] = f"{len(members)}-nodes-of-{record['machine']['machine_class']}"
