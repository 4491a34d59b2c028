"""What NVML tells of the GPUs of this node, by group: one module of facts and rules, one that reads them."""
