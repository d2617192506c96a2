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
    lumpy: float
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
    gyri: tuple[Waves, Waves, Waves]
    warp: float
    shrink: float
    shut: float
    suture: float
    bundles: Waves
    septa: Waves
    patchy: Waves
    calcified: tuple[tuple[Point, Point, float], ...]
    infarcts: tuple[tuple[Point, Point, float], ...]
    scalp_blood: tuple[Point, Point, float] | None
    artery: tuple[float, float]


def draw_person(rng: np.random.Generator) -> Person:
    """Draw a person; the same generator state gives the same person."""
    size = rng.normal(1.0, 0.04)
    atrophy = float(rng.beta(1.6, 1.8))
    # Normal-pressure hydrocephalus now and then: wide ventricles without wide sulci.
    wide = float(-1.2 + 3.6 * atrophy + (rng.uniform(2, 5) if rng.random() < 0.06 else 0.0))
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

    calcify(0.65, (0, 30, 1), (1.2, 3.0), (80, 350), both_sides=False)
    calcify(0.60, (26, 41, 11), (1.5, 4.0), (60, 300), both_sides=True)
    calcify(0.25, (20, 2, 0), (2.0, 5.5), (50, 160), both_sides=True)
    calcify(0.10, (16, 58, -35), (2.0, 5.0), (50, 140), both_sides=True)
    calcify(0.12, (10, 28, -60), (1.5, 2.5), (100, 400), both_sides=True)
    calcify(0.20, (10, -1, -24), (1.2, 2.5), (150, 700), both_sides=True)
    if rng.random() < 0.04:
        turn = rng.uniform(0, 2 * np.pi)
        centre = np.array([60 * np.cos(turn), 16 + 78 * np.sin(turn), rng.uniform(15, 50)])
        calcified.append((as_point(centre), as_point(rng.uniform(2, 8, 3)), float(rng.uniform(90, 500))))
    for _ in range(rng.poisson(0.5)):
        y, z = rng.uniform(-50, 70), rng.uniform(40, 68)
        calcified.append(
            ((0.0, float(y), float(z)), as_point(rng.uniform((1, 2, 2), (2.5, 8, 5))), float(rng.uniform(80, 600)))
        )
    infarcts: list[tuple[Point, Point, float]] = []
    if rng.random() < 0.2:
        side = rng.choice([-1, 1])
        centre = np.array([side * rng.uniform(22, 56), rng.uniform(-40, 80), rng.uniform(-5, 50)])
        infarcts.append((as_point(centre), as_point(rng.uniform(6, 28, 3)), float(rng.uniform(6, 24))))
    if rng.random() < 0.12:
        centre = np.array([rng.choice([-1, 1]) * rng.uniform(12, 40), rng.uniform(48, 85), rng.uniform(-50, -32)])
        infarcts.append((as_point(centre), as_point(rng.uniform(4, 14, 3)), float(rng.uniform(8, 24))))
    for _ in range(rng.poisson(0.6 * atrophy)):
        centre = np.array([rng.choice([-1, 1]) * rng.uniform(9, 32), rng.uniform(-22, 22), rng.uniform(-4, 28)])
        infarcts.append((as_point(centre), as_point(rng.uniform(1.8, 4.5, 3)), float(rng.uniform(6, 20))))
    scalp_blood: tuple[Point, Point, float] | None = None
    if rng.random() < 0.12:
        turn, up = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 1.0)
        centre = np.array([78 * np.cos(turn) * np.cos(up), 14 + 99 * np.sin(turn) * np.cos(up), 8 + 83 * np.sin(up)])
        scalp_blood = (as_point(centre), as_point(rng.uniform((10, 10, 8), (26, 26, 22))), float(rng.uniform(45, 75)))
    artery = tuple(float(rng.uniform(60, 78) if rng.random() < 0.08 else rng.uniform(38, 56)) for _ in range(2))
    return Person(
        scale=as_point(size * rng.normal((0.93, 0.92, 0.92), (0.033, 0.033, 0.028))),
        skew=float(rng.normal(0, 0.03)),
        lumpy=float(rng.uniform(0.8, 2.4)),
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
        ventricle=(float(wide + rng.normal(0, 0.4)), float(wide + rng.normal(0, 0.4))),
        bumps=(
            Waves.draw(rng, 4, shortest_mm=80, longest_mm=170),
            Waves.draw(rng, 4, shortest_mm=80, longest_mm=170),
            Waves.draw(rng, 4, shortest_mm=80, longest_mm=170),
        ),
        thickness=Waves.draw(rng, 6, shortest_mm=15, longest_mm=70),
        gyri=(
            Waves.draw(rng, 4, shortest_mm=28, longest_mm=70),
            Waves.draw(rng, 4, shortest_mm=28, longest_mm=70),
            Waves.draw(rng, 4, shortest_mm=28, longest_mm=70),
        ),
        warp=float(rng.uniform(0.8, 1.9)),
        shrink=float(0.985 + 0.045 * atrophy + rng.normal(0, 0.004)),
        shut=float(0.36 - 0.26 * atrophy + rng.normal(0, 0.03)),
        suture=float(rng.uniform(300, 700)),
        bundles=Waves.draw(rng, 7, shortest_mm=16, longest_mm=34, stretch=(1, 1, 5)),
        septa=Waves.draw(rng, 6, shortest_mm=5, longest_mm=10),
        patchy=Waves.draw(rng, 6, shortest_mm=12, longest_mm=45),
        calcified=tuple(calcified),
        infarcts=tuple(infarcts),
        scalp_blood=scalp_blood,
        artery=(artery[0], artery[1]),
    )


def nominal(person: Person, xyz: F32) -> F32:
    """Nominal coordinates of head points (3, n)."""
    q = xyz / np.asarray(person.scale, np.float32)[:, None]
    for axis in range(3):
        q[axis] += np.float32(person.lumpy) * person.bumps[axis](xyz)
    q[0] += np.float32(person.skew) * q[1]
    return q
