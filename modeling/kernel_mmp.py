"""An RBF kernel map of video features, an option beyond the paper: how similar a second is to each of some clips."""

import torch
from torch import nn

from .configuration_mmp import MMPConfig
from .errors_mmp import PolyvidError


class MMPKernelMap(nn.Module):
    """Nyström features (Williams & Seeger 2001) of the kernel k(a, b) = exp(-γ‖a - b‖²).

    φ(x) = K^(-1/2) k(x, landmarks), where K is the kernel between the landmarks. So φ(a)·φ(b) = k(a, b) wherever one of
    the two is a landmark, and a linear map of φ is kernel regression.

    The landmarks are features of training clips. They are buffers: saved with the model, never trained. Not part of
    §3.1, which maps features linearly.
    """

    landmarks: torch.Tensor
    whitening: torch.Tensor
    gamma: torch.Tensor

    SMALLEST_EIGENVALUE = 1e-5  # of K, whose diagonal is 1

    def __init__(self, config: MMPConfig):
        super().__init__()
        size, width = config.video_kernel_size or 0, config.video_feature_dim
        self.register_buffer("landmarks", torch.zeros(size, width))
        self.register_buffer("whitening", torch.eye(size))
        self.register_buffer("gamma", torch.ones(()))

    @torch.no_grad()
    def fit(self, points: torch.Tensor) -> None:
        """Makes `points` (video_kernel_size, video_feature_dim) the landmarks; γ = 2 / their median squared distance.

        Raises:
            PolyvidError: for another number or width of points, or if half of them are the same.
        """
        if points.shape != self.landmarks.shape:
            raise PolyvidError(
                f"The kernel map needs landmarks of shape {tuple(self.landmarks.shape)}, got {tuple(points.shape)}."
            )
        exact = points.double()
        distances = torch.pdist(exact) ** 2
        median = distances.median() if len(distances) else exact.new_ones(())
        if not median > 0:
            raise PolyvidError("Most landmarks of the kernel map are the same point: choose clips that differ.")
        gamma = 2 / median
        kernel = torch.exp(-gamma * torch.cdist(exact, exact) ** 2)
        eigenvalues, directions = torch.linalg.eigh(kernel)
        scales = eigenvalues.clamp(min=self.SMALLEST_EIGENVALUE) ** -0.5
        self.landmarks.copy_(points)
        self.whitening.copy_((directions * scales) @ directions.T)
        self.gamma.copy_(gamma)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(..., video_feature_dim) -> (..., video_kernel_size)."""
        # Not `cdist`: this way it is matrix products alone, for which every backend and exporter has a kernel.
        squares = features.square().sum(-1, keepdim=True) + self.landmarks.square().sum(-1)
        distances = (squares - 2 * features @ self.landmarks.T).clamp(min=0)
        return torch.exp(-self.gamma * distances) @ self.whitening


__all__ = ["MMPKernelMap"]
