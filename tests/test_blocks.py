"""The blocks that several models are built of, each by hand from its own layers."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from t2ibench.baselines.blocks import (
    GLU,
    Bottleneck,
    GatedConditioning,
    GatedResidual,
    ImageHead,
    JointDiscriminator,
    LeakyReLU,
    UpConvolution,
)
from t2ibench.baselines.stackgan_v1 import PAPER as STACKGAN
from t2ibench.baselines.stackgan_v1 import Discriminator as StackGANDiscriminator
from t2ibench.baselines.text_dcgan import PAPER as DCGAN
from t2ibench.baselines.text_dcgan import TINY, Discriminator, Generator


def settled(network: nn.Module) -> nn.Module:
    """Return the network in evaluation, with batch norms that do something."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, std=0.3)
    return network.eval()


def convolved(x: torch.Tensor, convolution: nn.Module, norm: nn.Module) -> torch.Tensor:
    """Return a 3x3 or 1x1 convolution of `x` and its batch norm, from their numbers."""
    out = F.conv2d(x, convolution.weight, None, 1, convolution.weight.shape[-1] // 2)
    return F.batch_norm(out, norm.running_mean, norm.running_var, norm.weight, norm.bias)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("activation", "slope"), [(nn.ReLU, 0.0), (LeakyReLU, 0.2)])
def test_bottleneck_is_active_after_its_sum(activation: type[nn.Module], slope: float) -> None:
    block, x = settled(Bottleneck(6, 3, activation)), torch.randn(2, 6, 5, 5)
    first, first_norm, _, second, second_norm, _, third, third_norm = block.layers
    inner = F.leaky_relu(convolved(x, first, first_norm), slope)
    inner = F.leaky_relu(convolved(inner, second, second_norm), slope)
    torch.testing.assert_close(block(x), F.leaky_relu(x + convolved(inner, third, third_norm), slope))


def test_gated_residual_is_not_active_after_its_sum() -> None:
    block, x = settled(GatedResidual(4)), torch.randn(2, 4, 5, 5)
    first, first_norm, _, second, second_norm = block.layers
    kept, gate = convolved(x, first, first_norm).chunk(2, 1)
    by_hand = x + convolved(kept * gate.sigmoid(), second, second_norm)
    assert by_hand.min() < 0
    torch.testing.assert_close(block(x), by_hand)


def test_up_convolution_doubles_by_the_nearest_pixel_and_gates_half_of_its_channels() -> None:
    block, x = settled(UpConvolution(3, 4, GLU)), torch.randn(2, 3, 4, 4)
    kept, gate = convolved(x.repeat_interleave(2, 2).repeat_interleave(2, 3), block[1], block[2]).chunk(2, 1)
    torch.testing.assert_close(block(x), kept * gate.sigmoid())


def test_gated_conditioning_says_half_the_log_of_the_variance() -> None:
    block, text = GatedConditioning(5, 2), torch.randn(3, 5)
    kept, gate = F.linear(text, block.layers[0].weight, block.layers[0].bias).chunk(2, 1)
    mean, log_variance = (kept * gate.sigmoid()).chunk(2, 1)
    torch.testing.assert_close(block(text), (mean, log_variance / 2))


def test_image_head_ends_in_tanh() -> None:
    head, x = ImageHead(3), 10 * torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(head(x), F.conv2d(x, head[0].weight, None, 1, 1).tanh())


@pytest.mark.parametrize(("size", "last"), [(8, 4), (64, 32), (128, 32), (256, 32)])
def test_the_first_layer_of_a_discriminator_has_no_batch_norm_and_all_others_have(size: int, last: int) -> None:
    network = JointDiscriminator(size, 4, 5, "batch", conditional=True)
    layers = list(network.image)
    assert isinstance(layers[0], nn.Conv2d) and isinstance(layers[1], LeakyReLU)
    assert [type(layer) for layer in layers[2:]] == [nn.Conv2d, nn.BatchNorm2d, LeakyReLU] * ((len(layers) - 2) // 3)
    assert network(torch.zeros(2, 3, size, size)).shape == (2, max(last, 4), 4, 4)


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("model", ["text-dcgan", "stackgan-v1"])
def test_the_third_layer_of_a_discriminator_is_active_where_asked(model: str, active: bool) -> None:
    """And the second is always; the fourth never is, before the bottleneck."""
    with torch.device("meta"):
        if model == "text-dcgan":
            network = Discriminator(replace(DCGAN, third_layer_activation=active))
        else:
            network = StackGANDiscriminator(STACKGAN, 64, third_layer_activation=active)
    layers = list(network.image)
    convolutions = [at for at, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    after = [isinstance(layers[at + 1 if at == 0 else at + 2], LeakyReLU) for at in convolutions[:4]]
    assert after == [True, True, active, False]


def test_batch_norm_of_captions_is_where_the_code_has_it() -> None:
    """The published discriminator normalises what it reads, the generator does not; in `tiny` both do."""
    with torch.device("meta"):
        published = Generator(DCGAN).project, Discriminator(DCGAN).text
    assert [any(isinstance(layer, nn.BatchNorm1d) for layer in part) for part in published] == [False, True]
    read = Generator(TINY).project[:2](torch.randn(64, TINY.text_encoder.text_dim) / 30).detach()
    torch.testing.assert_close(read.mean(0), torch.zeros(read.shape[1]), atol=0.2, rtol=0)
    assert read.std(0).mean() == pytest.approx(1.0, rel=0.2)
