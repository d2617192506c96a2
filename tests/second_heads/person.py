"""What differs from head to head: sizes, ages, densities, how it lies in the scanner. Draws nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Lengths in mm, densities in HU; `atrophy` 0 (young) to 1 (very old)."""

    width: float
    front: float
    back: float
    height: float
    skull: float
    scalp: float
    atrophy: float
    ventricles: float
    grey: float
    white: float
    csf: float
    vessel: float
    sinus: float
    dura: float
    muscle: float
    bone: float
    small_vessel_disease: float
    old_infarct: bool
    falx_bone: bool
    pineal: float
    plexus: float
    basal_ganglia: float
    metal: bool

    @classmethod
    def of(cls, rng: np.random.Generator) -> Person:
        """Draw one."""
        atrophy = float(rng.beta(1.4, 1.6))
        grey = float(rng.uniform(34.5, 40))
        return cls(
            width=float(rng.uniform(60, 68)),
            front=float(rng.uniform(73, 84)),
            back=float(rng.uniform(78, 91)),
            height=float(rng.uniform(68, 79)),
            skull=float(rng.uniform(3.8, 7.5)),
            scalp=float(rng.uniform(3.5, 8)),
            atrophy=atrophy,
            ventricles=float(np.clip(0.75 + 0.75 * atrophy + rng.normal(0, 0.15), 0.6, 1.9)),
            grey=grey,
            white=grey - float(rng.uniform(6.5, 10.5)),
            csf=float(rng.uniform(2, 10)),
            vessel=float(rng.uniform(38, 62)),
            sinus=float(rng.uniform(66, 82) if rng.random() < 0.15 else rng.uniform(42, 62)),
            dura=float(rng.uniform(45, 65)),
            muscle=float(rng.uniform(48, 70)),
            bone=float(rng.uniform(1050, 1600)),
            small_vessel_disease=float(atrophy * rng.uniform(0, 9)),
            old_infarct=bool(rng.random() < 0.18),
            falx_bone=bool(rng.random() < 0.12),
            pineal=float(rng.uniform(1.2, 4.0) if rng.random() < 0.6 else 0),
            plexus=float(rng.uniform(1.5, 4.5) if rng.random() < 0.55 else 0),
            basal_ganglia=float(rng.uniform(3, 7) if rng.random() < 0.2 else 0),
            metal=bool(rng.random() < 0.12),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """How the head lies: turn (3, 3) takes what is measured from the middle of the grid to the head's own axes."""

    turn: npt.NDArray[np.float64]
    middle: npt.NDArray[np.float64]
    bottom: float
    top: float

    @classmethod
    def of(cls, rng: np.random.Generator, *, height: float) -> Pose:
        """Chin up or down as scanners' tilted slices look, turned to a side, off the middle."""
        nod, roll, yaw = np.deg2rad([rng.uniform(-18, 12), rng.normal(0, 4), rng.normal(0, 6)])
        about_x = np.array([[1, 0, 0], [0, np.cos(nod), -np.sin(nod)], [0, np.sin(nod), np.cos(nod)]])
        about_y = np.array([[np.cos(roll), 0, np.sin(roll)], [0, 1, 0], [-np.sin(roll), 0, np.cos(roll)]])
        about_z = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        cut = rng.random() < 0.1  # a scan that ends below the vertex
        return cls(
            turn=about_z @ about_y @ about_x,
            middle=np.array([rng.normal(0, 5), rng.normal(2, 5), 0.0]),
            bottom=float(rng.uniform(-82, -42)),
            top=height + (float(rng.uniform(-22, -8)) if cut else float(rng.uniform(10, 24))),
        )
