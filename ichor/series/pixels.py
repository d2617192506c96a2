"""Where the pixels of a stored object lie, how to read them, and what is wrong with them. Decodes none."""

from __future__ import annotations

from ichor.reasons import Reason
from ichor.series.header import FLOAT_PIXELS, Header
from ichor.series.image_plane import COLUMNS, ROWS
from ichor.series.rescale import INTERCEPT, MAPPINGS, SLOPE, real_world_mapping
from ichor.series.values import Values
from ichor.types import Pixels

DEFLATED = "1.2.840.10008.1.2.1.99"

_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", _BIG_ENDIAN, DEFLATED})
# Lossless by definition (PS3.5 annex A.4); the general JPEG-LS, JPEG 2000 and HTJ2K syntaxes may be lossy, and are so
# for certain only when the header says it (0028,2110).
_LOSSLESS = frozenset(
    {
        "1.2.840.10008.1.2.4.57",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.4.201",
        "1.2.840.10008.1.2.4.202",
        "1.2.840.10008.1.2.5",
    }
)
# Of the syntaxes that leave it open, JPEG-LS near-lossless, J2K and HTJ2K: a header that states "00" is believed.
_MAY_BE_LOSSLESS = frozenset({"1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203"})

SAMPLES, PHOTOMETRIC, FRAMES = 0x00280002, 0x00280004, 0x00280008
ALLOCATED, STORED, REPRESENTATION, LOSSY = 0x00280100, 0x00280101, 0x00280103, 0x00282110
HIGH_BIT, MODALITY_LUT = 0x00280102, 0x00283000
WANTED = frozenset(
    {
        SAMPLES, PHOTOMETRIC, FRAMES, ROWS, COLUMNS, ALLOCATED, STORED, HIGH_BIT, REPRESENTATION, LOSSY, SLOPE,
        INTERCEPT, MAPPINGS, MODALITY_LUT,
    }
)  # fmt: skip


def read_pixels(
    header: Header, values: Values, *, transfer_syntax_uid: str, expected: bool, ct: bool
) -> tuple[Pixels | None, str | None, str | None]:
    """Where the pixels lie, what is wrong with them, and the unit of a real-world value mapping that was taken.

    Parameters
    ----------
    header, values
        The walked header and its values.
    transfer_syntax_uid
        Of the stored object.
    expected
        Whether an object of this class has pixels.
    ct
        Whether it is an image of a CT.
    """
    if header.pixel_offset is None:
        if header.cut:
            return None, Reason.CUT_SHORT, None
        return None, Reason.NO_PIXELS if expected else None, None
    if header.pixel_tag in FLOAT_PIXELS:
        return None, Reason.UNSUPPORTED_PIXELS, None
    rows, columns, allocated = values.unsigned(ROWS), values.unsigned(COLUMNS), values.unsigned(ALLOCATED)
    if not rows or not columns or not allocated:
        return None, Reason.HEADER_UNREADABLE, None
    bits = values.unsigned(STORED) or allocated
    frames = values.integer(FRAMES) or 1
    samples = values.unsigned(SAMPLES) or 1
    signed = values.unsigned(REPRESENTATION) == 1
    slope, intercept = values.decimal(SLOPE), values.decimal(INTERCEPT)
    bits_fit = 1 <= bits <= allocated
    mapping = None
    if bits_fit and bits <= 16:
        mapping = real_world_mapping(values, bits_stored=bits, signed=signed, ct=ct)
    present = header.size - header.pixel_offset
    pixels = Pixels(
        offset=header.pixel_offset,
        length=min(header.pixel_length or present, present),
        encapsulated=header.encapsulated,
        lossy=_is_lossy(values, transfer_syntax_uid),
        frames=frames,
        samples_per_pixel=samples,
        photometric=(values.text(PHOTOMETRIC) or "")[:16],
        bits_allocated=allocated,
        bits_stored=bits,
        signed=signed,
        rescale_slope=mapping.slope if mapping else 1.0 if slope is None else slope,
        rescale_intercept=mapping.intercept if mapping else 0.0 if intercept is None else intercept,
    )
    unit = mapping.unit if mapping else None
    native = transfer_syntax_uid in _NATIVE
    if header.cut or header.pixel_length > present:
        return pixels, Reason.CUT_SHORT, unit
    if header.encapsulated == native or frames < 1 or not pixels.rescale_slope or not bits_fit:
        return pixels, Reason.HEADER_UNREADABLE, unit
    if not header.encapsulated and pixels.length < (rows * columns * samples * frames * allocated + 7) // 8:
        return pixels, Reason.PIXELS_SHORT, unit
    # Every frame has a fragment of its own, and that an item's head (PS3.5 annex A.4).
    if header.encapsulated and pixels.length < 8 * frames:
        return pixels, Reason.PIXELS_SHORT, unit
    if pixels.lossy:
        return pixels, Reason.LOSSY, unit
    if samples != 1 or allocated not in (8, 16, 32) or not pixels.photometric.startswith("MONOCHROME"):
        return pixels, Reason.UNSUPPORTED_PIXELS, unit
    # Any other place of the stored bits is retired (PS3.5 section 8.1.1).
    if values.unsigned(HIGH_BIT) not in (None, bits - 1):
        return pixels, Reason.UNSUPPORTED_PIXELS, unit
    if values.raw(MODALITY_LUT):
        return pixels, Reason.MODALITY_LUT, unit
    return pixels, None, unit


def _is_lossy(values: Values, transfer_syntax_uid: str) -> bool:
    stated = values.text(LOSSY)
    if stated == "01":
        return True
    if transfer_syntax_uid in _NATIVE or transfer_syntax_uid in _LOSSLESS:
        return False
    return not (transfer_syntax_uid in _MAY_BE_LOSSLESS and stated == "00")
