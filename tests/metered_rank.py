"""A rank of a plain loop under DDP over gloo, with the step meter around its loader."""

import json
import sys

import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from runner.guards.step_meter import StepMeter

_BATCH = 16


def main() -> None:
    steps = int(sys.argv[1])
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    model = DistributedDataParallel(
        torch.nn.Sequential(torch.nn.Linear(512, 4096), torch.nn.Linear(4096, 512))
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    data = TensorDataset(torch.randn(2 * _BATCH * steps, 512))
    loader: DataLoader[tuple[torch.Tensor, ...]] = DataLoader(
        data, batch_size=_BATCH, sampler=DistributedSampler(data), num_workers=1, persistent_workers=True
    )
    meter, reports, done = StepMeter(), [], 0
    while done < steps:
        for (batch,) in meter.batches(loader):
            model(batch).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            done += 1
            if done % 50 == 0:
                reports.append(meter.report())
    said = [
        {"limit": one.limit, "sharing": one.sharing, "workers": one.workers, "told": str(one)}
        for one in reports
    ]
    sys.stdout.write(json.dumps({"rank": torch.distributed.get_rank(), "reports": said}) + "\n")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
