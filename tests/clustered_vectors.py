"""Vectors that lie as embeddings of videos and texts do, for search at sizes nobody has embeddings of here.

Videos gather around topics of unequal sizes, spread along some directions far more than along others, off the origin;
a query is a video's vector moved far from it, elsewhere than videos lie, as texts are. `describe` compares with real
ones: of `make demo`'s 1,607 clips and as many captions, the vectors' mean has length 0.07, the neighbours 1 / 10 / 100
have cosines 0.81 / 0.64 / 0.38, and of a caption the videos 1 / 10 / 100 have 0.70 / 0.57 / 0.35.
"""

import torch
from torch.nn import functional as F


def clustered_vectors(rows: int, dim: int, queries: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, dim) videos and (queries, dim) texts, float32 of length 1."""
    generator = torch.Generator().manual_seed(seed)

    def noise(count: int) -> torch.Tensor:
        return torch.randn(count, dim, generator=generator) * spread

    spread = (1 + (torch.arange(dim) / 40) ** 2) ** -0.75
    topics = noise(max(8, rows // 200))
    sizes = torch.arange(1, len(topics) + 1) ** -0.7
    offset = 0.15 * noise(1)
    videos = torch.empty(rows, dim)
    for part in videos.split(65_536):
        of = torch.multinomial(sizes, len(part), replacement=True, generator=generator)
        part.copy_(F.normalize(topics[of] + 0.75 * noise(len(part)) + offset, dim=-1))
    targets = videos[torch.randint(rows, (queries,), generator=generator)]
    return videos, F.normalize(targets + 0.95 * F.normalize(noise(queries) + 0.5 * noise(1), dim=-1), dim=-1)


def describe(videos: torch.Tensor, queries: torch.Tensor) -> str:
    def nearest(rows: torch.Tensor, first: int) -> str:
        best = (rows @ videos.T).topk(101, dim=-1).values.mean(0)[first:]
        return " / ".join(f"{best[i]:.2f}" for i in (0, 9, 99))

    return (
        f"mean {videos.mean(0).norm():.2f}, cosines of neighbours 1 / 10 / 100: {nearest(videos[:200], 1)}, "
        f"of a query's videos: {nearest(queries[:200], 0)}"
    )
