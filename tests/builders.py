"""Small machines and runbooks for tests, built from the real models."""

from pathlib import Path

from runner.entry.model import FrontMatter, Phase, ProofItem, Runbook, Section, Step
from runner.hardware.gpus import Gpu
from runner.hardware.machine import Machine, machine_class
from runner.hardware.processor import Processor

MEMORY_B200 = 183_359 * 2**20


def a_gpu(index: int = 0, name: str = "NVIDIA B200", memory: int = MEMORY_B200, busy: bool = False) -> Gpu:
    return Gpu(index=index, name=name, memory_bytes=memory, busy=busy)


def a_machine(gpus: tuple[Gpu, ...] = (), gpu_error: str | None = None, simulated: bool = False) -> Machine:
    return Machine(
        machine_class=machine_class(gpus, gpu_error, Processor("A CPU", "x86_64", 2)),
        gpus=gpus,
        gpu_error=gpu_error,
        driver="580.95.05" if gpus else None,
        cpu="A CPU",
        cores=2,
        arch="x86_64",
        memory_bytes=24 * 2**30,
        os="Linux",
        kernel="6.1",
        python="3.11.7",
        torch="2.13.0",
        cuda="13.0" if gpus else None,
        nccl="2.27.7" if gpus else None,
        load=0.1,
        simulated=simulated,
    )


def eight_b200(busy: tuple[int, ...] = ()) -> Machine:
    return a_machine(tuple(a_gpu(index, busy=index in busy) for index in range(8)))


def a_runbook(*steps: Step, runbook_id: str = "an-entry", number: int = 7) -> Runbook:
    sections = tuple(
        Section(title=phase.value.capitalize(), phase=phase, body=tuple(s for s in steps if s.phase is phase))
        for phase in Phase
    )
    proof = tuple(ProofItem(metric=step.id) for step in steps if step.phase is Phase.VERIFY)
    head = FrontMatter(id=runbook_id, number=number, title="An entry", proof=proof)
    return Runbook(head=head, sections=sections, path=Path(f"{runbook_id}.md"))
