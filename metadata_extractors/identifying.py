"""PURE: which DICOM attributes identify a person, a place or an occasion.

PS3.15 (2024b), Table E.1-1: what the Basic Application Level Confidentiality Profile removes, empties or
replaces. All that it names of names, identifiers, dates, times, free text and sequences is covered by VR,
with what it does not name but might hold the same: a column is rather marked too often than too seldom.
Bytes are marked whatever they are, for nobody can see what is in them.
"""

from __future__ import annotations

from typing import Final

_IDENTIFYING_VRS: Final = frozenset(
    {"AE", "AS", "DA", "DT", "LO", "LT", "OB", "OD", "OF", "OL", "OV", "OW"}
    | {"PN", "SH", "SQ", "ST", "TM", "UC", "UI", "UN", "UR", "UT"}
)

_HARMLESS: Final = frozenset(
    {
        "ConvolutionKernel",
        "ImplementationClassUID",
        "ImplementationVersionName",
        "Manufacturer",
        "ManufacturerModelName",
        "MediaStorageSOPClassUID",
        "PositionReferenceIndicator",
        "PulseSequenceName",
        "ReceiveCoilName",
        "ReferencedSOPClassUID",
        "SOPClassUID",
        "SequenceName",
        "SoftwareVersions",
        "TransferSyntaxUID",
        "TransmitCoilName",
    }
)
"""Of those VRs, and in no row of the table."""

_NAMED: Final = frozenset(
    {
        "InstanceOriginStatus",
        "LensSpecification",
        "OverlayData",
        "PatientSex",
        "PatientSexNeutered",
        "PatientSize",
        "PatientWeight",
        "PregnancyStatus",
        "ReasonForTheAttributeModification",
        "SmokingStatus",
    }
)
"""Of other VRs, and in the table."""


def is_identifying(keyword: str, vr: str) -> bool:
    """Whether values of the attribute may tell who, where or when. `keyword` is "" for a private one."""
    if not keyword or keyword in _NAMED or keyword.startswith("GPS"):
        return True
    return not _IDENTIFYING_VRS.isdisjoint(vr.split(" or ")) and keyword not in _HARMLESS
