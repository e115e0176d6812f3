"""Random weights for Inception-v3 of 2015, whose published ones are not needed to compare implementations."""

import torch

from t2ibench.baselines.inception_network import InceptionV3


def lively_inception() -> InceptionV3:
    """Return our network with weights under which signals neither die nor explode on their way through."""
    torch.manual_seed(0)
    network = InceptionV3().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.8, 1.2)
            module.bias.data.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network
