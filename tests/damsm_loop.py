"""How the official code of AttnGAN scores images by words: one caption after another, as a reference."""

import torch
import torch.nn.functional as F


def loop_scores(
    regions: torch.Tensor, words: torch.Tensor, mask: torch.Tensor, gamma1: float, gamma2: float
) -> torch.Tensor:
    """Return [N, M] for regions [N, R, D] and words [M, T, D] of which mask [M, T] marks those that are there."""
    images = len(regions)
    context = regions.transpose(1, 2).contiguous()
    columns = []
    for caption, present in zip(words, mask, strict=True):
        count = int(present.sum())
        query = caption[:count].T.unsqueeze(0).contiguous().repeat(images, 1, 1)
        near = torch.bmm(context.transpose(1, 2).contiguous(), query)
        near = F.softmax(near.view(-1, count), dim=1).view(images, -1, count)
        attention = near.transpose(1, 2).contiguous().view(images * count, -1) * gamma1
        attention = F.softmax(attention, dim=1).view(images, count, -1).transpose(1, 2).contiguous()
        attended = torch.bmm(context, attention).transpose(1, 2).contiguous().view(images * count, -1)
        said = query.transpose(1, 2).contiguous().view(images * count, -1)
        cosines = F.cosine_similarity(said, attended, dim=1).view(images, count)
        columns.append((cosines * gamma2).exp().sum(1, keepdim=True).log())
    return torch.cat(columns, 1)
