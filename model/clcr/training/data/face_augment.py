"""Turns crops from the web into crops as a camera gives them: boxes that miss, light, blur, noise, covered faces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

SIDE_PX = 56  # of the luminance that the face network reads


@dataclass(frozen=True)
class FaceAugment:
    """How strongly to change faces; 0 switches a change off. Lengths are shares of the face's side."""

    flip_p: float = 0.5
    shift: float = 0.08  # the live box is off by so much, each way
    zoom: float = 0.18
    stretch: float = 0.06
    rotate_deg: float = 15.0
    gain: float = 0.35
    gamma: float = 0.4  # in powers of e
    slope: float = 0.5  # light from one side, in shares of the brightness
    coarse_p: float = 0.3  # few pixels: a face far away
    coarse_px: tuple[int, int] = (18, 44)
    blur_p: float = 0.2
    noise: float = 10.0  # grey levels
    jpeg_p: float = 0.15
    cover_p: float = 0.2  # a rectangle in front of the face
    cover: float = 0.35

    def __call__(self, images: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
        """(n, side, side) -> (n, 1, 56, 56) in 0..255, changed at random."""
        x = self._moved(torch.from_numpy(images).float().unsqueeze(1), rng)
        x = self._coarse(x, rng)
        rows = np.flatnonzero(rng.random(len(x)) < self.blur_p)
        x[rows] = functional.avg_pool2d(functional.pad(x[rows], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        x = self._lit(x, rng)
        self._cover(x, rng)
        sigma = torch.from_numpy(rng.uniform(0.0, self.noise, (len(x), 1, 1, 1)).astype(np.float32))
        x = x + sigma * torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
        return self._compressed(x.clamp(0.0, 255.0), rng)

    def _moved(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Another box around the same face, at the network's size."""
        n = len(x)
        angle = np.deg2rad(rng.uniform(-self.rotate_deg, self.rotate_deg, n))
        zoom = np.exp(rng.uniform(-self.zoom, self.zoom, n))
        wide = zoom * np.exp(rng.uniform(-self.stretch, self.stretch, n))
        flip = np.where(rng.random(n) < self.flip_p, -1.0, 1.0)
        theta = np.zeros((n, 2, 3), np.float32)
        theta[:, 0, 0], theta[:, 0, 1] = np.cos(angle) * wide * flip, -np.sin(angle) * zoom
        theta[:, 1, 0], theta[:, 1, 1] = np.sin(angle) * wide * flip, np.cos(angle) * zoom
        theta[:, :, 2] = 2.0 * rng.uniform(-self.shift, self.shift, (n, 2))
        grid = functional.affine_grid(torch.from_numpy(theta), [n, 1, SIDE_PX, SIDE_PX], align_corners=False)
        return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)

    def _coarse(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        rows = np.flatnonzero(rng.random(len(x)) < self.coarse_p)
        for part in np.array_split(rows, 4):  # one size for a quarter of them
            side = int(rng.integers(self.coarse_px[0], self.coarse_px[1] + 1))
            if len(part):
                small = functional.interpolate(x[part], size=(side, side), mode="bilinear", antialias=True)
                x[part] = functional.interpolate(small, size=(SIDE_PX, SIDE_PX), mode="bilinear")
        return x

    def _lit(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        n = len(x)
        gain, power, slope = (
            torch.from_numpy(values.astype(np.float32)).view(n, 1, 1, 1)
            for values in (
                np.exp(rng.uniform(-self.gain, self.gain, n)),
                np.exp(rng.uniform(-self.gamma, self.gamma, n)),
                rng.uniform(-self.slope, self.slope, n),
            )
        )
        across = torch.linspace(-1.0, 1.0, SIDE_PX).view(1, 1, 1, SIDE_PX)
        return (x / 255.0).clamp(0.0, 1.0).pow(power) * 255.0 * gain * (1.0 + slope * across)

    def _cover(self, x: Tensor, rng: np.random.Generator) -> None:
        for row in np.flatnonzero(rng.random(len(x)) < self.cover_p):
            height, width = (int(SIDE_PX * share) for share in rng.uniform(0.1, self.cover, 2))
            top, left = int(rng.integers(0, SIDE_PX - height)), int(rng.integers(0, SIDE_PX - width))
            x[row, 0, top : top + height, left : left + width] = float(rng.uniform(0.0, 255.0))

    def _compressed(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Some of the faces through JPEG, as a webcam sends them."""
        import cv2

        for row in np.flatnonzero(rng.random(len(x)) < self.jpeg_p):
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 70))]
            picture: Any = x[row, 0].round().byte().numpy()
            _, code = cv2.imencode(".jpg", picture, quality)
            x[row, 0] = torch.from_numpy(cv2.imdecode(code, cv2.IMREAD_GRAYSCALE)).float()
        return x
