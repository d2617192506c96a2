"""Diffusion weighting of single images, vendor by vendor: what is stated, what is contradicted, what is not invented."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset
from unit.series.dialect_objects import (
    AXIAL,
    BIG,
    EXPLICIT,
    IMPLICIT,
    UNIT,
    Orientation,
    geometry,
    item,
    items,
    weighting,
)

from ichor.reasons import Reason
from ichor.series.dialects.weighting import Stated, settled
from ichor.types import Diffusion
from phantoms.series.csa import csa_header

SYNTAXES = (EXPLICIT, IMPLICIT, BIG)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def standard(b: float, direction: tuple[float, ...] | None = None, directionality: str | None = None) -> Dataset:
    ds = Dataset()
    ds.DiffusionBValue = b
    if direction is not None:
        ds.DiffusionGradientOrientation = list(direction)
    if directionality is not None:
        ds.DiffusionDirectionality = directionality
    return ds


def siemens(b: int, direction: tuple[float, ...] | None, matrix: tuple[float, ...] | None = None) -> Dataset:
    ds = Dataset()
    block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", b)
    block.add_new(0x0D, "CS", "DIRECTIONAL" if direction else "NONE")
    if direction:
        block.add_new(0x0E, "FD", list(direction))
    if matrix:
        block.add_new(0x27, "FD", list(matrix))
    return ds


def with_csa(ds: Dataset, b: int, direction: tuple[float, ...]) -> Dataset:
    elements = [("B_value", "IS", [str(b)]), ("DiffusionGradientDirection", "FD", [f"{v:.8f}" for v in direction])]
    ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", csa_header(elements))
    return ds


def philips(b: float, direction: tuple[float, ...]) -> Dataset:
    ds = Dataset()
    ds.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x03, "FL", b)
    block = ds.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
    for low, value in zip((0xB0, 0xB1, 0xB2), direction, strict=True):
        block.add_new(low, "FL", value)
    return ds


def ge(b: int, logical: tuple[float, ...], encoding: str | None = "COL", directions: float = 6) -> Dataset:
    ds = Dataset()
    block = ds.private_block(0x0019, "GEMS_ACQU_01", create=True)
    for low, value in zip((0xBB, 0xBC, 0xBD), logical, strict=True):
        block.add_new(low, "DS", f"{value:.6f}")
    block.add_new(0xE0, "DS", str(directions))
    ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x39, "IS", [b, 8, 0, 0])
    if encoding:
        ds.InPlanePhaseEncodingDirection = encoding
    return ds


def uih(b: float, components: tuple[float, ...]) -> Dataset:
    ds = Dataset()
    block = ds.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(0x09, "FD", b)
    block.add_new(0x37, "FD", list(components))
    return ds


def points(found: Diffusion | None, direction: tuple[float, ...]) -> None:
    assert found is not None
    assert found.problem is None
    assert found.direction_lps == pytest.approx(direction, abs=1e-6)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_standard_attributes_are_read_in_every_encoding(syntax: str) -> None:
    found = weighting(standard(800.0, UNIT), "CANON_MEC", syntax=syntax)
    points(found, UNIT)
    assert found is not None
    assert (found.b_value, found.source) == (800.0, "(0018,9087)")


def test_a_diffusion_sequence_wins_over_attributes_beside_it() -> None:
    ds = standard(5000.0)
    direction = item(DiffusionGradientOrientation=list(UNIT))
    ds.MRDiffusionSequence = items(
        item(
            DiffusionBValue=700.0, DiffusionDirectionality="DIRECTIONAL",
            DiffusionGradientDirectionSequence=items(direction),
        )
    )  # fmt: skip
    found = weighting(ds, None)
    points(found, UNIT)
    assert found is not None
    assert found.b_value == 700.0


def test_a_weighted_image_is_isotropic_only_where_that_is_said() -> None:
    said, silent = weighting(standard(1000.0, None, "ISOTROPIC"), "X"), weighting(standard(1000.0), "X")
    assert said is not None
    assert silent is not None
    assert (said.isotropic, said.direction_lps, said.problem) == (True, None, None)
    assert (silent.isotropic, silent.direction_lps, silent.problem) == (False, None, None)


@pytest.mark.parametrize("b", [0.0, 5.0])
def test_an_image_without_weighting_has_no_direction(b: float) -> None:
    assert weighting(standard(b, UNIT), "X") == Diffusion(b_value=b, source="(0018,9087)")


@pytest.mark.parametrize("b", [-1.0, 1e6, float("inf")])
def test_a_b_value_out_of_range_is_never_used(b: float) -> None:
    found = weighting(standard(b, UNIT), "X")
    assert found is None or (found.problem == Reason.DIFFUSION_INVALID and found.direction_lps is None)


def test_a_direction_that_is_no_unit_vector_is_a_problem_and_a_rounded_one_stays_as_stated() -> None:
    long = weighting(standard(1000.0, (0.36, 0.48, 0.83)), "X")
    assert long is not None
    assert (long.problem, long.direction_lps) == (Reason.DIFFUSION_INVALID, None)
    points(weighting(standard(1000.0, (0.0, 0.0, 1.005)), "X"), (0.0, 0.0, 1.005))
    points(weighting(ge(1000, (0.0, 0.0, 1.005)), "GE MEDICAL SYSTEMS"), (0.0, 0.0, 1.005))


def test_nothing_is_read_where_nothing_is_stated() -> None:
    assert weighting(Dataset(), "SIEMENS") is None
    assert weighting(Dataset(), None) is None


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_siemens_private_attributes_and_csa_agree(syntax: str) -> None:
    x, y, z = UNIT
    matrix = tuple(1000 * v for v in (x * x, x * y, x * z, y * y, y * z, z * z))
    found = weighting(with_csa(siemens(1000, UNIT, matrix), 1000, UNIT), "SIEMENS", syntax=syntax)
    points(found, UNIT)
    assert found is not None
    assert (found.b_value, found.source) == (1000.0, "(0019,100C)+CSA")


@pytest.mark.parametrize(
    "ds",
    [
        with_csa(siemens(1000, UNIT), 700, UNIT),
        with_csa(siemens(1000, UNIT), 1000, (-0.36, 0.48, 0.8)),
        siemens(1000, UNIT, (1000.0, 0.0, 0.0, 0.0, 0.0, 0.0)),
        siemens(1000, UNIT, (130.0, -173.0, 288.0, 230.0, -384.0, 640.0)),
    ],
    ids=["b-values", "directions", "matrix-along-another-axis", "matrix-mirrored"],
)
def test_siemens_attributes_that_contradict_each_other_are_named(ds: Dataset) -> None:
    found = weighting(ds, "Siemens Healthineers")
    assert found is not None
    assert (found.problem, found.direction_lps) == (Reason.DIFFUSION_CONTRADICTS, None)


def test_impossible_directions_of_old_siemens_images_without_weighting_are_none() -> None:
    assert weighting(siemens(0, (-1.001, -1.001, -1.001)), "SIEMENS") == Diffusion(b_value=0.0, source="(0019,100C)")


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_philips_says_isotropic_by_a_zero_vector(syntax: str) -> None:
    directed = weighting(philips(1000.0, UNIT), "Philips Medical Systems", syntax=syntax)
    points(directed, UNIT)
    trace = weighting(philips(1000.0, (0, 0, 0)), "Philips Medical Systems", syntax=syntax)
    assert trace == Diffusion(b_value=1000.0, isotropic=True, source="(2001,1003)")
    assert weighting(philips(0.0, (0, 0, 0)), "Philips Medical Systems", syntax=syntax) == Diffusion(
        b_value=0.0, source="(2001,1003)"
    )


def test_philips_zero_vector_beside_a_public_direction_says_nothing_but_another_vector_contradicts() -> None:
    empty, other = philips(1000.0, (0, 0, 0)), philips(1000.0, (0.0, 0.0, 1.0))
    for ds in (empty, other):
        ds.update(standard(1000.0, UNIT, "DIRECTIONAL"))
    points(weighting(empty, "Philips Medical Systems"), UNIT)
    found = weighting(other, "Philips Medical Systems")
    assert found is not None
    assert found.problem == Reason.DIFFUSION_CONTRADICTS


# Frequency, phase and slice component 0.36, 0.48, 0.8, as dcm2niix v1.0.20220720 places them in patient coordinates.
@pytest.mark.parametrize(
    ("orientation", "encoding", "expected"),
    [
        (AXIAL, "COL", (-0.36, -0.48, 0.8)),
        (AXIAL, "ROW", (-0.48, 0.36, 0.8)),
        (CORONAL, "COL", (-0.36, 0.8, -0.48)),
        (CORONAL, "ROW", (-0.48, 0.8, 0.36)),
        (SAGITTAL, "COL", (0.8, 0.36, -0.48)),
        (SAGITTAL, "ROW", (0.8, 0.48, 0.36)),
    ],
)
def test_ge_gradients_are_turned_from_frequency_phase_and_slice(
    orientation: Orientation, encoding: str, expected: tuple[float, ...]
) -> None:
    plane = geometry(orientation=orientation)
    points(weighting(ge(1000, UNIT, encoding), "GE MEDICAL SYSTEMS", plane=plane), expected)


def test_ge_b_values_lose_their_mark() -> None:
    found = weighting(ge(1_000_000_750, UNIT), "GE MEDICAL SYSTEMS")
    assert found is not None
    assert found.b_value == 750.0


def test_ge_vectors_shorter_than_one_scale_b() -> None:
    half = 0.5**0.5
    found = weighting(ge(3000, (0.0, 0.0, half)), "GE MEDICAL SYSTEMS")
    points(found, (0.0, 0.0, 1.0))
    assert found is not None
    assert found.b_value == 1500.0


@pytest.mark.parametrize("encoding", ["COL", None])
def test_a_ge_vector_longer_than_one_is_a_problem_and_scales_nothing(encoding: str | None) -> None:
    found = weighting(ge(1000, (0.0, 0.0, 1.5), encoding), "GE MEDICAL SYSTEMS")
    assert found == Diffusion(b_value=1000.0, source="(0043,1039)", problem=Reason.DIFFUSION_INVALID)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_ge_component_that_is_no_decimal_is_not_read_as_another_kind_of_number(syntax: str) -> None:
    ds = ge(1000, UNIT)
    ds[0x0019, 0x10BB]._value = "0x10"  # four letters that are a float, too
    found = weighting(ds, "GE MEDICAL SYSTEMS", syntax=syntax)
    assert found == Diffusion(b_value=1000.0, source="(0043,1039)")


def test_ge_zero_vector_is_an_image_without_weighting_but_in_scans_without_directions() -> None:
    directed, undirected = ge(1000, (0, 0, 0)), ge(1000, (0, 0, 0), directions=0)
    assert weighting(directed, "GE MEDICAL SYSTEMS") == Diffusion(b_value=0.0, source="(0043,1039)")
    assert weighting(undirected, "GE MEDICAL SYSTEMS") == Diffusion(b_value=1000.0, source="(0043,1039)")


def test_ge_direction_is_not_guessed_without_phase_encoding_or_orientation() -> None:
    unknown = weighting(ge(1000, UNIT, None), "GE MEDICAL SYSTEMS")
    assert unknown == Diffusion(b_value=1000.0, source="(0043,1039)")
    assert weighting(ge(1000, UNIT), "GE MEDICAL SYSTEMS", plane=geometry(orientation=None)) == unknown


def test_uih_directions_are_turned_from_the_image_plane() -> None:
    plane = geometry(orientation=SAGITTAL)
    # Row is +y, column is -z, their cross product is -x.
    points(weighting(uih(929.75, UNIT), "UIH", plane=plane), (-0.8, 0.36, -0.48))


def test_canon_comments_count_only_where_no_attribute_has_the_direction() -> None:
    ds = standard(1500.0)
    ds.ImageComments, ds.InPlanePhaseEncodingDirection = "b=1500(0.360,0.480,0.800)", "COL"
    points(weighting(ds, "CANON_MEC"), (-0.36, -0.48, 0.8))
    ds.DiffusionGradientOrientation = [0.0, 0.0, 1.0]
    points(weighting(ds, "CANON_MEC"), (0.0, 0.0, 1.0))
    other = standard(1500.0)
    other.ImageComments, other.InPlanePhaseEncodingDirection = "seen b=1500(0.360,0.480,0.800)", "COL"
    found = weighting(other, "CANON_MEC")
    assert found is not None
    assert found.direction_lps is None


def test_what_one_source_leaves_open_another_fills() -> None:
    found = settled([Stated(source="a", b_value=900.0), Stated(source="b", b_value=900.4, direction_lps=UNIT)])
    points(found, UNIT)
    assert found is not None
    assert (found.b_value, found.source) == (900.0, "a+b")


def test_a_direction_and_isotropic_contradict() -> None:
    found = settled([Stated(source="a", b_value=900.0, direction_lps=UNIT), Stated(source="b", isotropic=True)])
    assert found is not None
    assert found.problem == Reason.DIFFUSION_CONTRADICTS
