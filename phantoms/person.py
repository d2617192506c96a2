"""What makes one synthetic head differ from the next, and how its points map to nominal ones. Draws no tissue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phantoms.fields import F32, Point, Waves, as_point


@dataclass(frozen=True, slots=True)
class Person:
    """What makes one head differ from the next. Lengths in mm, densities in HU."""

    scale: Point
    skew: float
    atrophy: float
    skull: float
    scalp: float
    grey: float
    white: float
    csf: float
    cortical: float
    diploe: float
    fat: float
    muscle: float
    falx: float
    sinus_blood: float
    cord: float
    rim_bright: float
    leuko: float
    air_cells: float
    frontal_sinus: float
    ventricle: tuple[float, float]
    bumps: tuple[Waves, Waves, Waves]
    thickness: Waves
    folds: Waves
    folia: Waves
    bundles: Waves
    septa: Waves
    patchy: Waves
    calcified: tuple[tuple[Point, Point, float], ...]
    infarct: tuple[Point, Point, float] | None
    scalp_blood: tuple[Point, Point, float] | None
    artery: tuple[float, float]


def draw_person(rng: np.random.Generator) -> Person:
    """Draw a person; the same generator state gives the same person."""
    size = rng.normal(1.0, 0.04)
    atrophy = float(rng.beta(1.6, 1.8))
    calcified: list[tuple[Point, Point, float]] = []

    def calcify(
        chance: float, centre: Point, radius: tuple[float, float], hu: tuple[float, float], *, both_sides: bool
    ) -> None:
        if rng.random() >= chance:
            return
        for side in (1, -1) if both_sides else (rng.choice([-1, 1]),):
            if both_sides and rng.random() < 0.2:
                continue
            c = np.array([side * centre[0], centre[1], centre[2]]) + rng.normal(0, 1.2, 3)
            axes = rng.uniform(*radius) * rng.uniform(0.6, 1.5, 3)
            calcified.append((as_point(c), as_point(axes), float(rng.uniform(*hu))))

    calcify(0.65, (0, 32, 4), (1.2, 3.0), (80, 350), both_sides=False)
    calcify(0.60, (25, 36, 13), (1.5, 4.0), (60, 300), both_sides=True)
    calcify(0.25, (20, -2, 1), (2.0, 5.5), (50, 160), both_sides=True)
    calcify(0.10, (16, 52, -38), (2.0, 5.0), (50, 140), both_sides=True)
    calcify(0.12, (12, 14, -62), (1.5, 2.5), (100, 400), both_sides=True)
    for _ in range(rng.poisson(0.5)):
        y, z = rng.uniform(-60, 60), rng.uniform(30, 62)
        calcified.append(
            ((0.0, float(y), float(z)), as_point(rng.uniform((1, 2, 2), (2.5, 8, 5))), float(rng.uniform(80, 600)))
        )
    infarct: tuple[Point, Point, float] | None = None
    if rng.random() < 0.18:
        side = rng.choice([-1, 1])
        centre = np.array([side * rng.uniform(20, 50), rng.uniform(-35, 60), rng.uniform(-5, 45)])
        infarct = (as_point(centre), as_point(rng.uniform(5, 26, 3)), float(rng.uniform(6, 22)))
    scalp_blood: tuple[Point, Point, float] | None = None
    if rng.random() < 0.12:
        turn, up = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 1.0)
        centre = np.array([79 * np.cos(turn) * np.cos(up), -2 + 97 * np.sin(turn) * np.cos(up), 3 + 84 * np.sin(up)])
        scalp_blood = (as_point(centre), as_point(rng.uniform((10, 10, 8), (26, 26, 22))), float(rng.uniform(45, 75)))
    artery = tuple(float(rng.uniform(60, 78) if rng.random() < 0.08 else rng.uniform(38, 56)) for _ in range(2))
    return Person(
        scale=as_point(size * rng.normal(1.0, (0.035, 0.035, 0.03))),
        skew=float(rng.normal(0, 0.03)),
        atrophy=atrophy,
        skull=float(rng.uniform(4.5, 9.0)),
        scalp=float(rng.uniform(3.5, 8.0)),
        grey=float(rng.normal(37, 1.5)),
        white=float(rng.normal(28.5, 1.3)),
        csf=float(rng.uniform(2, 11)),
        cortical=float(rng.uniform(1100, 1800)),
        diploe=float(rng.uniform(350, 900)),
        fat=float(rng.uniform(-110, -75)),
        muscle=float(rng.uniform(48, 64)),
        falx=float(rng.uniform(44, 68)),
        sinus_blood=float(rng.uniform(44, 68)),
        cord=float(rng.uniform(35, 55)),
        rim_bright=float(rng.uniform(0, 9)),
        leuko=float(rng.uniform(0, 10) * atrophy),
        air_cells=float(rng.uniform(-0.8, 0.8)),
        frontal_sinus=float(rng.uniform(0.0, 1.3)),
        ventricle=(
            float((0.7 + 1.0 * atrophy) * rng.uniform(0.85, 1.15)),
            float((0.7 + 1.0 * atrophy) * rng.uniform(0.85, 1.15)),
        ),
        bumps=(
            Waves.draw(rng, 4, shortest_mm=80, longest_mm=170),
            Waves.draw(rng, 4, shortest_mm=80, longest_mm=170),
            Waves.draw(rng, 4, shortest_mm=80, longest_mm=170),
        ),
        thickness=Waves.draw(rng, 6, shortest_mm=15, longest_mm=70),
        folds=Waves.draw(rng, 11, shortest_mm=17, longest_mm=27),
        folia=Waves.draw(rng, 5, shortest_mm=5, longest_mm=9, stretch=(4, 1.6, 1)),
        bundles=Waves.draw(rng, 7, shortest_mm=16, longest_mm=34, stretch=(1, 1, 5)),
        septa=Waves.draw(rng, 6, shortest_mm=5, longest_mm=10),
        patchy=Waves.draw(rng, 6, shortest_mm=12, longest_mm=45),
        calcified=tuple(calcified),
        infarct=infarct,
        scalp_blood=scalp_blood,
        artery=(artery[0], artery[1]),
    )


def nominal(person: Person, xyz: F32) -> F32:
    """Nominal coordinates of head points (3, n)."""
    q = xyz / np.asarray(person.scale, np.float32)[:, None]
    for axis in range(3):
        q[axis] += np.float32(1.4) * person.bumps[axis](xyz)
    q[0] += np.float32(person.skew) * q[1]
    return q
