"""Text encoders: sizes, losses by hand, and what every kind must keep to."""

import pytest
import torch

from t2ibench.baselines.char_cnn_rnn import CharCNNRNN, CharCNNRNNConfig, joint_embedding_loss


def test_char_cnn_rnn_sees_18_steps() -> None:
    with torch.device("meta"):
        encoder = CharCNNRNN(CharCNNRNNConfig())
        steps = encoder.convolutions(torch.zeros(1, 70, 201))
    assert steps.shape == (1, 512, 18)


def test_joint_embedding_loss_by_hand() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    text = torch.tensor([[0.5, 0.0], [0.25, 1.0]])
    # Scores [[0.5, 0.25], [0, 2]]: image->text hinges 0.75 and max(0, -1); text->image 0.5 and max(0, -0.75).
    expected = (0.75 + 0.0 + 0.5 + 0.0) / 4
    assert joint_embedding_loss(image, text, torch.eye(2, dtype=torch.bool)).item() == pytest.approx(expected)
    assert joint_embedding_loss(image, text, torch.ones(2, 2, dtype=torch.bool)).item() == 0
