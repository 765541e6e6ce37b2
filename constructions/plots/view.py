"""Looking at S^2 from far away: orthographic projection of the near hemisphere onto a disc."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

__all__ = ["DEFAULT", "View"]

DEFAULT = (30.0, 20.0)
"""Longitude and latitude that pictures are seen from: the three positive axes are in front."""


@dataclass(frozen=True, eq=False)
class View:
    """An orthonormal frame: the direction the sphere is seen from, and those of the picture's right and upward sides."""

    front: Float[np.ndarray, 3]
    right: Float[np.ndarray, 3]
    up: Float[np.ndarray, 3]

    @staticmethod
    def towards(longitude: float, latitude: float) -> View:
        """Seen from above the point of that longitude and latitude, in degrees, the third axis upward. Raises ValueError."""
        if not (np.isfinite(longitude) and abs(latitude) <= 90):
            raise ValueError(
                f"view = {(longitude, latitude)!r}, expected a finite longitude and a latitude from -90 to 90, in degrees"
            )
        a, b = np.radians([longitude, latitude])
        front = np.array([np.cos(a) * np.cos(b), np.sin(a) * np.cos(b), np.sin(b)])
        right = np.array([-np.sin(a), np.cos(a), 0.0])
        return View(front, right, np.cross(front, right))

    def opposite(self) -> View:
        """From the other side, walking round the vertical: what leaves one disc at its right rim enters the other at its left."""
        return View(-self.front, -self.right, self.up)

    def points(self, u: Float[np.ndarray, " p"], v: Float[np.ndarray, " p"]) -> Float[np.ndarray, "p 3"]:
        """The points of the near hemisphere seen at (u, v); a place beyond the rim stands for the nearest one on it."""
        beyond = np.maximum(np.hypot(u, v), 1.0)
        u, v = u / beyond, v / beyond
        depth = np.sqrt(np.maximum(1 - u**2 - v**2, 0.0))
        found = u[:, None] * self.right + v[:, None] * self.up + depth[:, None] * self.front
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def project(
        self, points: Float[np.ndarray, "*batch 3"]
    ) -> tuple[Float[np.ndarray, "*batch 2"], Float[np.ndarray, "*batch"]]:
        """Places in the picture, and depths: a point is seen if its depth is not negative."""
        return np.stack([points @ self.right, points @ self.up], axis=-1), points @ self.front
